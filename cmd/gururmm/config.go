package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"gururmm/internal/fileerr"
	"gururmm/release"
	"gururmm/server"
	"gururmm/wire"
)

// serveConfig is what `gururmm serve` was told: flags before GURURMM_*
// variables before the file before defaults.
type serveConfig struct {
	server    server.Config
	logLevel  string
	readyFile string
	// databaseURLFile holds what server.DatabaseURL is to be.
	databaseURLFile string
	// clusterURLFile holds what server.ClusterURL is to be.
	clusterURLFile string
	// configFile is where settings came from, policyFile the policy; "": from no file.
	configFile, policyFile string
	releaseKeyFiles        []string
}

// files are all that the configuration is read from, by what names them.
func (c serveConfig) files() map[string]string {
	all := map[string]string{"config": c.configFile, "policy": c.policyFile, "cert": c.server.CertFile, "key": c.server.KeyFile,
		"admin_token_file": c.server.AdminTokenFile, "database_url_file": c.databaseURLFile,
		"cluster_url_file": c.clusterURLFile, "cluster_creds": c.server.ClusterCreds, "cluster_ca": c.server.ClusterCA}
	for i, path := range c.releaseKeyFiles {
		all[fmt.Sprintf("release_key-%d", i+1)] = path
	}
	maps.DeleteFunc(all, func(_, path string) bool { return path == "" })
	return all
}

// setting is one key of the configuration: `key` in the file, GURURMM_KEY in
// the environment, --key (with dashes) as a flag.
type setting struct {
	key, standard, usage string
	set                  func(c *serveConfig, value string) error
}

// lists are the settings that take several values: comma-separated, a list in the
// file, the flag repeated.
var lists = []string{"oob_url", "trusted_proxy", "proxy_protocol", "release_key"}

func (s setting) flag() string { return strings.ReplaceAll(s.key, "_", "-") }
func (s setting) env() string  { return "GURURMM_" + strings.ToUpper(s.key) }

// to makes a setting's set of a plain field.
func to(field func(*serveConfig) *string) func(*serveConfig, string) error {
	return func(c *serveConfig, v string) error {
		*field(c) = v
		return nil
	}
}

// toList makes a setting's set of a list.
func toList(field func(*serveConfig) *[]string) func(*serveConfig, string) error {
	return func(c *serveConfig, v string) error {
		*field(c) = nil
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*field(c) = append(*field(c), part)
			}
		}
		return nil
	}
}

