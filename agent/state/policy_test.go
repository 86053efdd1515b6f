package state_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gururmm/agent/state"
	"gururmm/wire"
)

func policy(t testing.TB, seed byte, agent string, p wire.Policy) wire.Envelope {
	t.Helper()
	env, err := wire.Sign(commandKey(seed), wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agent, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func enrolled(t testing.TB) *state.Dir {
	t.Helper()
	d := open(t)
	if err := d.SaveIdentity(identity()); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPolicyRoundTrip(t *testing.T) {
	d := enrolled(t)
	p, stored, err := d.Policy()
	if err != nil || stored || p.PingMS != wire.DefaultPolicy().PingMS {
		t.Fatalf("without one: %+v, %v, %v", p, stored, err)
	}
	env := policy(t, 1, "agent-1", wire.Policy{Version: 5, PingMS: 12_345, LinkURLs: []string{"wss://<other>.example/v1/link?a=1&b=2"}})
	// A server in another language may write JSON otherwise; the signed bytes must survive.
	raw := []byte("{ \"agent\":\"agent-1\",\t\"policy\":{\"version\":6,\"ping_ms\":11000, \"new\":\"<&>\\u003c\"} }")
	odd := wire.Envelope{Type: wire.TypeConfigUpdate, Payload: raw}
	signed, err := wire.Sign(commandKey(1), wire.TypeConfigUpdate, odd.Payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range []wire.Envelope{env, signed} {
		if err := d.SavePolicy(env); err != nil {
			t.Fatal(err)
		}
		p, stored, err = d.Policy()
		if err != nil || !stored || p.Version < 5 || p.DeadMS != wire.DefaultPolicy().DeadMS {
			t.Fatalf("%+v, %v, %v", p, stored, err)
		}
	}
	if p.Version != 6 || p.PingMS != 11_000 {
		t.Errorf("%+v", p)
	}
}

func TestPolicyIsVerifiedBeforeItIsStored(t *testing.T) {
	d := enrolled(t)
	good := policy(t, 1, "agent-1", wire.Policy{Version: 1})
	if err := d.SavePolicy(good); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(d.Path("policy.json"))
	altered := good
	altered.Payload = bytes.Replace(good.Payload, []byte(`"version":1`), []byte(`"version":2`), 1)
	otherType, err := wire.Sign(commandKey(1), wire.TypeDirective, wire.ConfigUpdate{Agent: "agent-1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string]wire.Envelope{
		"unsigned":       {Type: wire.TypeConfigUpdate, Payload: good.Payload},
		"foreign key":    policy(t, 2, "agent-1", wire.Policy{}),
		"other agent":    policy(t, 1, "agent-2", wire.Policy{}),
		"altered":        altered,
		"other type":     otherType,
		"cuts off":       policy(t, 1, "agent-1", wire.Policy{PingMS: 90_000, DeadMS: 60_000}),
		"negative":       policy(t, 1, "agent-1", wire.Policy{HeartbeatMS: -1}),
		"plain link":     policy(t, 1, "agent-1", wire.Policy{LinkURLs: []string{"ws://rmm.example"}}),
		"nothing at all": {},
	} {
		if err := d.SavePolicy(env); err == nil {
			t.Errorf("%s was stored", name)
		}
		if name == "altered" || name == "foreign key" {
			if err := d.SavePolicy(env); !errors.Is(err, wire.ErrBadSignature) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if after, _ := os.ReadFile(d.Path("policy.json")); !bytes.Equal(before, after) {
		t.Error("the stored policy was changed")
	}
	if err := open(t).SavePolicy(good); !errors.Is(err, state.ErrNotEnrolled) {
		t.Errorf("not enrolled: %v", err)
	}
}

func TestCorruptPolicyIsSetAsideAndKept(t *testing.T) {
	for name, body := range map[string]string{
		"empty": "", "garbage": "\x00\x01", "null": "null", "unsigned": `{"type":"config_update","payload":{"agent":"agent-1"}}`,
		"too large": strings.Repeat(" ", wire.MaxMessage+1),
	} {
		t.Run(name, func(t *testing.T) {
			d := enrolled(t)
			path := d.Path("policy.json")
			write(t, path, []byte(body))
			p, stored, err := d.Policy()
			var q *state.QuarantinedError
			if !errors.As(err, &q) || q.File != path || stored || p.PingMS != wire.DefaultPolicy().PingMS {
				t.Fatalf("%+v, %v, %v", p, stored, err)
			}
			if !strings.Contains(err.Error(), filepath.Base(q.Kept)) {
				t.Errorf("the finding does not say where it is: %v", err)
			}
			if raw, err := os.ReadFile(q.Kept); err != nil || string(raw) != body {
				t.Errorf("kept %d bytes, %v", len(raw), err)
			}
			if _, stored, err := d.Policy(); err != nil || stored {
				t.Errorf("second reading: %v, %v", stored, err)
			}
		})
	}
}

// A policy is not thrown away because the identity can't be read for now.
func TestPolicyWithoutIdentity(t *testing.T) {
	d := enrolled(t)
	if err := d.SavePolicy(policy(t, 1, "agent-1", wire.Policy{})); err != nil {
		t.Fatal(err)
	}
	write(t, d.Path("identity.json"), []byte("{"))
	var corrupt *state.CorruptError
	if p, stored, err := d.Policy(); !errors.As(err, &corrupt) || stored || p.PingMS == 0 {
		t.Errorf("%+v, %v, %v", p, stored, err)
	}
	if _, err := os.Stat(d.Path("policy.json")); err != nil {
		t.Error(err)
	}
}

func FuzzPolicy(f *testing.F) {
	good, err := policy(f, 1, "agent-1", wire.Policy{Version: 3}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"type":"config_update","sig":"AAAA","kid":"x","payload":{}}`))
	f.Add([]byte(`null`))
	d := enrolled(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		write(t, d.Path("policy.json"), raw)
		p, stored, err := d.Policy()
		if stored != (err == nil) || p.Validate() != nil {
			t.Fatalf("%+v, %v, %v", p, stored, err)
		}
		kept, _ := filepath.Glob(d.Path("policy.json.corrupt-*"))
		for _, k := range kept {
			os.Remove(k)
		}
	})
}

// A policy adds doors before those enrolled with, and takes none away.
func TestDoorsOfPolicyAndEnrollment(t *testing.T) {
	d := enrolled(t)
	id, err := d.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if got := id.Doors(d.StoredPolicy()); !slices.Equal(got, id.OOB) {
		t.Errorf("without a policy: %+v", got)
	}
	second := wire.OOBDoor{URL: "https://second.example:8444"}
	want := []wire.OOBDoor{second, id.OOB[0]}
	for name, told := range map[string][]wire.OOBDoor{"both": want, "another alone": want[:1]} {
		if err := d.SavePolicy(policy(t, 1, "agent-1", wire.Policy{Version: 7, OOB: told})); err != nil {
			t.Fatal(err)
		}
		if got := id.Doors(d.StoredPolicy()); !slices.Equal(got, want) {
			t.Errorf("%s: doors %+v, want %+v", name, got, want)
		}
	}
	// Who only looks leaves what is damaged where it is.
	if err := os.WriteFile(d.Path("policy.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := id.Doors(d.StoredPolicy()); !slices.Equal(got, id.OOB) {
		t.Errorf("with a damaged policy: %+v", got)
	}
	if raw, err := os.ReadFile(d.Path("policy.json")); err != nil || string(raw) != "{" {
		t.Errorf("it was touched: %q, %v", raw, err)
	}
}
