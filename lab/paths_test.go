package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/lab/proxy"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// damage is one way to break the path, and what must come of it.
type damage struct {
	name   string
	orders []string // to the proxy: "down drop-text"
	// script is what the commands do beside leaving their mark: a large script
	// or output where the fault strikes by size.
	script string
	// verdicts: one of them must be recorded, proven. None: the link must be kept.
	verdicts []selfcheck.Code
	// finding must stand in the status.
	finding selfcheck.Code
	// oob: the commands must have come by the second door; oobResults: the results must.
	oob, oobResults bool
}

var (
	largeScript = "# " + strings.Repeat("a long comment makes a long command. ", 100)
	largeOutput = `i=0; while [ $i -lt 100 ]; do echo "line $i of an output that takes more than a small frame"; i=$((i+1)); done`
)

// damages is every fault of frames, in each direction in which it makes sense.
var damages = []damage{
	{name: "drop-text/down", orders: []string{"down drop-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost}, oob: true, oobResults: true},
	{name: "drop-text/up", orders: []string{"up drop-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}, oobResults: true},
	{name: "drop-text/both", orders: []string{"both drop-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost, selfcheck.CodeLinkUplinkLost}, oob: true, oobResults: true},

	{name: "drop-text-above/down", orders: []string{"down drop-text-above:2000"}, script: largeScript,
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost}, oob: true, oobResults: true},
	{name: "drop-text-above/up", orders: []string{"up drop-text-above:2000"}, script: largeOutput,
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}, oobResults: true},
	{name: "drop-text-below/down", orders: []string{"down drop-text-below:450"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost}},
	{name: "drop-text-below/up", orders: []string{"up drop-text-below:450"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}},
	{name: "drop-text-after/down", orders: []string{"down drop-text-after:2"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost}},
	{name: "drop-text-after/up", orders: []string{"up drop-text-after:2"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}},
	{name: "drop-text-every/down", orders: []string{"down drop-text-every:3"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost}},
	{name: "drop-text-every/up", orders: []string{"up drop-text-every:3"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}},
	{name: "drop-text-first/down", orders: []string{"down drop-text-first"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost}},
	{name: "drop-text-first/up", orders: []string{"up drop-text-first"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}},

	// Within the grace a delay is no fault; beyond it, it can't be told from a loss until the texts come.
	{name: "delay-text/down/short", orders: []string{"down delay-text:300ms"}},
	{name: "delay-text/up/short", orders: []string{"up delay-text:300ms"}},
	{name: "delay-text/down/long", orders: []string{"down delay-text:3s"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextLost, selfcheck.CodeLinkTextDelayed}},
	{name: "delay-text/up/long", orders: []string{"up delay-text:3s"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}},

	{name: "answer-pings/down", orders: []string{"down answer-pings"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkSilent}, oob: true, oobResults: true},
	{name: "answer-pings/up", orders: []string{"up answer-pings"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost, selfcheck.CodeLinkPingForeign}, oobResults: true},
	{name: "answer-pings/both", orders: []string{"both answer-pings"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkPingForeign}, oob: true, oobResults: true},

	{name: "strip-pings/down", orders: []string{"down strip-pings"}, finding: selfcheck.FindPingsRewritten},
	{name: "strip-pings/up", orders: []string{"up strip-pings"}, finding: selfcheck.FindPingsRewritten},
	{name: "strip-pings/both", orders: []string{"both strip-pings"}, finding: selfcheck.FindPingsRewritten},
	{name: "rewrite-pings/down", orders: []string{"down rewrite-pings"}, finding: selfcheck.FindPingsRewritten},
	{name: "rewrite-pings/up", orders: []string{"up rewrite-pings"}, finding: selfcheck.FindPingsRewritten},
	{name: "strip-pings-and-drop-text/down", orders: []string{"both strip-pings", "down strip-pings and drop-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextSilent, selfcheck.CodeLinkPingForeign, selfcheck.CodeLinkTextLost}, oob: true, oobResults: true},
	{name: "strip-pings-and-drop-text/up", orders: []string{"both strip-pings", "up strip-pings and drop-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextSilent, selfcheck.CodeLinkPingForeign, selfcheck.CodeLinkUplinkLost}, oobResults: true},

	{name: "alter-text/down", orders: []string{"down alter-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextAltered}, oob: true, oobResults: true},
	{name: "alter-text/up", orders: []string{"up alter-text"}, script: largeOutput,
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextAltered}, oobResults: true},
	{name: "duplicate-text/down", orders: []string{"down duplicate-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextAltered}},
	{name: "duplicate-text/up", orders: []string{"up duplicate-text"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkTextAltered}},

	{name: "stuck-fragment/down", orders: []string{"down stuck-fragment"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkStuckFragment}},
	{name: "stuck-fragment/up", orders: []string{"up stuck-fragment"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkUplinkLost}},

	{name: "freeze/down", orders: []string{"down freeze"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkSilent}, oob: true, oobResults: true},
	{name: "freeze/up", orders: []string{"up freeze"},
		// The server gives the mute link up before the agent can prove anything; new ones are not verified.
		verdicts: []selfcheck.Code{selfcheck.CodeLinkSilent, selfcheck.CodeLinkUplinkLost, selfcheck.CodeLinkHandshake}, oobResults: true},
	{name: "freeze/both", orders: []string{"both freeze"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkSilent}, oob: true, oobResults: true},

	{name: "cut-mid-frame/down", orders: []string{"down cut-mid-frame"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkHandshake, selfcheck.CodeLinkFlapping}},
	{name: "cut-mid-frame/up", orders: []string{"up cut-mid-frame"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkHandshake, selfcheck.CodeLinkFlapping}},

	{name: "door/refuse", orders: []string{"link refuse"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkHandshake}},
	{name: "door/hang", orders: []string{"link hang", "down cut-mid-frame"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkHandshake, selfcheck.CodeLinkFlapping}},
	{name: "door/reset", orders: []string{"link reset"},
		verdicts: []selfcheck.Code{selfcheck.CodeLinkHandshake}},
}

// TestEachDamage breaks the path in one way, orders commands through it, mends
// it, and orders one more.
func TestEachDamage(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) { d.run(newScene(t)) })
	}
}

func (d damage) run(s *scene) {
	s.completed(s.submit(""))
	before := s.linkID(s.verified())

	broken := time.Now()
	s.order(d.orders...)
	var during []*order
	for range 3 {
		during = append(during, s.submit(d.script))
	}
	for _, o := range during {
		c := s.completed(o)
		if d.oob && c.Channel != wire.ChannelOOB {
			s.t.Errorf("command %s came by %s, want the second door", o.id, c.Channel)
		}
		if by := s.stored(o); d.oobResults && by != wire.ChannelOOB {
			s.t.Errorf("result of command %s came by %s, want the second door", o.id, by)
		}
	}
	if len(d.verdicts) > 0 {
		s.beacon(broken, d.verdicts...)
	}
	if d.finding != "" {
		s.finding(d.finding)
	}
	s.struck(d.directions()...)

	s.order("clear")
	after := s.mended()
	if len(d.verdicts) == 0 && after != before {
		s.t.Errorf("the link was given up for a path that delivers: %s, then %s", before, after)
	}
	if c := s.completed(s.submit("")); c.Channel != wire.ChannelLink || c.Attempts != 1 {
		s.t.Errorf("after the path was mended the command came by %s at attempt %d", c.Channel, c.Attempts)
	}
	s.allOnce()
}

// mended waits until the ledgers of a verified link, compared since now, agree: what was
// lost just before may not have been noticed yet.
func (s *scene) mended() wire.LinkID {
	s.t.Helper()
	since := time.Now()
	s.eventually("ledgers that agree", func() (bool, error) {
		st := s.status()
		l := st.Snapshot.Link.Ledger
		return st.Snapshot.Link.Phase == selfcheck.PhaseVerified && l.PeerAge != nil && *l.PeerAge < time.Since(since) &&
				l.Local.Read >= l.Peer.Written && l.Peer.Read >= l.Local.Written,
			fmt.Errorf("the agent says %s (%s)", st.Snapshot.Link.Phase, st.Verdict.Code)
	})
	return s.linkID(s.verified())
}

// finding waits until it stands in the agent's status.
func (s *scene) finding(code selfcheck.Code) {
	s.t.Helper()
	s.eventually("the finding "+string(code), func() (bool, error) {
		st := s.status()
		return slices.ContainsFunc(st.Findings, func(f selfcheck.Finding) bool { return f.Code == code }),
			fmt.Errorf("verdict %s, findings %v", st.Verdict.Code, st.Findings)
	})
}

// stored is the channel by which the result came that was stored.
func (s *scene) stored(o *order) wire.Channel {
	s.t.Helper()
	trace, err := s.Client().Trace(s.t.Context(), o.id)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range trace.Entries {
		if e.Stage == wire.StageResultStored {
			return e.Channel
		}
	}
	s.t.Errorf("command %s: no stored result in its trace", o.id)
	return ""
}

// directions are those that the damage strikes.
func (d damage) directions() (dirs []proxy.Direction) {
	for _, o := range d.orders {
		where, _, _ := strings.Cut(o, " ")
		if where == "both" {
			dirs = append(dirs, proxy.Down, proxy.Up)
		} else {
			dirs = append(dirs, proxy.Direction(where))
		}
	}
	return dirs
}
