package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"gururmm/agent/link"
	"gururmm/checkup"
	"gururmm/internal/neterr"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// adviseRemoved says what to do where the server itself says that it removed this agent.
const adviseRemoved = "An operator has removed this agent from the server. To bring it back: gururmm-agent enroll --force; else: gururmm-agent uninstall."

// adviseQuarantined says what to do where the server itself says that an operator wants it so.
const adviseQuarantined = "Nothing to do here: an operator lifts it with gururmm agents quarantine AGENT --lift"

// adviseRefused says what to do about a refused identity.
const adviseRefused = "The server does not know this endpoint's identity: was it deleted there, or is this a copy of an old state? Enroll it anew with --force."

// upgrade asks for a link as the agent does. Without an identity the refusal, in
// our own form, proves the way.
func (r *run) upgrade(ctx context.Context, p Probe, res *checkup.Result) {
	o, err := r.options(r.at(p))
	if err != nil {
		broke(res, err, "")
		return
	}
	look, err := link.LookAt(ctx, o)
	if err == nil {
		defer look.Close()
		res.Figures = map[string]any{"upgrade_ms": checkup.MS(look.Took), "remote": look.Remote}
		pass(res, fmt.Sprintf("upgraded by %s in %s", look.Remote, short(look.Took)))
		res.Notes = []string{fmt.Sprintf("subprotocol %s, probe link %s", wire.Subprotocol, look.Conn.Link())}
		return
	}
	r.refusal(err, res)
}

// refusal judges why the server did not let us in.
func (r *run) refusal(err error, res *checkup.Result) {
	refused, _ := errors.AsType[*link.Refused](err)
	switch {
	case refused == nil:
		broke(res, err, "")
	case refused.Problem.Code == "":
		broke(res, err, "")
		res.Seen = fmt.Sprintf("HTTP status %d %s, and not in our server's words", refused.Status, http.StatusText(refused.Status))
		res.Type = neterr.WSUpgradeRefused
	case refused.Status == http.StatusUnauthorized && r.subject.Token == nil:
		pass(res, "401 in our server's own words: the way is open, only an identity is missing")
		res.Figures = map[string]any{"status": refused.Status, "code": refused.Problem.Code}
	case refused.Problem.Code == wire.ProblemRemoved:
		broke(res, err, adviseRemoved)
	case refused.Status == http.StatusUnauthorized:
		broke(res, err, adviseRefused)
	case refused.Problem.Code == wire.ProblemQuarantined:
		warn(res, "403 in our server's own words: the way is open, and an operator has quarantined this endpoint", adviseQuarantined)
	case refused.Problem.Code == wire.ProblemRateLimited:
		broke(res, err, "Other doctors are at work, of this endpoint or of many at once: try again in a minute.")
	case refused.Problem.Code == wire.ProblemDraining:
		broke(res, err, "The server is going down or coming up: try again in a minute.")
	default:
		broke(res, err, "")
	}
}

const (
	// pings are sent one after the other.
	pings = 3
	// pongWait bounds the wait for one: several times a bad satellite's round trip.
	pongWait = 6 * time.Second
	// lookEvery is how often the ledgers are looked at while something is awaited.
	lookEvery = 10 * time.Millisecond
)

// open makes a probe link whose incoming frames are read; texts come out of the
// channel, which is closed when the link has ended.
func (r *run) open(ctx context.Context, a Address) (*link.Look, <-chan wire.Envelope, error) {
	o, err := r.options(a)
	if err != nil {
		return nil, nil, err
	}
	look, err := link.LookAt(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	texts := make(chan wire.Envelope, 64) // more than are ever asked for on one link
	go func() {                           // ends with the link, which its opener closes
		defer close(texts)
		for {
			m, err := look.Conn.Read()
			if err != nil {
				return
			}
			env, err := wire.Decode(m.Text)
			if err != nil {
				env = wire.Envelope{}
			}
			select {
			case texts <- env:
			default: // nobody asked for so many
			}
		}
	}()
	return look, texts, nil
}

// ping sends ledger pings and tells who answers them: pongs may be made by any
// box, the server's ledger only by the server.
func (r *run) ping(ctx context.Context, p Probe, res *checkup.Result) {
	look, _, err := r.open(ctx, r.at(p))
	if err != nil {
		r.refusal(err, res)
		return
	}
	defer look.Close()
	var trips []time.Duration
	var view selfcheck.LedgerView
	for range pings {
		sent := time.Now()
		look.Conn.Ping(true)
		view, err = await(ctx, look, pongWait, func(v selfcheck.LedgerView) bool {
			fresh := v.PeerAge != nil && *v.PeerAge <= time.Since(sent)
			ponged := v.PongAge != nil && *v.PongAge <= time.Since(sent)
			return ponged && (fresh || v.Stripped > 0)
		})
		if err != nil || view.RTT == nil || view.Stripped > 0 {
			break
		}
		trips = append(trips, *view.RTT)
	}
	switch {
	case err != nil && view.PongAge != nil && view.Peer == nil && look.Conn.Err() == nil:
		fail(res, "pings are answered, but not by the server: its ledger never came",
			"A box on the way answers pings by itself, so a dead link looks alive: have WebSockets to this server passed through, not proxied.")
	case err != nil:
		broke(res, neterr.During(neterr.StepHTTP, err), "Frames do not pass after the upgrade: look for a box that allows the upgrade and then holds what follows.")
		if look.Conn.Err() == nil {
			res.Seen = "no answer to a ping within " + pongWait.String()
			res.Type = neterr.WSSilent
		}
	case view.Stripped > 0 || view.Foreign > 0:
		warn(res, fmt.Sprintf("pings pass, but a box on the way changes what they carry (%d of ours, %d of the server's)", view.Stripped, view.Foreign),
			"Losses are then proven by texts only, a minute later: have WebSockets to this server passed through unaltered.")
	default:
		least, most := trips[0], trips[0]
		for _, t := range trips {
			least, most = min(least, t), max(most, t)
		}
		pass(res, fmt.Sprintf("%d of %d came back unaltered in %s to %s, the server's ledgers with them", len(trips), pings, short(least), short(most)))
		res.Figures = map[string]any{"rtt_min_ms": checkup.MS(least), "rtt_max_ms": checkup.MS(most)}
	}
}

var errNoAnswer = errors.New("no answer in time")

// await looks at the link's account until fact holds, the link has ended, or the time is over.
func await(ctx context.Context, look *link.Look, limit time.Duration, fact func(selfcheck.LedgerView) bool) (selfcheck.LedgerView, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		view := look.Conn.Facts(time.Now()).Ledger
		if fact(view) {
			return view, nil
		}
		select {
		case <-tick.C:
		case <-look.Conn.Done():
			return view, look.Conn.Err()
		case <-over.C:
			return view, errNoAnswer
		case <-ctx.Done():
			return view, ctx.Err()
		}
	}
}
