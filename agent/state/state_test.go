package state_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"gururmm/agent/state"
	"gururmm/internal/certtest"
	"gururmm/wire"
)

// commandKey is the server's key in these tests.
func commandKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), seed))
}

func identity() state.Identity {
	return state.Identity{
		Agent: "agent-1", Server: "server-1", Key: commandKey(7),
		CommandKeys: [][]byte{commandKey(1).Public().(ed25519.PublicKey)},
		LinkURLs:    []string{"wss://rmm.example:8443/v1/link"},
		OOB:         []wire.OOBDoor{{URL: "https://rmm.example:8444"}},
		EnrolledAt:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func open(t testing.TB) *state.Dir {
	t.Helper()
	d, err := state.Open(filepath.Join(t.TempDir(), "deep", "state"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func write(t testing.TB, path string, body []byte) {
	t.Helper()
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	d := open(t)
	if _, err := d.Identity(); !errors.Is(err, state.ErrNotEnrolled) {
		t.Fatalf("empty directory: %v", err)
	}
	want := identity()
	want.LinkCA = string(certtest.NewCA(t).PEM)
	want.LinkPin = state.PinOf(certtest.NewCA(t).Cert)
	if err := d.SaveIdentity(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Identity()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if string(a) != string(b) {
		t.Errorf("read %s, want %s", b, a)
	}
}

func TestIdentityIsNeverOverwritten(t *testing.T) {
	d := open(t)
	if err := d.SaveIdentity(identity()); err != nil {
		t.Fatal(err)
	}
	other := identity()
	other.Agent = "agent-2"
	if err := d.SaveIdentity(other); !errors.Is(err, state.ErrEnrolled) {
		t.Errorf("second save: %v", err)
	}
	if got, err := d.Identity(); err != nil || got.Agent != "agent-1" {
		t.Errorf("identity is %v, %v", got, err)
	}
	if err := d.ReplaceIdentity(other); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Identity(); err != nil || got.Agent != "agent-2" {
		t.Errorf("identity is %v, %v", got, err)
	}
	kept, _ := filepath.Glob(d.Path("identity.json.replaced-*"))
	if len(kept) != 1 {
		t.Fatalf("kept %v", kept)
	}
	if raw, err := os.ReadFile(kept[0]); err != nil || !strings.Contains(string(raw), `"agent-1"`) {
		t.Errorf("kept %s, %v", raw, err)
	}
}

func TestCorruptIdentityIsLeftAlone(t *testing.T) {
	good, err := json.Marshal(identity())
	if err != nil {
		t.Fatal(err)
	}
	bend := func(change func(*state.Identity)) string {
		id := identity()
		change(&id)
		raw, _ := json.Marshal(id)
		return string(raw)
	}
	for name, body := range map[string]string{
		"empty":           "",
		"cut off":         string(good[:len(good)/2]),
		"something after": string(good) + "{}",
		"not an object":   `"identity"`,
		"null":            "null",
		"too large":       `{"agent":"` + strings.Repeat("a", 1<<20) + `"}`,
		"no agent":        bend(func(id *state.Identity) { id.Agent = "" }),
		"no server":       bend(func(id *state.Identity) { id.Server = "" }),
		"short key":       bend(func(id *state.Identity) { id.Key = id.Key[:32] }),
		"halves of keys":  bend(func(id *state.Identity) { id.Key = append(commandKey(7)[:32:32], commandKey(8)[32:]...) }),
		"no command key":  bend(func(id *state.Identity) { id.CommandKeys = nil }),
		"bad command key": bend(func(id *state.Identity) { id.CommandKeys = [][]byte{{1, 2, 3}} }),
		"no link":         bend(func(id *state.Identity) { id.LinkURLs = nil }),
		"plain link":      bend(func(id *state.Identity) { id.LinkURLs = []string{"ws://rmm.example/v1/link"} }),
		"bad pin":         bend(func(id *state.Identity) { id.LinkPin = "sha256/x" }),
		"bad CA":          bend(func(id *state.Identity) { id.LinkCA = "no PEM" }),
		"bad door":        bend(func(id *state.Identity) { id.OOB = []wire.OOBDoor{{URL: "http://rmm.example"}} }),
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			path := d.Path("identity.json")
			write(t, path, []byte(body))
			_, err := d.Identity()
			var corrupt *state.CorruptError
			if !errors.As(err, &corrupt) || corrupt.File != path || !strings.Contains(err.Error(), path) || errors.Is(err, state.ErrNotEnrolled) {
				t.Fatalf("error %v", err)
			}
			if err := d.SaveIdentity(identity()); !errors.Is(err, state.ErrEnrolled) {
				t.Errorf("save over it: %v", err)
			}
			if raw, err := os.ReadFile(path); err != nil || string(raw) != body {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

func TestIdentityIsValidatedBeforeItIsWritten(t *testing.T) {
	d := open(t)
	bad := identity()
	bad.CommandKeys = nil
	if err := d.SaveIdentity(bad); err == nil {
		t.Error("saved without command keys")
	}
	if _, err := d.Identity(); !errors.Is(err, state.ErrNotEnrolled) {
		t.Errorf("identity: %v", err)
	}
}

// No verb and no logger prints the key.
func TestKeyIsNotPrinted(t *testing.T) {
	id := identity()
	var log strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("enrolled", "identity", id)
	}
	for _, text := range []string{fmt.Sprint(id), fmt.Sprintf("%+v", id), fmt.Sprintf("%#v", id), fmt.Sprintf("%q", id), log.String()} {
		// The key ends in its public half; all of them would show a run of zeros or the seed.
		if strings.Contains(text, "0 0 0") || strings.Contains(text, "0x0") || strings.Contains(text, "AAAA") || !strings.Contains(text, "agent-1") {
			t.Errorf("printed as %s", text)
		}
	}
}

func TestToken(t *testing.T) {
	id := identity()
	now := time.Now().Add(-5 * time.Hour).Truncate(time.Second) // any clock given
	seen := map[string]bool{}
	for range 50 {
		raw, err := id.Token(now)
		if err != nil {
			t.Fatal(err)
		}
		var claims jwt.RegisteredClaims
		_, err = jwt.ParseWithClaims(raw, &claims, func(*jwt.Token) (any, error) { return id.Key.Public(), nil },
			jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithTimeFunc(func() time.Time { return now }),
			jwt.WithAudience("server-1"), jwt.WithSubject("agent-1"), jwt.WithExpirationRequired(), jwt.WithIssuedAt())
		if err != nil {
			t.Fatal(err)
		}
		if claims.ExpiresAt.Sub(claims.IssuedAt.Time) != time.Minute || !claims.IssuedAt.Equal(now) || len(claims.ID) < 16 || seen[claims.ID] {
			t.Fatalf("claims %+v", claims)
		}
		seen[claims.ID] = true
	}
}

func TestTLSConfig(t *testing.T) {
	ca := certtest.NewCA(t)
	expired := ca.Leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	id := identity()
	cfg, err := id.TLSConfig(nil)
	if err != nil || cfg.RootCAs != nil || cfg.InsecureSkipVerify || cfg.VerifyConnection != nil {
		t.Errorf("system roots: %+v, %v", cfg, err)
	}
	id.LinkPin = state.PinOf(expired.Leaf)
	if cfg, err = id.TLSConfig(nil); err != nil || !cfg.InsecureSkipVerify || cfg.VerifyConnection == nil {
		t.Errorf("pin: %v", err)
	}
	id.LinkCA = string(ca.PEM)
	if cfg, err = id.TLSConfig(time.Now); err != nil || cfg.InsecureSkipVerify || cfg.VerifyConnection == nil || cfg.RootCAs == nil || cfg.Time == nil {
		t.Errorf("pin and CA: %v", err)
	}
}

func TestMachinePresence(t *testing.T) {
	a, err := state.MachinePresence("1.2.3")
	if err != nil {
		t.Logf("not all is known of this machine: %v", err)
	}
	b, _ := state.MachinePresence("1.2.3")
	if a.Instance == b.Instance || a.Instance == "" {
		t.Errorf("instances %s, %s", a.Instance, b.Instance)
	}
	if a.BootID != b.BootID || a.Fingerprint != b.Fingerprint || a.BootID == "" || a.BootID == a.Fingerprint {
		t.Errorf("%+v then %+v", a, b)
	}
	if a.Version != "1.2.3" || a.Platform.OS == "" || a.Platform.Arch == "" || a.Platform.Release == "" {
		t.Errorf("%+v", a)
	}
	for _, file := range []string{"/etc/machine-id", "/proc/sys/kernel/random/boot_id"} {
		raw, err := os.ReadFile(file)
		if id := strings.TrimSpace(string(raw)); err == nil && id != "" && strings.Contains(fmt.Sprint(a), id) {
			t.Errorf("%s is sent as it is", file)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	good, err := json.Marshal(identity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"agent":"a","server":"s","key":"AAAA","oob":null}`))
	f.Add([]byte(`null`))
	d := open(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		write(t, d.Path("identity.json"), raw)
		id, err := d.Identity()
		if err != nil {
			return
		}
		// What was read must do for all that an agent needs of it.
		if _, err := id.Token(time.Now()); err != nil {
			t.Error(err)
		}
		if _, err := id.TLSConfig(nil); err != nil {
			t.Error(err)
		}
		if _, err := id.Keyring(); err != nil {
			t.Error(err)
		}
	})
}
