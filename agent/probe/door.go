package probe

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"gururmm/checkup"
	"gururmm/internal/fault"
	"gururmm/internal/neterr"
	"gururmm/oob"
	"gururmm/wire"
)

// door asks the second door as the guardian does, twice: the second request goes
// over the connection that the first has made, so its time is that of the answer.
func (r *run) door(ctx context.Context, p Probe, res *checkup.Result) {
	if r.subject.Token == nil {
		res.Status, res.Seen = checkup.Skip, "needs an identity: "+r.subject.NotEnrolled
		return
	}
	a := r.at(p)
	var roots *x509.CertPool
	if a.CA != "" {
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(a.CA))
	}
	client, err := oob.NewClient(oob.ClientOptions{
		Doors: []wire.OOBDoor{{URL: a.URL, Pin: a.Pin}}, Token: r.subject.Token, Proxy: a.Proxy, RootCAs: roots,
		Clock: fault.Now, Probe: true,
	})
	if err != nil {
		broke(res, err, "")
		return
	}
	defer client.Close()
	var took [2]time.Duration
	for i := range took {
		began := time.Now()
		answer, err := client.Poll(ctx, wire.PollRequest{Instance: "doctor"})
		took[i] = time.Since(began)
		if err != nil {
			r.shut(err, res)
			return
		}
		if i == 1 { // the first answer's time has the handshake in it
			r.Observe(answer.ServerTime, began, began.Add(took[i]))
		}
	}
	pass(res, fmt.Sprintf("answered this endpoint in %s, the first time in %s", short(took[1]), short(took[0])))
	res.Figures = map[string]any{"answer_ms": checkup.MS(took[1]), "first_answer_ms": checkup.MS(took[0])}
	if offset, known := client.Offset(); known {
		res.Figures["clock_offset_ms"] = checkup.MS(offset)
	}
}

// shut says why the door did not answer.
func (r *run) shut(err error, res *checkup.Result) {
	e, ok := errors.AsType[*oob.DoorError](err)
	if !ok {
		broke(res, err, "")
		return
	}
	fail(res, e.Err.Error(), "")
	res.Phase, res.Type = e.Phase, e.Type
	p, ours := errors.AsType[wire.Problem](err)
	switch {
	case ours && p.Code == wire.ProblemRemoved:
		res.Do = adviseRemoved
	case errors.Is(err, oob.ErrRejected) && ours:
		res.Do = adviseRefused
	case ours && p.Code == wire.ProblemQuarantined:
		res.Do = adviseQuarantined
	case e.Status != 0 && !ours:
		res.Seen = fmt.Sprintf("HTTP status %d %s, and not in our server's words", e.Status, http.StatusText(e.Status))
		res.Do = adviseFor(neterr.HTTPError)
	default:
		res.Do = adviseFor(e.Type)
	}
}

// proxy tells which way out is configured for which kind of endpoint.
func (r *run) proxy(res *checkup.Result) {
	ways := map[Kind]string{}
	shared := map[string]map[Kind]bool{}
	res.Figures = map[string]any{}
	for _, a := range r.subject.Addresses {
		via, err := a.via()
		if err != nil {
			fail(res, fmt.Sprintf("the proxy for %s can't be chosen: %v", a.URL, err), "Mend "+r.subject.ProxyFrom[a.Kind]+".")
			return
		}
		text := "straight"
		if via != nil {
			text = "by " + via.Redacted()
			if shared[via.Host] == nil {
				shared[via.Host] = map[Kind]bool{}
			}
			shared[via.Host][a.Kind] = true
		}
		ways[a.Kind] = text + " (" + r.subject.ProxyFrom[a.Kind] + ")"
		res.Figures[a.URL] = text
	}
	if len(ways) == 0 {
		res.Status, res.Seen = checkup.Skip, "no server is known"
		return
	}
	var parts []string
	for _, kind := range []Kind{KindLink, KindDoor} {
		if ways[kind] != "" {
			parts = append(parts, string(kind)+" "+ways[kind])
		}
	}
	pass(res, sentence(parts...))
	for host, kinds := range shared {
		if len(kinds) > 1 {
			warn(res, res.Seen, "Link and second door share the proxy "+host+": what breaks it breaks both. Give one of them another way out.")
		}
	}
}

// skewNote and skewFail are offsets that a person is told of: commands' times are
// corrected for, but logs and certificates are not; and beyond the latter a token
// made by this clock alone is refused.
const (
	skewNote = 5 * time.Second
	skewFail = 5 * time.Minute
)

// sample is one comparison with the server's clock; the truth is within bound of offset.
type sample struct{ offset, bound time.Duration }

// tightest gives the sample with the least bound.
func tightest(all []sample) sample {
	best := all[0]
	for _, s := range all[1:] {
		if s.bound < best.bound {
			best = s
		}
	}
	return best
}

// clock tells how far this machine's clock is off the server's.
func (r *run) clock(res *checkup.Result) {
	r.mu.Lock()
	samples := append([]sample(nil), r.samples...)
	r.mu.Unlock()
	if len(samples) == 0 {
		res.Status, res.Seen = checkup.Skip, "needs an answer of the server, and none told its time"
		return
	}
	s := tightest(samples)
	res.Figures = map[string]any{"offset_ms": checkup.MS(s.offset), "bound_ms": checkup.MS(s.bound)}
	side := "behind"
	if s.offset < 0 {
		side = "ahead of"
	}
	seen := fmt.Sprintf("%s %s the server's (± %s)", short(s.offset.Abs()), side, short(s.bound))
	if s.offset.Abs() <= s.bound {
		seen = fmt.Sprintf("as the server's (± %s)", short(s.bound))
	}
	switch off := max(0, s.offset.Abs()-s.bound); {
	case off > skewFail:
		fail(res, seen, "Set this machine's clock and have it synchronised (NTP): certificates and scheduled work depend on it. The agent itself corrects for it.")
	case off > skewNote:
		warn(res, seen, "Have this machine's clock synchronised (NTP). The agent itself corrects for it.")
	default:
		pass(res, seen)
	}
}
