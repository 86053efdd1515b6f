package bundle

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gururmm/agent/state"
	"gururmm/wire"
)

// Bounds of files read here, in bytes.
const (
	maxIdentity = 1 << 20
	maxConfig   = 256 << 10
	maxPolicy   = wire.MaxMessage
)

// Names of the settings' files in the state directory.
const (
	identityFile = "identity.json"
	renewalFile  = "renewal.json" // a new identity on its way
	policyFile   = "policy.json"
	configFile   = "agent.yaml"
)

// configFacts are the endpoint's settings as they may be told.
type configFacts struct {
	Local       *localFacts    `json:"agent_yaml,omitempty"`
	LocalWhy    string         `json:"agent_yaml_why,omitempty"` // why there is none
	Identity    *identityFacts `json:"identity,omitempty"`
	IdentityWhy string         `json:"identity_why,omitempty"`
	Policy      *wire.Policy   `json:"stored_policy,omitempty"` // in force, unless status.json has a later one
	PolicyWhy   string         `json:"stored_policy_why,omitempty"`
	ProxyOfEnv  []proxyFacts   `json:"proxy_environment,omitempty"` // of whoever made the bundle
}

// localFacts are agent.yaml.
type localFacts struct {
	LogLevel     string         `json:"log_level,omitempty"`
	StatusSocket string         `json:"status_socket,omitempty"`
	StatusGroup  string         `json:"status_group,omitempty"`
	LinkURLs     []string       `json:"link_urls,omitempty"`
	LinkProxy    proxyFacts     `json:"link_proxy"`
	Doors        []wire.OOBDoor `json:"oob_doors,omitempty"`
	OOBProxy     proxyFacts     `json:"oob_proxy"`
}

// proxyFacts tell of a proxy's place, and whether a password is set for it.
type proxyFacts struct {
	Variable string `json:"variable,omitempty"`
	Is       string `json:"is"` // default, direct, environment, or scheme://host:port
	Password bool   `json:"password,omitempty"`
}

// identityFacts are the public half of identity.json.
type identityFacts struct {
	Agent       string         `json:"agent"`
	Server      string         `json:"server"`
	EnrolledAt  time.Time      `json:"enrolled_at"`
	PublicKey   string         `json:"public_key,omitempty"` // id of our own key: see [wire.KeyID]
	CommandKeys []string       `json:"command_keys"`         // ids of the server's
	LinkURLs    []string       `json:"link_urls"`
	LinkPin     string         `json:"link_pin,omitempty"`
	LinkCA      []certFacts    `json:"link_ca,omitempty"`
	OOB         []wire.OOBDoor `json:"oob"`
}

// certFacts name a certificate.
type certFacts struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
	SHA256   string    `json:"sha256"` // hex, of the certificate
}

// settings are what the endpoint's own files and environment tell: what may be told,
// and the secrets among it.
type settings struct {
	facts   configFacts
	secrets []string
	// unknown names files that may hold secrets which are not known, and says why.
	unknown []string
	took    time.Duration
}

// readSettings comes before all else: what the filter is to find must be known before
// any text is read. Each file is read by a function of its own that touches nothing but
// what it gives back; what it gives back too late is dropped.
func readSettings(ctx context.Context, o Options) settings {
	var s settings
	began := time.Now()
	path := func(name string) string { return filepath.Join(o.StateDir, name) }
	id, err := fromFile(ctx, o.Read, path(identityFile), maxIdentity, parseIdentity)
	if s.lacks(identityFile, err); err == nil {
		s.facts.Identity, s.secrets = publicHalf(id), keyForms(id.Key)
		s.facts.Policy, err = fromFile(ctx, o.Read, path(policyFile), maxPolicy, func(raw []byte) (*wire.Policy, error) { return parsePolicy(id, raw) })
		s.facts.PolicyWhy = why(err, "none is stored: the default one is in force")
	} else {
		s.facts.IdentityWhy = why(err, "this endpoint is not enrolled")
		s.facts.PolicyWhy = "it can't be verified without an identity"
	}
	next, err := fromFile(ctx, o.Read, path(renewalFile), maxIdentity, parseRenewal)
	if s.lacks(renewalFile, err); err == nil {
		s.secrets = append(append(s.secrets, next.Token), keyForms(next.Key)...)
	}
	local, err := fromFile(ctx, o.Read, path(configFile), maxConfig, parseLocal)
	s.lacks(configFile, err)
	if s.facts.Local, s.facts.LocalWhy = local.facts, why(err, "there is none"); err == nil {
		s.secrets, s.facts.LocalWhy = append(s.secrets, local.secrets...), local.refused
	}
	for _, entry := range o.Environ {
		if f, secrets, ok := proxyOfEnv(entry); ok {
			s.facts.ProxyOfEnv, s.secrets = append(s.facts.ProxyOfEnv, f), append(s.secrets, secrets...)
		}
	}
	s.took = time.Since(began)
	return s
}

