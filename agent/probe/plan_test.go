package probe

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	linkURL = "wss://rmm.example:8443/v1/link"
	doorURL = "https://rmm.example:8444"
)

func ids(plan []Probe) string {
	var out []string
	for _, p := range plan {
		id := p.ID
		for _, e := range []string{" link " + linkURL, " second door " + doorURL} {
			id = strings.Replace(id, e, map[bool]string{true: "@door", false: "@link"}[strings.Contains(e, "door")], 1)
		}
		if p.Skip != "" {
			id += "(skip)"
		}
		out = append(out, id)
	}
	return strings.Join(out, " ")
}

const machineAll = "proxy clock state disk service versions instance guardian"

func TestPlan(t *testing.T) {
	link, door := Endpoint{Kind: KindLink, URL: linkURL}, Endpoint{Kind: KindDoor, URL: doorURL}
	way := "dns@link tcp@link tls@link upgrade@link ping@link echo@link mtu@link "
	for _, c := range []struct {
		name string
		in   Input
		want string
	}{
		{"enrolled", Input{Endpoints: []Endpoint{link, door}},
			way + "dns@door tcp@door tls@door door@door " + machineAll},
		{"before enrollment, with a server", Input{Endpoints: []Endpoint{link}, NotEnrolled: "not enrolled"},
			"dns@link tcp@link tls@link upgrade@link ping@link(skip) echo@link(skip) mtu@link " + machineAll},
		{"before enrollment, without one", Input{NotEnrolled: "not enrolled"},
			"proxy clock(skip) state disk service versions instance guardian"},
		{"plain, on loopback", Input{Endpoints: []Endpoint{{Kind: KindLink, URL: "ws://127.0.0.1:1/v1/link"}}, Only: []string{"upgrade"}},
			"dns link ws://127.0.0.1:1/v1/link tcp link ws://127.0.0.1:1/v1/link upgrade link ws://127.0.0.1:1/v1/link"},
		{"only what is asked for, and what that needs", Input{Endpoints: []Endpoint{link, door}, Only: []string{"ping", "disk"}},
			"dns@link tcp@link tls@link upgrade@link ping@link disk"},
		{"the clock takes along whatever tells the time", Input{Endpoints: []Endpoint{link, door}, Only: []string{"clock"}},
			"dns@link tcp@link tls@link upgrade@link dns@door tcp@door tls@door door@door clock"},
	} {
		plan, err := Plan(c.in)
		if err != nil || ids(plan) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.name, err, ids(plan), c.want)
		}
	}
	if _, err := Plan(Input{Only: []string{"dns", "teleport"}}); err == nil || !strings.Contains(err.Error(), `"teleport"`) {
		t.Errorf("an unknown probe: %v", err)
	}
}

// Whatever is left out, a plan can be run: what a probe waits for stands before
// it, each has a limit, and no two probe links are open at once.
func TestPlansCanBeRun(t *testing.T) {
	endpoints := []Endpoint{
		{Kind: KindLink, URL: linkURL, Via: "http://u:xxxxx@gateway.example:3128"},
		{Kind: KindLink, URL: "wss://192.0.2.1/v1/link"}, {Kind: KindDoor, URL: doorURL},
	}
	for _, n := range append(slices.Clone(Names), struct{ Name, What string }{}) {
		in := Input{Endpoints: endpoints, Timeout: 20 * time.Second}
		if n.Name != "" {
			in.Only = []string{n.Name}
		}
		plan, err := Plan(in)
		if err != nil || len(plan) == 0 {
			t.Fatalf("%q: %v", n.Name, err)
		}
		before := map[string]bool{}
		for _, p := range plan {
			for _, id := range slices.Concat(p.Needs, p.After) {
				if !before[id] {
					t.Errorf("--only %q: %s waits for %q, which does not stand before it", n.Name, p.ID, id)
				}
			}
			if before[p.ID] {
				t.Errorf("%s twice", p.ID)
			}
			before[p.ID] = true
			if p.Timeout <= 0 || p.Timeout > in.Timeout {
				t.Errorf("%s may take %v", p.ID, p.Timeout)
			}
			if links := p.Name == Upgrade || p.Name == Ping || p.Name == Echo; links != p.Alone {
				t.Errorf("%s alone: %v", p.ID, p.Alone)
			}
		}
	}
	plan, _ := Plan(Input{Endpoints: endpoints})
	if plan[0].Target != "gateway.example" || plan[7].Target != "192.0.2.1" {
		t.Errorf("names looked up: %s, %s", plan[0].Target, plan[7].Target)
	}
}