var settings = []setting{
	{"listen", server.DefaultListen, "address of the main listener: links, enrollment, operators", to(func(c *serveConfig) *string { return &c.server.ListenAddr })},
	{"oob_listen", server.DefaultOOB, "address of the second door's listener", to(func(c *serveConfig) *string { return &c.server.OOBAddr })},
	{"public_url", "", "https:// URL of the main listener as endpoints reach it (default: as listened on); where a proxy ends TLS, add =ca or =sha256/… of its key", to(func(c *serveConfig) *string { return &c.server.PublicURL })},
	{"oob_url", "", "https:// URL of the second door as endpoints reach it (default: as listened on); where a proxy ends TLS, add =ca or =sha256/…; may be repeated, the first is preferred", toList(func(c *serveConfig) *[]string { return &c.server.OOBURLs })},
	{"state_dir", defaultStateDir(), "directory of keys and database, private to this account", to(func(c *serveConfig) *string { return &c.server.StateDir })},
	{"database_url", "", "PostgreSQL to keep the database in, as postgres://user@host/name; one with a password: by the variable or the file (default: SQLite in state-dir)", to(func(c *serveConfig) *string { return &c.server.DatabaseURL })},
	{"database_url_file", "", "private file with such a URL, with its password", to(func(c *serveConfig) *string { return &c.databaseURLFile })},
	{"cluster_url", "", "NATS by which several nodes on one PostgreSQL wake each other, as nats://host:4222 or tls://…, several with commas; with a secret in it: by the variable or the file (default: one node alone)", to(func(c *serveConfig) *string { return &c.server.ClusterURL })},
	{"cluster_url_file", "", "private file with such URLs", to(func(c *serveConfig) *string { return &c.clusterURLFile })},
	{"cluster_creds", "", "file of NATS credentials (nsc's .creds)", to(func(c *serveConfig) *string { return &c.server.ClusterCreds })},
	{"cluster_ca", "", "roots that NATS's certificate is checked by, PEM (default: the system's)", to(func(c *serveConfig) *string { return &c.server.ClusterCA })},
	{"node_name", "", "what people call this node of several (default: the host's name)", to(func(c *serveConfig) *string { return &c.server.NodeName })},
	{"shared_dir", "", "directory of programs and support bundles that all nodes have; needed with cluster-url", to(func(c *serveConfig) *string { return &c.server.SharedDir })},
	{"cert", "", "certificate chain of the main listener, PEM (default: self-signed)", to(func(c *serveConfig) *string { return &c.server.CertFile })},
	{"key", "", "its key, PEM", to(func(c *serveConfig) *string { return &c.server.KeyFile })},
	{"trusted_proxy", "", "addresses (CIDR, comma-separated) that name the client, in X-Forwarded-For or as proxy-protocol says; without cert and that: plain HTTP on loopback", setProxies},
	{"proxy_protocol", "", "listeners (main, oob) to which trusted proxies pass TLS through with the PROXY protocol; may be repeated", toList(func(c *serveConfig) *[]string { return &c.server.ProxyProtocol })},
	{"admin_listen", "", "address for health, metrics and profiles, as 127.0.0.1:9464 (default: none); not loopback: TLS, and admin-token-file", to(func(c *serveConfig) *string { return &c.server.AdminAddr })},
	{"admin_token_file", "", "file with the token that metrics and profiles ask for", to(func(c *serveConfig) *string { return &c.server.AdminTokenFile })},
	{"policy", "", "file with the policy of endpoints, YAML or JSON (in the configuration file also inline)", setPolicyFile},
	{"release_key", "", "public key (RW…, or its file) that updates must be signed with; may be repeated (default: no updates)", setReleaseKeys},
	{"keep_commands", "90d", "keep commands with their output, jobs and orders so long after their end, as 90d or 36h; 0: for ever", setKeep},
	{"fleet_recovery", "spread", "while many agents come to one verdict at once: spread their recovery, hold it, or as-usual", to(func(c *serveConfig) *string { return &c.server.FleetRecovery })},
	{"agent_frames", perSecond(defaults.AgentFrames), "texts and pings that one agent may send in a second, ten times that at once; more is read later; 0: any number", toRate(func(c *serveConfig) *float64 { return &c.server.Limits.AgentFrames })},
	{"agent_bytes", perSecond(defaults.AgentBytes), "the same in bytes", toRate(func(c *serveConfig) *float64 { return &c.server.Limits.AgentBytes })},
	{"agent_requests", perSecond(defaults.AgentRequests), "requests that one agent may make in a second, ten times that at once; more is answered 429; 0: any number", toRate(func(c *serveConfig) *float64 { return &c.server.Limits.AgentRequests })},
	{"operator_requests", perSecond(defaults.Operator), "the same of one operator token", toRate(func(c *serveConfig) *float64 { return &c.server.Limits.Operator })},
	{"first_tokens", "print", "what the first start does about tokens: print them, or none (for a service, whose output a log keeps; then: gururmm operator-token)", setFirstTokens},
	{"log_level", "info", "debug, info, warn or error", to(func(c *serveConfig) *string { return &c.logLevel })},
	{"ready_file", "", "write URLs, pin and first tokens here as JSON once listening (mode 0600)", to(func(c *serveConfig) *string { return &c.readyFile })},
}

// defaultStateDir is the system's place for root, else the user's own.
func defaultStateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/gururmm"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "" // then it must be given
	}
	return filepath.Join(home, ".local", "share", "gururmm")
}

var defaults = server.DefaultLimits()