// lacks notes that name may hold secrets, which are not known for err.
func (s *settings) lacks(name string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.unknown = append(s.unknown, name+": "+err.Error())
	}
}

// fromFile reads a file, which may hang, and gives what parse makes of it.
func fromFile[T any](ctx context.Context, read func(path string, limit int64) ([]byte, error), path string, limit int64, parse func(raw []byte) (T, error)) (T, error) {
	v, _, err := within(ctx, sourceWait, func(context.Context) (v T, err error) {
		raw, err := read(path, limit)
		if err != nil {
			return v, err
		}
		return parse(raw)
	})
	return v, err
}

// why tells an error, or, if it is only that there is no such file, what that means.
func why(err error, absent string) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, fs.ErrNotExist):
		return absent
	}
	return err.Error()
}

// parseIdentity understands an identity.json; an error's own text could quote it.
func parseIdentity(raw []byte) (id state.Identity, err error) {
	if json.Unmarshal(raw, &id) != nil || len(id.Key) != ed25519.PrivateKeySize {
		return id, errors.New("it can't be understood")
	}
	return id, nil
}

// renewal is a new identity on its way, as far as it is secret.
type renewal struct {
	Token string             `json:"token"`
	Key   ed25519.PrivateKey `json:"key"`
}

func parseRenewal(raw []byte) (r renewal, err error) {
	if json.Unmarshal(raw, &r) != nil || len(r.Key) != ed25519.PrivateKeySize {
		return r, errors.New("it can't be understood")
	}
	return r, nil
}

// keyForms are the forms in which a private key could turn up.
func keyForms(key ed25519.PrivateKey) (forms []string) {
	for _, b := range [][]byte{key, key.Seed()} {
		forms = append(forms,
			base64.StdEncoding.EncodeToString(b), base64.RawStdEncoding.EncodeToString(b),
			base64.URLEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b),
			hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)),
			strings.Trim(fmt.Sprint([]byte(b)), "[]"))
	}
	return forms
}

func publicHalf(id state.Identity) *identityFacts {
	f := &identityFacts{
		Agent: id.Agent, Server: id.Server, EnrolledAt: id.EnrolledAt, LinkPin: id.LinkPin, OOB: id.OOB,
		PublicKey: wire.KeyID(ed25519.PublicKey(id.Key[ed25519.SeedSize:])), // the key's end
	}
	for _, k := range id.CommandKeys {
		f.CommandKeys = append(f.CommandKeys, wire.KeyID(k))
	}
	for _, u := range id.LinkURLs {
		f.LinkURLs = append(f.LinkURLs, place(u))
	}
	for rest := []byte(id.LinkCA); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return f
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			continue
		}
		sum := sha256.Sum256(cert.Raw)
		f.LinkCA = append(f.LinkCA, certFacts{cert.Subject.String(), cert.NotAfter, hex.EncodeToString(sum[:])})
	}
}

