package state_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gururmm/agent/state"
	"gururmm/wire"
)

// renewable gives a directory with an identity of server, whose next answers are of agent-2.
func renewable(t *testing.T, change func(*wire.EnrollResponse)) (*state.Dir, *enrollServer, []state.RenewDoor) {
	t.Helper()
	first := true
	s := newEnrollServer(t, nil, func(r *wire.EnrollResponse) {
		if first {
			return
		}
		r.Agent, r.Policy = "agent-2", policy(t, 1, "agent-2", wire.Policy{Version: 2})
		if change != nil {
			change(r)
		}
	})
	d := open(t)
	if _, _, err := d.Enroll(t.Context(), state.EnrollOptions{ServerURL: s.URL, Token: "good", CAPEM: s.ca.PEM}, false); err != nil {
		t.Fatal(err)
	}
	first = false
	return d, s, []state.RenewDoor{
		{URL: "https://127.0.0.1:1", Pin: state.PinOf(s.leaf)}, // nothing listens there
		{URL: s.URL, Pin: state.PinOf(s.leaf)},
	}
}

func TestRenewKeepsTheOldIdentityUntilItIsPut(t *testing.T) {
	d, s, doors := renewable(t, nil)
	old, err := d.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Renew(t.Context(), "spent", wire.Presence{}, doors); err == nil || d.Renewing() {
		t.Fatalf("a refused token: %v, on its way: %v", err, d.Renewing())
	}
	next, err := d.Renew(t.Context(), "good", wire.Presence{}, doors)
	if err != nil || next.Agent != "agent-2" {
		t.Fatalf("it became %v, %v", next, err)
	}
	calls := s.calls
	if again, err := d.Renew(t.Context(), "good", wire.Presence{}, doors); err != nil || !again.Key.Equal(next.Key) || s.calls != calls {
		t.Errorf("asked again it enrolled again: %v, %d calls", err, s.calls-calls)
	}
	if now, err := d.Identity(); err != nil || now.Agent != old.Agent {
		t.Errorf("the old identity is gone too early: %v, %v", now, err)
	}
	for _, dir := range []string{"jobs", "spool"} {
		if err := os.MkdirAll(d.Path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.Path(dir), "x"), []byte(dir), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	was, aside, err := d.PutRenewal("jobs", "spool", "guardian.json")
	if err != nil || was != "agent-1" {
		t.Fatalf("put: %q, %v", was, err)
	}
	if raw, err := os.ReadFile(filepath.Join(aside, "jobs", "x")); err != nil || string(raw) != "jobs" {
		t.Errorf("the old journal: %q, %v", raw, err)
	}
	if _, err := os.Stat(d.Path("jobs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the new agent has the old one's journal: %v", err)
	}
	now, err := d.Identity()
	if err != nil || now.Agent != "agent-2" || !now.Key.Equal(next.Key) || now.LinkCA != old.LinkCA || len(now.ReleaseKeys) != len(old.ReleaseKeys) || !bytes.Equal(now.CommandKeys[0], old.CommandKeys[0]) {
		t.Errorf("in place is %v, %v", now, err)
	}
	if p, stored, err := d.Policy(); err != nil || !stored || p.Version != 2 {
		t.Errorf("policy %+v %v %v", p, stored, err)
	}
	if was, _, err := d.PutRenewal("jobs"); err != nil || was != "" || d.Renewing() {
		t.Errorf("put again: %q, %v", was, err)
	}
}

// A machine that died before it had the answer trades the same key for the same agent.
func TestRenewGoesOnWithTheKeyItDrew(t *testing.T) {
	d, s, doors := renewable(t, func(r *wire.EnrollResponse) { r.Policy = wire.Envelope{} }) // as good as lost
	if _, err := d.Renew(t.Context(), "good", wire.Presence{}, doors); err == nil || !d.Renewing() {
		t.Fatalf("%v, on its way: %v", err, d.Renewing())
	}
	if _, err := d.Renew(t.Context(), "good", wire.Presence{}, doors); err == nil {
		t.Fatal("an answer that does not hold was taken")
	}
	if n := len(s.keys); !bytes.Equal(s.keys[n-1], s.keys[n-2]) {
		t.Error("another key was drawn")
	}
}

func TestRenewTrustsNobodyNew(t *testing.T) {
	for name, change := range map[string]func(*wire.EnrollResponse){
		"another server": func(r *wire.EnrollResponse) { r.Server = "server-2" },
		"another command key": func(r *wire.EnrollResponse) {
			r.CommandKeys = [][]byte{commandKey(2).Public().(ed25519.PublicKey)}
			r.Policy = policy(t, 2, "agent-2", wire.Policy{Version: 2})
		},
	} {
		d, _, doors := renewable(t, change)
		if next, err := d.Renew(t.Context(), "good", wire.Presence{}, doors[1:]); err == nil {
			t.Errorf("%s: taken for %v", name, next)
		}
	}
}