func perSecond(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// toRate reads how many in a second; 0 is any number.
func toRate(field func(*serveConfig) *float64) func(*serveConfig, string) error {
	return func(c *serveConfig, v string) error {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || n < 0 || n > maxRate || n != 0 && n < 1 {
			return fmt.Errorf("%q: want how many in a second, at least 1, or 0 for any number", v)
		}
		if n == 0 {
			n = -1
		}
		*field(c) = n
		return nil
	}
}

// maxRate is what ten seconds of fit into an int everywhere.
const maxRate = 100e6

// setKeep reads a time in days (90d) or as Go writes it (36h); 0 is for ever.
func setKeep(c *serveConfig, v string) error {
	var d time.Duration
	var err error
	if days, ok := strings.CutSuffix(v, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); n > maxDays {
			err = strconv.ErrRange
		}
		d = time.Duration(n) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(v)
	}
	switch {
	case err != nil || d < 0:
		return fmt.Errorf("%q: want days (90d) or hours (36h), or 0 for ever", v)
	case d == 0:
		d = -1
	case d < 24*time.Hour:
		return fmt.Errorf("%q is too short: at least 24h, or 0 for ever", v)
	}
	c.server.KeepCommands = d
	return nil
}

// maxDays is what a time.Duration holds.
const maxDays = 100_000

func setProxies(c *serveConfig, v string) error {
	c.server.TrustedProxies = nil
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			addr, aerr := netip.ParseAddr(part)
			if aerr != nil {
				return fmt.Errorf("%q is neither an address nor a CIDR", part)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		c.server.TrustedProxies = append(c.server.TrustedProxies, p.Masked())
	}
	return nil
}

func setFirstTokens(c *serveConfig, v string) error {
	if v != "print" && v != "none" {
		return fmt.Errorf("%q is neither print nor none", v)
	}
	c.server.NoFirstTokens = v == "none"
	return nil
}

// setReleaseKeys takes keys as they are ("RW…") or files that hold one each.
func setReleaseKeys(c *serveConfig, v string) error {
	c.server.ReleaseKeys, c.releaseKeyFiles = nil, nil
	for part := range strings.SplitSeq(v, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		k, err := release.ParseKey(part)
		if err != nil {
			raw, failed := readBounded(part)
			if failed != nil {
				return fmt.Errorf("%q is neither a public key (RW…) nor a file with one: %w", part, failed)
			}
			if k, err = release.ParseKey(string(raw)); err != nil {
				return fmt.Errorf("%s: %w", part, err)
			}
			c.releaseKeyFiles = append(c.releaseKeyFiles, part)
		}
		c.server.ReleaseKeys = append(c.server.ReleaseKeys, k.String())
	}
	return nil
}

// maxConfig bounds a configuration file in bytes.
const maxConfig = 1 << 20

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileerr.Why(err)
	}
	if info.Size() > maxConfig {
		return nil, fmt.Errorf("%s: larger than 1 MiB", path)
	}
	raw, err := os.ReadFile(path)
	return raw, fileerr.Why(err)
}