// parsePolicy gives the stored policy, if it is the server's. Unlike the agent's own
// reading of it this sets nothing aside.
func parsePolicy(id state.Identity, raw []byte) (*wire.Policy, error) {
	env, err := wire.Decode(raw)
	if err != nil {
		return nil, err
	}
	p, err := state.OpenPolicy(id, env)
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// lineIn finds the line that an error about YAML names.
var lineIn = regexp.MustCompile(`\bline \d+`)

// localRead is what came of agent.yaml.
type localRead struct {
	facts   *localFacts // nil: refused
	refused string      // why
	secrets []string
}

// parseLocal understands an agent.yaml. One that is refused gives its secrets all the
// same: it is a person's, and the first thing that support is asked about.
func parseLocal(raw []byte) (r localRead, err error) {
	for line := range strings.Lines(string(raw)) {
		r.secrets = append(r.secrets, passwordIn(strings.Trim(strings.TrimSpace(line), `"'`))...)
	}
	c, err := state.ParseConfig(raw)
	if err != nil { // its text could quote a password: the line must do
		r.refused = fmt.Sprintf("it is refused %s: gururmm-agent run says why, on the endpoint", cmp.Or(strings.TrimSuffix("in "+lineIn.FindString(err.Error()), "in "), "as a whole"))
		return r, nil
	}
	r.facts = &localFacts{LogLevel: c.LogLevel, StatusSocket: c.StatusSocket, StatusGroup: c.StatusGroup}
	var link, door []string
	r.facts.LinkProxy, link = proxy(c.Link.Proxy)
	r.facts.OOBProxy, door = proxy(c.OOB.Proxy)
	r.secrets = append(append(r.secrets, link...), door...)
	for _, u := range c.Link.URLs {
		r.facts.LinkURLs = append(r.facts.LinkURLs, place(u))
	}
	for _, d := range c.Doors(nil) {
		r.facts.Doors = append(r.facts.Doors, wire.OOBDoor{URL: place(d.URL), Pin: d.Pin})
	}
	return r, nil
}

// passwordIn gives the password in text that is, or has, something like a URL, in the
// forms it may take. Not by the URL's parser: what it refuses may be one all the same.
func passwordIn(text string) (forms []string) {
	if _, after, ok := strings.Cut(text, "://"); ok {
		text = after
	} else if _, after, ok := strings.Cut(text, ": "); ok { // a line of YAML
		text = strings.Trim(strings.TrimSpace(after), `"'`)
	}
	i := strings.LastIndexByte(text, '@')
	if i < 0 {
		return nil
	}
	_, password, set := strings.Cut(text[:i], ":")
	if !set {
		return nil
	}
	forms = []string{password}
	if plain, err := url.PathUnescape(password); err == nil && plain != password {
		forms = append(forms, plain)
	}
	return forms
}

// proxy tells of a proxy's setting, and gives the forms of its password.
func proxy(spec string) (f proxyFacts, secrets []string) {
	switch spec {
	case "":
		return proxyFacts{Is: "default"}, nil
	case "direct", "environment":
		return proxyFacts{Is: spec}, nil
	}
	secrets = passwordIn(spec)
	f = proxyFacts{Is: "not a URL", Password: len(secrets) > 0}
	u, err := url.Parse(spec)
	if err != nil || u.Host == "" {
		u, err = url.Parse("http://" + spec) // as HTTPS_PROXY may be
	}
	if err == nil && u.Host != "" {
		f.Is = u.Scheme + "://" + u.Host
	}
	return f, secrets
}

// proxyOfEnv tells of a variable of the environment, if it is about a proxy.
func proxyOfEnv(entry string) (f proxyFacts, secrets []string, ok bool) {
	name, value, _ := strings.Cut(entry, "=")
	switch strings.ToUpper(name) {
	case "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY":
		f, secrets = proxy(value)
	case "NO_PROXY":
		f.Is = value
	default:
		return f, nil, false
	}
	f.Variable = name
	return f, secrets, true
}

// place is a URL without user, password, query and fragment.
func place(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Sprintf("not a URL (%d bytes)", len(raw))
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
