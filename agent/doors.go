package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"gururmm/agent/state"
	"gururmm/internal/wrap"
	"gururmm/oob"
	"gururmm/wire"
)

// doorTestLimit bounds the test of one door.
const doorTestLimit = 20 * time.Second

// DoorTest is what came of asking at each second door.
type DoorTest struct {
	Doors    []DoorAnswer   `json:"doors"`
	Guardian GuardianBeacon `json:"guardian"`
}

// DoorAnswer tells of one door.
type DoorAnswer struct {
	URL    string         `json:"url"`
	OK     bool           `json:"ok"`
	Took   time.Duration  `json:"took_ns"`
	Offset *time.Duration `json:"clock_offset_ns,omitempty"` // server's clock minus ours
	View   string         `json:"presence,omitempty"`        // as the server sees us
	Why    string         `json:"why,omitempty"`
}

// GuardianBeacon tells of the beacon of a running guardian.
type GuardianBeacon struct {
	Running bool   `json:"running"`
	OK      bool   `json:"ok"`
	Door    string `json:"door,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Well reports whether each door answered, and a running guardian's beacon arrived.
func (t DoorTest) Well() bool {
	well := len(t.Doors) > 0 && (t.Guardian.OK || !t.Guardian.Running)
	for _, d := range t.Doors {
		well = well && d.OK
	}
	return well
}

// TestDoors asks at each configured second door with this endpoint's identity. The
// requests are marked as probes: the server hands nothing out and notes no presence.
func TestDoors(ctx context.Context, o Options) (DoorTest, error) {
	path, err := StatePath(o)
	if err != nil {
		return DoorTest{}, err
	}
	dir, exposed, err := state.Look(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return DoorTest{}, fmt.Errorf("%w: there is no %s", state.ErrNotEnrolled, path)
	case err != nil:
		return DoorTest{}, err
	case exposed != nil: // who can write agent.yaml would be sent the endpoint's token
		return DoorTest{}, fmt.Errorf("%w; mend that first (%s), see: gururmm-agent doctor --only state", exposed, state.PrivateBy(path))
	}
	config, err := dir.Config()
	if err != nil {
		return DoorTest{}, err
	}
	id, err := dir.Identity()
	if err != nil {
		return DoorTest{}, err
	}
	way, err := doorOptions(config, id)
	if err != nil {
		return DoorTest{}, err
	}
	way.Probe = true
	var t DoorTest
	for _, d := range config.Doors(id.Doors(dir.StoredPolicy())) {
		way.Doors = []wire.OOBDoor{d}
		client, err := oob.NewClient(way)
		if err != nil {
			t.Doors = append(t.Doors, DoorAnswer{URL: d.URL, Why: err.Error()})
			continue
		}
		t.Doors = append(t.Doors, askDoor(ctx, d.URL, client))
		client.Close()
	}
	return t, nil
}

func doorURLs(doors []wire.OOBDoor) (urls []string) {
	for _, d := range doors {
		urls = append(urls, d.URL)
	}
	return urls
}

// doorOptions are how a second door is reached as id, whichever it is.
func doorOptions(config state.Config, id state.Identity) (oob.ClientOptions, error) {
	proxy, err := config.OOBProxy()
	if err != nil {
		return oob.ClientOptions{}, err
	}
	o := oob.ClientOptions{Token: id.Token, Proxy: proxy}
	if id.LinkCA != "" {
		o.RootCAs = x509.NewCertPool()
		o.RootCAs.AppendCertsFromPEM([]byte(id.LinkCA))
	}
	return o, nil
}

func askDoor(ctx context.Context, url string, client *oob.Client) DoorAnswer {
	ctx, cancel := context.WithTimeout(ctx, doorTestLimit)
	defer cancel()
	a := DoorAnswer{URL: url}
	began := time.Now()
	answer, err := client.Poll(ctx, wire.PollRequest{Instance: "doctor"})
	a.Took = time.Since(began)
	if off, known := client.Offset(); known {
		a.Offset = &off
	}
	if err != nil {
		a.Why = err.Error()
		return a
	}
	a.OK = true
	if answer.View != nil {
		a.View = answer.View.Presence
	}
	return a
}

// WriteDoorTest renders t for people.
func WriteDoorTest(w io.Writer, t DoorTest) error {
	p := &page{}
	if len(t.Doors) == 0 {
		p.line("No second door is configured: nothing can be rescued out of band.")
	}
	for _, d := range t.Doors {
		said := "answered in " + short(d.Took)
		if !d.OK {
			said = "failed after " + short(d.Took) + ": " + d.Why
		}
		if d.Offset != nil {
			said += fmt.Sprintf("; server's clock minus ours %v", d.Offset.Round(time.Millisecond))
		}
		if d.View != "" {
			said += "; the server sees this endpoint as " + d.View
		}
		p.wrap("door      ", d.URL)
		p.wrap("          ", wrap.Plain(said))
	}
	g := t.Guardian
	switch {
	case !g.Running:
		p.wrap("beacon    ", "none sent ("+wrap.Plain(g.Why)+"): the doors were asked directly")
	case g.OK:
		p.wrap("beacon    ", "the guardian's arrived at "+g.Door)
	default:
		p.wrap("beacon    ", "the guardian's did not arrive: "+wrap.Plain(g.Why))
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}