func setPolicyFile(c *serveConfig, path string) error {
	if path == "" {
		return nil
	}
	c.policyFile = path
	raw, err := readBounded(path)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(node.Content) == 0 {
		return fmt.Errorf("%s: is empty", path)
	}
	if err := setPolicy(c, node.Content[0]); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// setPolicy reads a policy by its JSON names; one that is not known is refused.
func setPolicy(c *serveConfig, node *yaml.Node) error {
	var v map[string]any
	if err := node.Decode(&v); err != nil {
		return err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var p wire.Policy
	if err := dec.Decode(&p); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	c.server.Policy = p
	return nil
}

// applyFile takes the configuration file's keys, and refuses those it does not know by name.
func (c *serveConfig) applyFile(path string) error {
	raw, err := readBounded(path)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(doc.Content) == 0 {
		return nil // empty: all defaults
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("%s: want `key: value` lines", path)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		at := fmt.Sprintf("%s:%d", path, key.Line)
		n := slices.IndexFunc(settings, func(s setting) bool { return s.key == key.Value })
		if n < 0 {
			return fmt.Errorf("%s: unknown key %q; known are %s", at, key.Value, strings.Join(keys(), ", "))
		}
		if seen[key.Value] {
			return fmt.Errorf("%s: %s is given twice", at, key.Value)
		}
		seen[key.Value] = true
		if err := c.applyNode(settings[n], value); err != nil {
			return fmt.Errorf("%s: %s: %w", at, key.Value, err)
		}
	}
	return nil
}

func (c *serveConfig) applyNode(s setting, value *yaml.Node) error {
	switch {
	case s.key == "policy" && value.Kind == yaml.MappingNode:
		return setPolicy(c, value)
	case value.Kind == yaml.SequenceNode && slices.Contains(lists, s.key):
		var list []string
		if err := value.Decode(&list); err != nil {
			return err
		}
		return s.set(c, strings.Join(list, ","))
	case value.Kind != yaml.ScalarNode:
		return errors.New("want one value")
	}
	return s.set(c, value.Value)
}

func keys() []string {
	out := make([]string, len(settings))
	for i, s := range settings {
		out[i] = s.key
	}
	return out
}

// otherVariables are GURURMM_* variables that are not the server's settings:
// the file's place, the client's, those of tests' builds, and a job's own.
var otherVariables = []string{"GURURMM_CONFIG", "GURURMM_URL", "GURURMM_TOKEN", "GURURMM_PIN", "GURURMM_CA",
	"GURURMM_FAULTS", "GURURMM_CLOCK_OFFSET", "GURURMM_BOOT_ID", "GURURMM_FINGERPRINT", "GURURMM_ENROLL_TOKEN", "GURURMM_JOB"}

// checkVariables refuses a GURURMM_* variable that nobody reads: a setting
// mistyped would quietly keep its default. The agent's own are left to it, and
// so are those that Kubernetes makes for a service of this name.
func checkVariables(environ []string) error {
	known := slices.Clone(otherVariables[:1])
	for _, s := range settings {
		known = append(known, s.env())
	}
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		switch {
		case !strings.HasPrefix(name, "GURURMM_"), strings.HasPrefix(name, "GURURMM_AGENT_"),
			slices.Contains(known, name), slices.Contains(otherVariables, name),
			strings.Contains(name, "_SERVICE_"), strings.HasSuffix(name, "_PORT"), strings.Contains(name, "_PORT_"):
			continue
		}
		return fmt.Errorf("unknown variable %s; known: %s", name, strings.Join(known, ", "))
	}
	return nil
}

// addFlags declares a flag for each setting, and --config.
func addFlags(fs *pflag.FlagSet) {
	fs.String("config", "", "configuration file, YAML (default $GURURMM_CONFIG)")
	for _, s := range settings {
		usage := s.usage + " ($" + s.env() + ")"
		if slices.Contains(lists, s.key) {
			fs.StringSlice(s.flag(), nil, usage)
			continue
		}
		fs.String(s.flag(), s.standard, usage)
	}
}

func flagValue(fs *pflag.FlagSet, s setting) (string, error) {
	if !slices.Contains(lists, s.key) {
		return fs.GetString(s.flag())
	}
	all, err := fs.GetStringSlice(s.flag())
	return strings.Join(all, ","), err
}

// loadConfig puts the layers over each other; an error names where it stands.
func loadConfig(fs *pflag.FlagSet, getenv func(string) (string, bool)) (serveConfig, error) {
	var c serveConfig
	for _, s := range settings {
		if err := s.set(&c, s.standard); err != nil {
			return c, err
		}
	}
	file, err := fs.GetString("config")
	if err != nil {
		return c, err
	}
	if v, ok := getenv("GURURMM_CONFIG"); ok && file == "" {
		file = v
	}
	if c.configFile = file; file != "" {
		if err := c.applyFile(file); err != nil {
			return c, fmt.Errorf("configuration: %w", err)
		}
		if c.server.ClusterURL != "" && hasUser(c.server.ClusterURL) {
			if err := private(file); err != nil {
				return c, fmt.Errorf("configuration: cluster_url has a secret: %w", err)
			}
		}
		if c.server.DatabaseURL != "" && hasPassword(c.server.DatabaseURL) {
			if err := private(file); err != nil {
				return c, fmt.Errorf("configuration: database_url has a password: %w", err)
			}
		}
	}
	for _, s := range settings {
		if v, ok := getenv(s.env()); ok {
			if err := s.set(&c, v); err != nil {
				return c, fmt.Errorf("$%s: %w", s.env(), err)
			}
		}
		if fs.Changed(s.flag()) {
			v, err := flagValue(fs, s)
			if err != nil {
				return c, err
			}
			if s.key == "database_url" && hasPassword(v) {
				return c, passwordTyped("--database-url", "--database-url-file")
			}
			if s.key == "cluster_url" && hasUser(v) {
				return c, errors.New("--cluster-url: a name, password or token in it can be read by everybody on this machine (ps); put the URL into a private file and name that by --cluster-url-file, or use $GURURMM_CLUSTER_URL or --cluster-creds")
			}
			if err := s.set(&c, v); err != nil {
				return c, fmt.Errorf("--%s: %w", s.flag(), err)
			}
		}
	}
	if err := c.readDatabaseURL(); err != nil {
		return c, err
	}
	if err := c.readClusterURL(); err != nil {
		return c, err
	}
	if c.server.SharedDir != "" {
		if c.server.SharedDir, err = filepath.Abs(c.server.SharedDir); err != nil {
			return c, err
		}
	}
	if c.server.StateDir != "" {
		if c.server.StateDir, err = filepath.Abs(c.server.StateDir); err != nil {
			return c, err
		}
	}
	return c, nil
}

// passwordTyped refuses a URL with a password as a flag's value.
func passwordTyped(flag, file string) error {
	return fmt.Errorf("%s: a password in it can be read by everybody on this machine (ps); put the URL into a private file and name that by %s, or use $GURURMM_DATABASE_URL or PostgreSQL's own PGPASSFILE", flag, file)
}

// hasPassword reports whether a database's URL holds a secret, or may: one that can't be
// read as a URL counts as such.
func hasPassword(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return true
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password") || u.Query().Has("sslpassword")
}

// readDatabaseURL takes the URL from the file that was named for it.
func (c *serveConfig) readDatabaseURL() error {
	path := c.databaseURLFile
	if path == "" {
		return nil
	}
	if c.server.DatabaseURL != "" {
		return errors.New("database_url and database_url_file are both given: one of them is too many")
	}
	var err error
	if c.server.DatabaseURL, err = urlIn(path); err != nil {
		return fmt.Errorf("database_url_file: %w", err)
	}
	return nil
}

// hasUser reports whether URLs of NATS hold a secret, or may.
func hasUser(raw string) bool {
	for one := range strings.SplitSeq(raw, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err != nil || u.User != nil {
			return true
		}
	}
	return false
}

// readClusterURL takes the URL from the file that was named for it.
func (c *serveConfig) readClusterURL() error {
	path := c.clusterURLFile
	if path == "" {
		return nil
	}
	if c.server.ClusterURL != "" {
		return errors.New("cluster_url and cluster_url_file are both given: one of them is too many")
	}
	var err error
	if c.server.ClusterURL, err = urlIn(path); err != nil {
		return fmt.Errorf("cluster_url_file: %w", err)
	}
	return nil
}

// urlIn reads the URL of a database or of NATS from a private file.
func urlIn(path string) (string, error) {
	if err := private(path); err != nil {
		return "", err
	}
	raw, err := readBounded(path)
	if err != nil {
		return "", err
	}
	url := strings.TrimSpace(string(raw))
	if url == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return url, nil
}

// private refuses a file that others may read or write.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fileerr.Why(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 { // Windows: the access list decides
		return fmt.Errorf("others may read or write %s: chmod 600 %[1]s, and change the password", path)
	}
	return nil
}
