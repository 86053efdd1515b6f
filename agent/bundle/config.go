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
	maxPolicy   = wire.MaxMessage
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

// configuration reads the settings, and teaches the filter what is secret in them.
// It comes before all else for that.
func (m *maker) configuration(ctx context.Context) part {
	p, _, _ := jsonFrom(ctx, m, "config.json", "agent.yaml, identity.json, policy.json", sourceWait, func(context.Context) (configFacts, error) {
		var c configFacts
		var id state.Identity
		err := m.identity(&id)
		if err == nil {
			c.Identity = publicHalf(id)
			m.public = c.Identity
			c.Policy, err = m.policy(id)
			c.PolicyWhy = why(err, "none is stored: the default one is in force")
		} else {
			c.IdentityWhy = why(err, "this endpoint is not enrolled")
			c.PolicyWhy = "it can't be verified without an identity"
		}
		c.Local, err = m.local()
		c.LocalWhy = why(err, "there is none")
		c.ProxyOfEnv = m.proxies()
		return c, nil
	})
	return p
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

// identity reads identity.json; the private key is learnt by the filter in the
// forms in which it could turn up.
func (m *maker) identity(id *state.Identity) error {
	raw, err := readFile(filepath.Join(m.o.StateDir, "identity.json"), maxIdentity)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, id); err != nil {
		return errors.New("identity.json can't be understood") // an error's text could quote it
	}
	for _, key := range [][]byte{id.Key, id.Key[:min(len(id.Key), ed25519.SeedSize)]} {
		m.filter.learn(base64.StdEncoding.EncodeToString(key))
		m.filter.learn(base64.RawURLEncoding.EncodeToString(key))
		m.filter.learn(hex.EncodeToString(key))
	}
	return nil
}

func publicHalf(id state.Identity) *identityFacts {
	f := &identityFacts{
		Agent: id.Agent, Server: id.Server, EnrolledAt: id.EnrolledAt, LinkPin: id.LinkPin, OOB: id.OOB,
	}
	if len(id.Key) == ed25519.PrivateKeySize { // its public half is its end
		f.PublicKey = wire.KeyID(ed25519.PublicKey(id.Key[ed25519.SeedSize:]))
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

// policy gives the stored one, if it is the server's. Unlike the agent's own
// reading of it this sets nothing aside.
func (m *maker) policy(id state.Identity) (*wire.Policy, error) {
	raw, err := readFile(filepath.Join(m.o.StateDir, "policy.json"), maxPolicy)
	if err != nil {
		return nil, err
	}
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

// local reads agent.yaml.
func (m *maker) local() (*localFacts, error) {
	c, err := state.ReadConfig(filepath.Join(m.o.StateDir, "agent.yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil { // its text could quote a password: the line must do
		return nil, fmt.Errorf("it is refused %s: gururmm-agent run says why, on the endpoint", cmp.Or(lineIn.FindString(err.Error()), "as a whole"))
	}
	f := &localFacts{
		LogLevel: c.LogLevel, StatusSocket: c.StatusSocket, StatusGroup: c.StatusGroup,
		LinkProxy: m.proxy(c.Link.Proxy), OOBProxy: m.proxy(c.OOB.Proxy),
	}
	for _, u := range c.Link.URLs {
		f.LinkURLs = append(f.LinkURLs, place(u))
	}
	for _, d := range c.Doors() {
		f.Doors = append(f.Doors, wire.OOBDoor{URL: place(d.URL), Pin: d.Pin})
	}
	return f, nil
}

// proxy tells of a proxy's setting, and teaches the filter its password.
func (m *maker) proxy(spec string) proxyFacts {
	switch spec {
	case "":
		return proxyFacts{Is: "default"}
	case "direct", "environment":
		return proxyFacts{Is: spec}
	}
	f := proxyFacts{Is: "not a URL"}
	// Not by the URL's parser: what it refuses may be a password all the same.
	rest := spec
	if _, after, ok := strings.Cut(spec, "://"); ok {
		rest = after
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		_, password, set := strings.Cut(rest[:i], ":")
		f.Password = set
		m.filter.learn(password)
		if plain, err := url.PathUnescape(password); err == nil {
			m.filter.learn(plain)
		}
	}
	u, err := url.Parse(spec)
	if err != nil || u.Host == "" {
		u, err = url.Parse("http://" + spec) // as HTTPS_PROXY may be
	}
	if err == nil && u.Host != "" {
		f.Is = u.Scheme + "://" + u.Host
	}
	return f
}

// proxies are those that the environment names.
func (m *maker) proxies() []proxyFacts {
	var found []proxyFacts
	for _, entry := range m.o.Environ {
		name, value, _ := strings.Cut(entry, "=")
		switch strings.ToUpper(name) {
		case "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY":
			f := m.proxy(value)
			f.Variable = name
			found = append(found, f)
		case "NO_PROXY":
			found = append(found, proxyFacts{Variable: name, Is: value})
		}
	}
	return found
}

// place is a URL without user, password, query and fragment.
func place(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Sprintf("not a URL (%d bytes)", len(raw))
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
