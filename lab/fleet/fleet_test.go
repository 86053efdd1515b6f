package fleet

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMixIsReadAndDealt(t *testing.T) {
	m, err := ParseMix(DefaultMix)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		n    int
		want map[Kind]int
	}{
		{1, map[Kind]int{Cloned: 1}},
		{6, map[Kind]int{Idle: 1, Chatty: 1, Flapping: 1, Deaf: 1, HalfOpen: 1, Cloned: 1}},
		{50, map[Kind]int{Idle: 44, Chatty: 2, Flapping: 1, Deaf: 1, HalfOpen: 1, Cloned: 1}},
		{10_000, map[Kind]int{Idle: 9000, Chatty: 500, Flapping: 100, Deaf: 200, HalfOpen: 100, Cloned: 100}},
	} {
		got := map[Kind]int{}
		for _, k := range m.deal(c.n, 7) {
			got[k]++
		}
		for _, k := range Kinds {
			if got[k] != c.want[k] {
				t.Errorf("of %d agents %d are %s, want %d", c.n, got[k], k, c.want[k])
			}
		}
	}
	if !slices.Equal(m.deal(200, 3), m.deal(200, 3)) || slices.Equal(m.deal(200, 3), m.deal(200, 4)) {
		t.Error("the seed does not decide who is what")
	}
	for _, bad := range []string{"", "idle", "idle=-1", "idle=x", "sleepy=1", "idle=0", "idle=1,idle=2"} {
		if _, err := ParseMix(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestOnlyThisMachineIsCalled(t *testing.T) {
	for _, url := range []string{"https://rmm.example:8443", "https://192.0.2.1:8443", "https://[::1]:8443", "https://127.example.com:1"} {
		o := Options{Agents: 1, Server: url, EnrollToken: "t", Operator: "o", Hold: time.Second}
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "this machine only") {
			t.Errorf("%s: %v", url, err)
		}
	}
	// Also where the server sends its agents.
	if _, err := from(0)(t.Context(), "tcp", "192.0.2.1:443"); err == nil || !strings.Contains(err.Error(), "this machine only") {
		t.Errorf("dial: %v", err)
	}
}

func TestEachPlaceHasAnAddressOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for place := range 2 * MaxAgents { // all of them cloned
		ip := address(place)
		if !ip.IsLoopback() || seen[ip.String()] {
			t.Fatalf("place %d has %s", place, ip)
		}
		seen[ip.String()] = true
	}
}
