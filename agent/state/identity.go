package state

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"gururmm/internal/atomicfile"
	"gururmm/internal/endpoint"
	"gururmm/internal/pin"
	"gururmm/oob"
	"gururmm/wire"
)

// Identity is what enrollment made, identity.json.
type Identity struct {
	Agent       string             `json:"agent"`
	Server      string             `json:"server"`
	Key         ed25519.PrivateKey `json:"key"` // never leaves this file
	CommandKeys [][]byte           `json:"command_keys"`
	LinkURLs    []string           `json:"link_urls"`
	// LinkCA is a PEM bundle, LinkPin "sha256/…" of the server's key; both empty: system roots.
	LinkCA     string         `json:"link_ca,omitempty"`
	LinkPin    string         `json:"link_pin,omitempty"`
	OOB        []wire.OOBDoor `json:"oob"`
	EnrolledAt time.Time      `json:"enrolled_at"`
	// ReleaseKeys are what updates must be signed with (minisign, "RW…"), as the server said at enrollment.
	ReleaseKeys []string `json:"release_keys,omitempty"`

	copy wire.Copy // what tokens say of who asks; see [Identity.As]
}

// As gives the identity for the copy that runs: its tokens name that.
func (id Identity) As(c wire.Copy) Identity {
	id.copy = c
	return id
}

// String names the identity without its key, whatever verb prints it.
func (id Identity) String() string { return "agent " + id.Agent + " of server " + id.Server }

// GoString is String: no verb shall print the key.
func (id Identity) GoString() string { return id.String() }

// LogValue keeps the key out of logs.
func (id Identity) LogValue() slog.Value {
	return slog.GroupValue(slog.String("agent", id.Agent), slog.String("server", id.Server))
}

// HasIdentity reports whether there is an identity in dir, or may be one that this
// account can't see. It changes nothing.
func HasIdentity(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, identityFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// Identity reads identity.json. The error is [ErrNotEnrolled] if there is none,
// and *[CorruptError] if it can't be understood: the file is never reset, since the
// key in it can't be had again.
func (d *Dir) Identity() (Identity, error) {
	raw, err := d.read(identityFile, maxIdentity)
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("%w: no %s", ErrNotEnrolled, d.Path(identityFile))
	}
	if err != nil {
		return Identity{}, err
	}
	id, err := decodeIdentity(raw)
	if err != nil {
		return Identity{}, &CorruptError{d.Path(identityFile), err}
	}
	return id, nil
}

// decodeIdentity ignores unknown fields, so that an older program, after a
// rollback, can read what a newer one wrote.
func decodeIdentity(raw []byte) (Identity, error) {
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return Identity{}, err
	}
	if err := id.validate(); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// Doors are the second doors where nothing is set on this machine: those of p, then
// those enrolled with, so that no policy takes away the way by which the next one comes.
func (id Identity) Doors(p wire.Policy) []wire.OOBDoor {
	all := slices.Clone(p.OOB)
	for _, d := range id.OOB {
		if !slices.ContainsFunc(p.OOB, func(told wire.OOBDoor) bool { return told.URL == d.URL && told.Pin == d.Pin }) {
			all = append(all, d)
		}
	}
	return all
}

func (id Identity) validate() error {
	switch {
	case id.Agent == "":
		return errors.New("agent is missing")
	case id.Server == "":
		return errors.New("server is missing")
	case len(id.Key) != ed25519.PrivateKeySize:
		return fmt.Errorf("key has %d bytes, want %d", len(id.Key), ed25519.PrivateKeySize)
	case !ed25519.NewKeyFromSeed(id.Key.Seed()).Equal(id.Key):
		return errors.New("key's two halves do not fit each other")
	case len(id.LinkURLs) == 0:
		return errors.New("link_urls is empty")
	}
	if _, err := id.Keyring(); err != nil {
		return err
	}
	for _, u := range id.LinkURLs {
		if err := endpoint.Check(u, "wss", "ws"); err != nil {
			return fmt.Errorf("link_urls: %w", err)
		}
	}
	if err := oob.CheckDoors(id.OOB); err != nil {
		return fmt.Errorf("oob: %w", err)
	}
	_, err := id.TLSConfig(nil)
	return err
}

// Keyring holds the server's keys that commands must be signed with.
func (id Identity) Keyring() (wire.Keyring, error) {
	if len(id.CommandKeys) == 0 {
		return nil, errors.New("command_keys is empty: no command could be verified")
	}
	keys := make([]ed25519.PublicKey, len(id.CommandKeys))
	for i, k := range id.CommandKeys {
		keys[i] = k
	}
	return wire.NewKeyring(keys...)
}

// SaveIdentity writes identity.json, 0600. The error is [ErrEnrolled] if there is
// such a file already, whatever is in it.
func (d *Dir) SaveIdentity(id Identity) error {
	if err := d.vacant(); err != nil {
		return err
	}
	return d.writeIdentity(id)
}

// ReplaceIdentity writes identity.json; the file that was there before is kept
// under another name, and at no moment is there none.
func (d *Dir) ReplaceIdentity(id Identity) error {
	old, err := os.ReadFile(d.Path(identityFile))
	if err == nil {
		kept := d.Path(identityFile) + ".replaced-" + time.Now().UTC().Format("20060102T150405.000Z")
		err = atomicfile.Write(kept, old, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep the old identity: %w", err)
	}
	return d.writeIdentity(id)
}

func (d *Dir) vacant() error {
	switch _, err := os.Lstat(d.Path(identityFile)); {
	case err == nil:
		return fmt.Errorf("%w: %s exists", ErrEnrolled, d.Path(identityFile))
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

func (d *Dir) writeIdentity(id Identity) error {
	if err := id.validate(); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	return atomicfile.Write(d.Path(identityFile), append(raw, '\n'), 0o600)
}

// tokenLife is how long a JWT is good for: one request on a slow path.
const tokenLife = 60 * time.Second

// claims of a token: who asks, and which copy of it.
type claims struct {
	jwt.RegisteredClaims
	wire.Copy
}

// Token makes a JWT for one request: EdDSA, sub the agent, aud the server, a jti
// that the server refuses twice, and which copy of the identity asks. now is the
// server's clock as far as known.
func (id Identity) Token(now time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{jwt.RegisteredClaims{
		Subject:   id.Agent,
		Audience:  jwt.ClaimStrings{id.Server},
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(tokenLife)),
		ID:        rand.Text(),
	}, id.copy})
	s, err := t.SignedString(id.Key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return s, nil
}

// TLSConfig verifies the link's server: by pin, by CA, by both where both are
// set, else by the system's roots. A wrong pin fails with neterr.ErrPin. now
// is the clock that certificates are judged by; nil: the machine's.
func (id Identity) TLSConfig(now func() time.Time) (*tls.Config, error) {
	return tlsConfig([]byte(id.LinkCA), id.LinkPin, now)
}

func tlsConfig(ca []byte, pinned string, now func() time.Time) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Time: now}
	if len(ca) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("the CA file holds no certificate in PEM form")
		}
	}
	if pinned != "" {
		if err := pin.Require(cfg, pinned); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// PinOf gives the pin of cert's key: "sha256/" and the base64 SHA-256 of its
// SubjectPublicKeyInfo (RFC 7469 §2.4).
func PinOf(cert *x509.Certificate) string { return pin.Of(cert) }
