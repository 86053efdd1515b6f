package selfcheck

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/wire"
)

const (
	ourLink     wire.LinkID = 0xa1
	ourInstance             = "instance-1"
)

func sec(s float64) *time.Duration { return new(time.Duration(s * float64(time.Second))) }

// healthy is a verified link on which text went both ways a moment ago.
func healthy() Snapshot {
	s := Snapshot{
		Taken:  t0,
		Worker: WorkerFacts{PID: 100, Version: "1", Instance: ourInstance, Running: true, Silent: sec(0)},
		Link: LinkFacts{
			Phase: PhaseVerified, PhaseAge: sec(300), VerifiedAge: sec(300), ID: ourLink, URL: "wss://rmm.test/v1/link",
			In:  TapView{AnyAge: sec(2), TextAge: sec(20), PingAge: sec(2), PongAge: sec(3), Frames: map[string]ClassView{"text": {Count: 17}}},
			Out: TapView{AnyAge: sec(2), TextAge: sec(20)},
			Ledger: LedgerView{
				Local: wire.Ledger{Link: ourLink, Written: 9, Read: 17},
				Peer:  &wire.Ledger{Link: ourLink, Written: 17, Read: 9}, PeerAge: sec(2), PeerVia: ViaPing,
				RTT: sec(0.05), PongAge: sec(3),
			},
		},
		Loops: map[string]LoopFacts{"reader": {}, "dispatcher": {}, "writer": {}, "executor": {}, "metrics": {}},
		Jobs:  JobFacts{Limit: 8},
		Clock: ClockFacts{Offset: sec(0.01)},
		OOB:   OOBFacts{Configured: true, LastOK: sec(60)},
	}
	s.Stages.Read, s.Stages.Decoded = 17, 17
	return s
}

// connecting is an open link that is not verified yet.
func connecting(phase Phase) Snapshot {
	s := healthy()
	s.Link.Phase, s.Link.PhaseAge, s.Link.VerifiedAge = phase, sec(0.3), nil
	s.Link.In = TapView{AnyAge: sec(0.2)}
	s.Link.Ledger = LedgerView{Local: wire.Ledger{Link: ourLink, Written: 1}, RTT: sec(0.05)}
	return s
}

// dialing has no link at all.
func dialing() Snapshot {
	s := healthy()
	s.Link = LinkFacts{Phase: PhaseDialing, PhaseAge: sec(0.3), Attempts: 1}
	return s
}

func lose(s *Snapshot, n uint64, age float64) {
	s.Link.Ledger.Peer = &wire.Ledger{Link: ourLink, Written: s.Link.Ledger.Local.Read + n}
	s.Link.Ledger.PeerAge, s.Link.Ledger.PeerVia = sec(age), ViaPing
	s.Link.Ledger.Down = &Gap{Missing: n, Age: *sec(age)}
}

func view(s *Snapshot, age float64, link wire.LinkView) {
	link.Link, link.Instance, link.State = ourLink, ourInstance, "verified"
	s.OOB.View, s.OOB.ViewAge = &wire.ServerView{Presence: "verified", Links: []wire.LinkView{link}}, sec(age)
}

type judgeCase struct {
	name      string
	from      func() Snapshot // default healthy
	change    func(s *Snapshot)
	want      Code
	suspected bool
	masks     []Code // among those hidden
	findings  []Code // exactly
	says      string // within the sentence
	not       string // nowhere in it
	after     float64
}

var judgeCases = []judgeCase{
	{name: "text went both ways", want: CodeOK, says: "20 s ago; 9 written and 17 read"},
	{name: "idle", want: CodeOKIdle, change: func(s *Snapshot) { s.Link.In.TextAge = sec(500) }},
	{name: "idle without a tap", want: CodeOKIdle, change: func(s *Snapshot) { s.Link.In = TapView{} }},

	// Not known is not well.
	{name: "no snapshot", want: CodeUnknown, change: func(s *Snapshot) { *s = Snapshot{} }},
	{name: "nothing in it", want: CodeUnknown, change: func(s *Snapshot) {
		*s = Snapshot{Taken: t0, Worker: WorkerFacts{Running: true, Silent: sec(0)}}
	}},
	{name: "verified, but nothing heard", want: CodeUnknown, change: func(s *Snapshot) {
		s.Link = LinkFacts{Phase: PhaseVerified, ID: ourLink}
	}},
	{name: "facts without a time", want: CodeUnknown, change: func(s *Snapshot) { s.Taken = time.Time{} }},

	// link.text.lost
	{name: "text lost", want: CodeLinkTextLost, change: func(s *Snapshot) { lose(s, 2, 1.2) }, says: "written 19 texts on this link, 17 were read here: 2 missing"},
	{name: "text perhaps lost", want: CodeLinkTextLost, suspected: true, change: func(s *Snapshot) { lose(s, 1, 0.2) }, says: "proof after 1.0 s"},
	{name: "suspicion ripens by the clock", want: CodeLinkTextLost, change: func(s *Snapshot) { lose(s, 1, 0.2) }, after: 0.9},
	{name: "grace of a long path", want: CodeLinkTextLost, suspected: true, change: func(s *Snapshot) {
		lose(s, 1, 3)
		s.Link.Ledger.RTT = sec(0.8)
	}},
	{name: "grace of a long path is over", want: CodeLinkTextLost, change: func(s *Snapshot) {
		lose(s, 1, 3.3)
		s.Link.Ledger.RTT = sec(0.8)
	}},
	{name: "first text lost", from: func() Snapshot { return connecting(PhaseAuth) }, want: CodeLinkTextLost, change: func(s *Snapshot) { lose(s, 1, 1.1) },
		masks: []Code{CodeLinkConnecting}},
	{name: "text lost again after an attempt failed", from: func() Snapshot { return connecting(PhaseAuth) }, want: CodeLinkTextLost,
		change: func(s *Snapshot) {
			lose(s, 1, 1.1)
			s.Link.Attempts, s.Link.Failure = 2, &NetworkError{Phase: "application", Type: "ws.unverified"}
		}, masks: []Code{CodeLinkHandshake}},
	{name: "old link's gap while dialing", from: dialing, want: CodeLinkConnecting, change: func(s *Snapshot) { lose(s, 1, 9) }},
	{name: "text lost and owed", want: CodeLinkTextLost, change: func(s *Snapshot) {
		lose(s, 1, 20)
		s.Link.Ledger.Closed, s.Link.Ledger.ClosedAge = 1, sec(5)
	}, masks: []Code{CodeLinkTextDelayed}},

	// link.text.delayed
	{name: "text was late", want: CodeLinkTextDelayed, change: func(s *Snapshot) { s.Link.Ledger.Closed, s.Link.Ledger.ClosedAge = 3, sec(5) }, says: "3 times"},
	{name: "text was late long ago", want: CodeOK, change: func(s *Snapshot) { s.Link.Ledger.Closed, s.Link.Ledger.ClosedAge = 3, sec(61) }},

	// link.text.altered
	{name: "text altered", want: CodeLinkTextAltered, change: func(s *Snapshot) {
		s.Link.Ledger.Altered, s.Link.Ledger.AlteredAge = "down", sec(0)
		s.Stages.Undecoded, s.UndecodedAge = 1, sec(0)
		s.Stages.Rejected, s.RejectedAge, s.RejectedCode = 1, sec(0), wire.CodeBadSignature
	}, masks: []Code{CodeAgentDecode, CodeAgentRejected}},
	{name: "text altered upwards", want: CodeLinkTextAltered, change: func(s *Snapshot) { s.Link.Ledger.Altered = "up" }, says: "to the server"},
	{name: "text repeated", want: CodeLinkTextAltered, change: func(s *Snapshot) { s.Link.Ledger.Excess = &Gap{Missing: 1, Age: *sec(1.5)} }, says: "repeated"},
	{name: "text perhaps repeated", want: CodeLinkTextAltered, suspected: true, change: func(s *Snapshot) { s.Link.Ledger.Excess = &Gap{Missing: 1} }, after: 1.4},

	// link.text.stuck_fragment
	{name: "stuck fragment", want: CodeLinkStuckFragment, change: func(s *Snapshot) {
		lose(s, 1, 1.2)
		s.Link.In.OpenFragment, s.Link.In.FragmentIdle = sec(1.3), sec(1.3)
	}, masks: []Code{CodeLinkTextLost}},
	{name: "perhaps a stuck fragment", want: CodeLinkStuckFragment, suspected: true, change: func(s *Snapshot) {
		lose(s, 1, 0.1)
		s.Link.In.OpenFragment = sec(0.2)
	}, masks: []Code{CodeLinkTextLost}},
	{name: "fragment without a byte for long", want: CodeLinkStuckFragment, change: func(s *Snapshot) { s.Link.In.OpenFragment = sec(5.1) }},
	{name: "fragment that grows", want: CodeOK, change: func(s *Snapshot) {
		s.Link.In.OpenFragment, s.Link.In.FragmentIdle = sec(30), sec(0.5)
	}},
	{name: "fragment just begun", want: CodeOK, change: func(s *Snapshot) { s.Link.In.OpenFragment = sec(1) }},

	// link.uplink.lost
	{name: "uplink lost", want: CodeLinkUplinkLost, change: func(s *Snapshot) {
		s.Link.Ledger.Up = &Gap{Missing: 1, Age: *sec(1.1)}
		s.Link.Ledger.Peer.Read = 8
	}, says: "Of 9 texts written here the server has read 8"},
	{name: "uplink perhaps lost", want: CodeLinkUplinkLost, suspected: true, change: func(s *Snapshot) { s.Link.Ledger.Up = &Gap{Missing: 1, Age: *sec(0.1)} }},
	{name: "only fresh ledgers prove the uplink's loss", want: CodeLinkUplinkLost, suspected: true, change: func(s *Snapshot) {
		s.Link.Ledger.Up, s.Worker.Silent = &Gap{Missing: 1, Age: *sec(0.9)}, sec(1)
	}},

	// link.ping.foreign and path.pings_rewritten
	{name: "something else answers", want: CodeLinkPingForeign, change: func(s *Snapshot) {
		s.Link.Ledger.UnansweredAge = sec(1.2)
		s.Link.Ledger.PeerAge, s.Link.In.TextAge = sec(95), sec(95)
	}},
	{name: "something else answers a new link", from: func() Snapshot { return connecting(PhaseAuth) }, want: CodeLinkPingForeign,
		change: func(s *Snapshot) { s.Link.Ledger.UnansweredAge = sec(1.1) }, masks: []Code{CodeLinkConnecting}, says: "no text has ever come"},
	{name: "the answer is under way", from: func() Snapshot { return connecting(PhaseAuth) }, want: CodeLinkConnecting,
		change: func(s *Snapshot) { s.Link.Ledger.UnansweredAge = sec(0.5) }},
	{name: "pings rewritten, text goes", want: CodeOK, change: func(s *Snapshot) {
		s.Link.Ledger.Foreign, s.Link.Ledger.Stripped = 4, 5
		s.Link.Ledger.PeerVia, s.Link.Ledger.PeerAge, s.Link.In.TextAge = ViaText, sec(5), sec(5)
	}, findings: []Code{FindPingsRewritten}},
	{name: "pings rewritten, no text for long", want: CodeLinkPingForeign, change: func(s *Snapshot) {
		s.Link.Ledger.Foreign, s.Link.Ledger.Stripped = 4, 5
		s.Link.Ledger.PeerVia, s.Link.Ledger.PeerAge, s.Link.In.TextAge = ViaText, sec(95), sec(95)
	}},
	{name: "pings rewritten on a new link, auth under way", from: func() Snapshot { return connecting(PhaseAuth) }, want: CodeLinkConnecting,
		change: func(s *Snapshot) { s.Link.Ledger.Stripped = 1 }},
	{name: "pings rewritten on a new link, auth unanswered", from: func() Snapshot { return connecting(PhaseAuth) }, want: CodeLinkPingForeign,
		change: func(s *Snapshot) { s.Link.Ledger.Stripped, s.Link.PhaseAge = 1, sec(5.5) }},
	{name: "a peer without ledgers", want: CodeOK, change: func(s *Snapshot) {
		s.Link.Plain = true
		s.Link.Ledger.Foreign, s.Link.Ledger.Peer, s.Link.Ledger.PeerVia, s.Link.Ledger.PeerAge = 4, nil, "", nil
		s.Link.In.TextAge = sec(30)
	}},

	// link.text.silent
	{name: "no text where pings are rewritten", want: CodeLinkTextSilent, suspected: true, change: rewritten},
	{name: "the server's view proves it", want: CodeLinkTextSilent, change: func(s *Snapshot) {
		rewritten(s)
		view(s, 1.5, wire.LinkView{Written: 18, Read: 9})
	}, says: "written 18 texts on this link 1.5 s ago, 17 were read here"},
	{name: "the server's view is too young", want: CodeLinkTextSilent, suspected: true, change: func(s *Snapshot) {
		rewritten(s)
		view(s, 0.2, wire.LinkView{Written: 18, Read: 9})
	}},
	{name: "the server's view clears it", want: CodeLinkTextSilent, suspected: true, change: func(s *Snapshot) {
		rewritten(s)
		view(s, 3, wire.LinkView{Written: 17, Read: 9})
	}},
	{name: "heartbeat unanswered", want: CodeLinkTextSilent, suspected: true, change: func(s *Snapshot) { s.Link.HeartbeatPending, s.Link.HeartbeatSeq = sec(6), 9 }},
	{name: "heartbeat never reached the server", want: CodeLinkTextSilent, change: func(s *Snapshot) {
		s.Link.HeartbeatPending, s.Link.HeartbeatSeq = sec(6), 9
		view(s, 2, wire.LinkView{Written: 17, Read: 8})
	}, says: "The server had read 8"},
	{name: "heartbeat may have been under way", want: CodeLinkTextSilent, suspected: true, change: func(s *Snapshot) {
		s.Link.HeartbeatPending, s.Link.HeartbeatSeq = sec(6), 9
		view(s, 5.5, wire.LinkView{Written: 17, Read: 8})
	}},
	{name: "the server forgot this link", want: CodeLinkTextSilent, change: func(s *Snapshot) {
		s.Link.HeartbeatPending, s.Link.HeartbeatSeq = sec(6), 9
		s.OOB.View, s.OOB.ViewAge = &wire.ServerView{Presence: "offline"}, sec(1)
	}, says: "did not know this link"},
	{name: "heartbeat answered in time", want: CodeOK, change: func(s *Snapshot) { s.Link.HeartbeatPending = sec(4) }},
	{name: "a lost text explains the silence", want: CodeLinkTextLost, change: func(s *Snapshot) {
		s.Link.HeartbeatPending = sec(6)
		lose(s, 1, 6)
	}, masks: []Code{CodeLinkTextSilent}},

	// link.silent: a question, and nothing whatever since
	{name: "a ping unanswered", want: CodeLinkSilent, change: func(s *Snapshot) {
		s.Link.Ledger.PingPending, s.Link.In.AnyAge = sec(6), sec(25)
	}},
	{name: "a heartbeat unanswered, and nothing comes", want: CodeLinkSilent, masks: []Code{CodeLinkTextSilent}, change: func(s *Snapshot) {
		s.Link.HeartbeatPending, s.Link.HeartbeatSeq, s.Link.In.AnyAge = sec(6), 9, sec(25)
	}},
	{name: "a heartbeat unanswered, and pings come", want: CodeLinkTextSilent, suspected: true, change: func(s *Snapshot) {
		s.Link.HeartbeatPending, s.Link.HeartbeatSeq = sec(6), 9
	}},
	{name: "a ping unanswered, and something came since", want: CodeOK, change: func(s *Snapshot) {
		s.Link.Ledger.PingPending, s.Link.In.AnyAge = sec(6), sec(5.5)
	}},
	{name: "a ping unanswered, and bytes come", want: CodeOK, change: func(s *Snapshot) {
		s.Link.Ledger.PingPending, s.Link.In.AnyAge, s.Link.TCP = sec(6), sec(25), &TCPFacts{ReceivedAge: sec(1)}
	}},
	{name: "a ping unanswered that may not have left", want: CodeOK, change: func(s *Snapshot) {
		s.Link.Ledger.PingPending, s.Link.In.AnyAge, s.Link.TCP = sec(6), sec(25), &TCPFacts{Unsent: new(uint64(5000))}
	}},
	{name: "a ping unanswered on a slow path", want: CodeOK, change: func(s *Snapshot) {
		s.Link.Ledger.PingPending, s.Link.In.AnyAge, s.Link.Ledger.RTT = sec(6), sec(25), sec(2)
	}},
	// link.silent
	{name: "silence", want: CodeLinkSilent, change: func(s *Snapshot) {
		s.Link.In.AnyAge, s.Link.In.TextAge = sec(91), sec(120)
		s.Link.Ledger.PeerAge = sec(95)
	}},
	{name: "silence in the dead window", want: CodeOK, change: func(s *Snapshot) { s.Link.In.AnyAge = sec(80) }},
	{name: "silence since before a suspend", want: CodeOKIdle, findings: []Code{FindSuspendResumed}, change: func(s *Snapshot) {
		s.Link.In.AnyAge, s.Link.In.TextAge, s.Link.Ledger.PeerAge = sec(600), sec(600), sec(600)
		s.Suspend = &SuspendFacts{Length: *sec(590), Age: *sec(10)}
	}},
	{name: "silence after a suspend", want: CodeLinkSilent, findings: []Code{FindSuspendResumed}, change: func(s *Snapshot) {
		s.Link.In.AnyAge, s.Link.In.TextAge, s.Link.Ledger.PeerAge = sec(700), sec(700), sec(700)
		s.Suspend = &SuspendFacts{Length: *sec(590), Age: *sec(91)}
	}},

	// link.handshake and link.connecting
	{name: "connecting", from: dialing, want: CodeLinkConnecting, says: "dialing for 300 ms"},
	{name: "an attempt failed", from: dialing, want: CodeLinkHandshake, change: func(s *Snapshot) {
		s.Link.Phase, s.Link.NextDial = PhaseWaiting, sec(4)
		s.Link.Failure = &NetworkError{Phase: "connection", Type: "tcp.refused", Detail: "dial tcp"}
	}, says: "1 attempt; the last failed with tcp.refused: dial tcp. The next is due in 4.0 s"},
	{name: "refused by the server", from: dialing, want: CodeLinkHandshake, change: func(s *Snapshot) {
		s.Link.Failure = &NetworkError{Phase: "application", Type: "http.error", Status: 401}
	}, says: "HTTP 401"},
	{name: "still failing while the next is tried", from: func() Snapshot { return connecting(PhaseProbing) }, want: CodeLinkHandshake, change: func(s *Snapshot) {
		s.Link.Attempts, s.Link.Failure = 3, &NetworkError{Phase: "application", Type: "ws.unverified"}
	}},
	{name: "attempt takes for ever", from: dialing, want: CodeLinkHandshake, change: func(s *Snapshot) { s.Link.PhaseAge = sec(21) }},
	{name: "link dropped, none failed yet", from: dialing, want: CodeLinkConnecting, change: func(s *Snapshot) {
		s.Link.Attempts, s.Link.Failure = 0, &NetworkError{Phase: "connection", Type: "tcp.reset"}
	}},

	// link.flapping
	{name: "flapping", want: CodeLinkFlapping, change: func(s *Snapshot) { s.Link.Drops = 3 }},
	{name: "flapping, between two links", from: dialing, want: CodeLinkFlapping, change: func(s *Snapshot) { s.Link.Drops = 4 }, masks: []Code{CodeLinkConnecting}},
	{name: "flapping after equal silence", want: CodeLinkFlapping, change: func(s *Snapshot) {
		s.Link.Drops, s.Link.Dropped = 4, silences(12_000, 3_000, 60_010, 30_500, 60_900, 60_400, 60_120, 90_000)
	}, says: "The last 3 each ended after about 60 s"},
	{name: "flapping after equal silence from the server alone", want: CodeLinkFlapping, change: func(s *Snapshot) {
		s.Link.Drops, s.Link.Dropped = 3, silences(60_010, 300, 60_900, 10_400, 60_120, 24_000)
	}, says: "after about 60 s without a frame from the server"},
	{name: "flapping after unequal silence", want: CodeLinkFlapping, change: func(s *Snapshot) {
		s.Link.Drops, s.Link.Dropped = 3, silences(60_010, 70_500, 44_900, 60_400, 60_120, 90_000)
	}, not: "ended after about"},
	{name: "flapping in the midst of traffic", want: CodeLinkFlapping, change: func(s *Snapshot) {
		s.Link.Drops, s.Link.Dropped = 3, silences(10, 10, 12, 20, 9, 9)
	}, not: "ended after about"},
	{name: "asked to come back later", from: dialing, want: CodeLinkConnecting, change: func(s *Snapshot) {
		s.Link.Phase, s.Link.NextDial, s.Link.Asked, s.Link.Attempts = PhaseWaiting, sec(20), "it is going down", 4
	}, says: "The server has asked us to come back later: it is going down. The next attempt is due in 20 s."},
	{name: "dropped twice", want: CodeOK, change: func(s *Snapshot) { s.Link.Drops = 2 }},

	// route.*
	{name: "stale route", want: CodeRouteStale, change: func(s *Snapshot) { owe(s, 12, 1) }},
	{name: "owed for a moment", want: CodeOK, change: func(s *Snapshot) { owe(s, 6, 1) }},
	{name: "acknowledged since the ledger came, perhaps", want: CodeOK, change: func(s *Snapshot) { owe(s, 12, 10) }},
	{name: "the view shows that it is still owed", want: CodeRouteStale, change: func(s *Snapshot) {
		owe(s, 12, 10)
		view(s, 1, wire.LinkView{Written: 17, Read: 9})
		s.OOB.View.Owed, s.OOB.View.OldestOwed = 1, new(int64(12_000))
	}},
	{name: "owed on a link just verified", want: CodeOK, change: func(s *Snapshot) {
		owe(s, 12, 1)
		s.Link.VerifiedAge = sec(2)
	}},
	{name: "owed while the second door delivers", want: CodeOK, change: func(s *Snapshot) {
		owe(s, 12, 1)
		s.OOB.Delivering = true
	}},
	{name: "unwritten", want: CodeRouteUnwritten, masks: []Code{CodeRouteStale}, change: func(s *Snapshot) {
		owe(s, 12, 1)
		view(s, 1.5, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
	}},
	{name: "a text on its way at the moment of the view, and nothing since", want: CodeRouteStale, change: func(s *Snapshot) {
		owe(s, 12, 1)
		view(s, 1.5, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(3))})
	}},
	{name: "unwritten, for the network takes no more", want: CodeRouteStale, change: func(s *Snapshot) {
		owe(s, 12, 1)
		view(s, 1.5, wire.LinkView{Written: 17, Read: 9, Queued: 1})
	}},
	{name: "unwritten, seen this moment", want: CodeRouteStale, change: func(s *Snapshot) {
		owe(s, 12, 1)
		view(s, 0.1, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
	}},
	{name: "a text on its way at the moment of the view", want: CodeOK, change: func(s *Snapshot) {
		view(s, 0.1, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
	}},
	{name: "unwritten, but nothing is owed by a newer word", want: CodeOK, change: func(s *Snapshot) {
		view(s, 4, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
		s.Link.Ledger.PeerAge = sec(3)
	}},
	{name: "unwritten, and a newer word has more written", want: CodeLinkTextLost, change: func(s *Snapshot) {
		owe(s, 12, 1)
		view(s, 4, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
		lose(s, 1, 2)
	}},
	{name: "unwritten, a newer word still owes", want: CodeRouteUnwritten, masks: []Code{CodeRouteStale}, change: func(s *Snapshot) {
		owe(s, 12, 1)
		view(s, 4, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
	}},
	{name: "unwritten a long time ago", want: CodeOK, change: func(s *Snapshot) {
		view(s, 90, wire.LinkView{Written: 17, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
		s.Link.Ledger.PeerAge = sec(100)
	}},
	{name: "removed, by the link", from: dialing, want: CodeAgentRemoved, change: func(s *Snapshot) {
		s.Link.Failure, s.Link.Attempts = &NetworkError{Type: "http.error", Status: 401, Code: wire.ProblemRemoved}, 1
		s.OOB.Configured, s.OOB.Failures, s.OOB.Failure = true, 3, &NetworkError{Type: "http.error", Status: 401, Code: wire.ProblemRemoved}
	}},
	{name: "quarantined", from: dialing, want: CodeLinkQuarantined, masks: []Code{CodeLinkHandshake, CodeLinkConnecting}, change: func(s *Snapshot) {
		s.Link.Failure, s.Link.Attempts = &NetworkError{Type: "http.error", Status: 403, Code: wire.ProblemQuarantined}, 1
	}},
	{name: "forbidden by who knows whom", from: dialing, want: CodeLinkHandshake, masks: []Code{CodeLinkConnecting}, change: func(s *Snapshot) {
		s.Link.Failure, s.Link.Attempts = &NetworkError{Type: "http.error", Status: 403}, 1
	}},
	{name: "removed, by the second door", from: dialing, want: CodeAgentRemoved, change: func(s *Snapshot) {
		s.OOB.Configured, s.OOB.Failures, s.OOB.Failure = true, 1, &NetworkError{Type: "http.error", Status: 401, Code: wire.ProblemRemoved}
	}},
	{name: "removed, says a door, but the link is verified", want: CodeOK, change: func(s *Snapshot) {
		s.OOB.Configured, s.OOB.Failures, s.OOB.Failure = true, 1, &NetworkError{Type: "http.error", Status: 401, Code: wire.ProblemRemoved}
	}},
	{name: "written since the view", want: CodeOK, change: func(s *Snapshot) {
		view(s, 30, wire.LinkView{Written: 16, Read: 9, Queued: 1, HeldMS: new(int64(1200))})
	}},
	{name: "duplicate, by the server's word", want: CodeRouteDuplicate, masks: []Code{CodeRouteStale}, change: func(s *Snapshot) {
		owe(s, 12, 1)
		view(s, 1, wire.LinkView{Written: 17})
		s.OOB.View.Presence = "duplicate"
	}},
	{name: "duplicate, both alive", want: CodeRouteDuplicate, change: func(s *Snapshot) { other(s, 20_000) }},
	{name: "perhaps our own link from before", want: CodeRouteDuplicate, suspected: true, change: func(s *Snapshot) { other(s, 3_000) }},
	{name: "a view of long ago", want: CodeOK, change: func(s *Snapshot) {
		other(s, 20_000)
		s.OOB.ViewAge = sec(120)
	}},

	// agent.*
	{name: "can't be read", want: CodeAgentDecode, change: func(s *Snapshot) { s.Stages.Undecoded, s.UndecodedAge = 1, sec(3) }},
	{name: "can't be read, account unknown", want: CodeAgentDecode, suspected: true, change: func(s *Snapshot) {
		s.Stages.Undecoded, s.UndecodedAge = 1, sec(3)
		s.Link.Ledger.Peer = nil
	}},
	{name: "could not be read long ago", want: CodeOK, change: func(s *Snapshot) { s.Stages.Undecoded, s.UndecodedAge = 1, sec(700) }},
	{name: "refused", want: CodeAgentRejected, change: func(s *Snapshot) {
		s.Stages.Rejected, s.RejectedAge, s.RejectedCode = 2, sec(3), wire.CodeBadSignature
	}, says: "bad_signature"},
	{name: "could not be read a while ago", want: CodeOK, findings: []Code{FindRefused}, change: func(s *Snapshot) {
		s.Stages.Undecoded, s.UndecodedAge = 1, sec(70)
	}},
	{name: "refused a while ago", want: CodeOK, findings: []Code{FindRefused}, change: func(s *Snapshot) {
		s.Stages.Rejected, s.RejectedAge, s.RejectedCode = 2, sec(599), wire.CodeBadSignature
	}},
	{name: "refused long ago", want: CodeOK, change: func(s *Snapshot) {
		s.Stages.Rejected, s.RejectedAge, s.RejectedCode = 2, sec(601), wire.CodeBadSignature
	}},
	{name: "busy is no fault", want: CodeOK, change: func(s *Snapshot) { s.Stages.Rejected, s.RejectedCode = 2, wire.CodeBusy }},
	{name: "reader stalled", want: CodeAgentStalled + ".reader", masks: []Code{CodeLinkTextLost, CodeLinkTextSilent}, change: func(s *Snapshot) {
		stall(s, "reader", 6)
		s.Link.In.Frames["text"] = ClassView{Count: 18}
		s.Link.HeartbeatPending = sec(6)
		lose(s, 1, 6)
	}, says: "18 texts came in, 17 were read"},
	{name: "reader stalled, and text did not come in", want: CodeAgentStalled + ".reader", change: func(s *Snapshot) {
		stall(s, "reader", 6)
		lose(s, 1, 6)
	}},
	{name: "dispatcher stalled", want: CodeAgentStalled + ".dispatcher", masks: []Code{CodeRouteStale}, change: func(s *Snapshot) {
		stall(s, "dispatcher", 12)
		owe(s, 12, 1)
	}},
	{name: "writer waits for the network, perhaps", want: CodeAgentStalled + ".writer", suspected: true, change: func(s *Snapshot) { atNetwork(s, 6) }},
	{name: "writer stands still elsewhere", want: CodeAgentStalled + ".writer", change: func(s *Snapshot) { stall(s, "writer", 6) }},
	{name: "writer stalled", want: CodeAgentStalled + ".writer", change: func(s *Snapshot) { atNetwork(s, 16) }},
	{name: "executor stalled", want: CodeAgentStalled + ".executor", masks: []Code{CodeAgentExecutorFull}, change: func(s *Snapshot) {
		stall(s, "executor", 6)
		s.Jobs.Running = 8
	}},
	{name: "another loop stalled", want: CodeAgentStalled + ".orders", change: func(s *Snapshot) { stall(s, "orders", 6) }},
	{name: "a proof before a suspicion", want: CodeAgentStalled + ".executor", change: func(s *Snapshot) {
		atNetwork(s, 6)
		stall(s, "executor", 6)
	}},
	{name: "metrics stalled", want: CodeAgentStalled + ".metrics", change: func(s *Snapshot) { stall(s, "metrics", 9) }},
	{name: "metrics take a while", want: CodeOK, change: func(s *Snapshot) { stall(s, "metrics", 7) }},
	{name: "a loop takes a while", want: CodeOK, change: func(s *Snapshot) { stall(s, "dispatcher", 3) }},
	{name: "executor full", want: CodeAgentExecutorFull, change: func(s *Snapshot) { s.Jobs.Running = 8 }, says: "8 of 8 jobs"},
	{name: "hung", want: CodeAgentHung, masks: []Code{CodeLinkTextLost, CodeAgentStalled + ".reader"}, change: func(s *Snapshot) {
		s.Worker.Silent = sec(9)
		stall(s, "reader", 12)
		lose(s, 1, 9)
	}},
	{name: "hung, by the snapshot's age", want: CodeAgentHung, after: 9},
	{name: "hung before it ever reported", want: CodeAgentHung, change: func(s *Snapshot) {
		*s = Snapshot{Worker: WorkerFacts{PID: 7, Running: true, Silent: sec(9)}}
	}},
	{name: "not hung after a suspend", want: CodeOK, findings: []Code{FindSuspendResumed}, change: func(s *Snapshot) {
		s.Worker.Silent, s.Suspend = sec(600), &SuspendFacts{Length: *sec(600), Age: *sec(1)}
	}},
	{name: "a frozen worker's suspicion does not ripen", want: CodeLinkTextLost, suspected: true, change: func(s *Snapshot) {
		lose(s, 1, 0.2)
		s.Link.Ledger.RTT = sec(1)
	}, after: 5.2, says: "as of the worker's last report, 5.2 s ago"},
	{name: "nor if its ages were brought forward", want: CodeLinkTextLost, suspected: true, change: func(s *Snapshot) {
		lose(s, 1, 4.2)
		s.Worker.Silent, s.Link.Ledger.RTT = sec(4.2), sec(1)
	}},
	{name: "a worker just frozen: the ages are those of its last report", want: CodeOK, after: 5.1, says: "as of the worker's last report, 5.1 s ago"},
	{name: "a worker frozen, perhaps", want: CodeAgentHung, suspected: true, after: 7, says: "not reported for 7.0 s", masks: []Code{CodeLinkTextLost},
		change: func(s *Snapshot) { lose(s, 1, 0.2); s.Link.Ledger.RTT = sec(1) }},
	{name: "a proof stands while the worker is perhaps frozen", want: CodeLinkTextLost, after: 6, says: "last report, 6.0 s ago",
		change: func(s *Snapshot) { lose(s, 1, 5) }},
	{name: "crash loop", want: CodeAgentCrashloop, change: func(s *Snapshot) {
		*s = Snapshot{Worker: WorkerFacts{Exits: 4, LastExit: "exit status 2"}}
	}, says: "exit status 2"},
	{name: "crash loop masks all", want: CodeAgentCrashloop, masks: []Code{CodeAgentHung}, change: func(s *Snapshot) {
		s.Worker.Exits, s.Worker.Silent = 5, sec(9)
	}},
	{name: "worker between two lives", want: CodeLinkConnecting, change: func(s *Snapshot) {
		s.Worker.Running, s.Worker.LastExit = false, "signal: killed"
		lose(s, 1, 9)
		stall(s, "reader", 9)
	}, says: "signal: killed"},

	// oob.*
	{name: "second door unreachable", want: CodeOOBUnreachable, change: func(s *Snapshot) {
		s.OOB.Failures, s.OOB.Failure = 3, &NetworkError{Phase: "connection", Type: "tcp.refused"}
	}},
	{name: "second door refuses", want: CodeOOBRejected, change: func(s *Snapshot) {
		s.OOB.Failures, s.OOB.Failure = 3, &NetworkError{Phase: "application", Type: "http.error", Status: 401}
	}},
	{name: "second door failed once", want: CodeOK, change: func(s *Snapshot) { s.OOB.Failures = 1 }},
	{name: "both doors fail", from: dialing, want: CodeLinkHandshake, change: func(s *Snapshot) {
		s.OOB.Failures, s.OOB.Failure = 3, &NetworkError{Type: "tcp.refused"}
		s.Link.Failure = &NetworkError{Type: "tcp.refused"}
	}},
	{name: "no second door", want: CodeOK, change: func(s *Snapshot) { s.OOB = OOBFacts{Failures: 9} }},

	// findings
	{name: "clock ahead", want: CodeOK, change: func(s *Snapshot) { s.Clock.Offset = sec(-90) }, findings: []Code{FindClockSkew}},
	{name: "clock never compared", want: CodeOK, change: func(s *Snapshot) { s.Clock.Offset = nil }},
	{name: "disk full", want: CodeAgentJournal, says: "no space", change: func(s *Snapshot) { s.Jobs.Journal, s.Jobs.Quarantined = "no space", "journal.bad" },
		findings: []Code{FindQuarantined}},
	{name: "disk almost full", want: CodeOK, change: func(s *Snapshot) { s.Disk = &DiskFacts{Free: 100 << 20, Total: 1 << 40} },
		findings: []Code{FindDiskFull}},
	{name: "disk has room", want: CodeOK, change: func(s *Snapshot) { s.Disk = &DiskFacts{Free: 200 << 20, Total: 1 << 40} }},
	{name: "disk full before any report", want: CodeUnknown, findings: []Code{FindDiskFull}, change: func(s *Snapshot) {
		*s = Snapshot{Disk: &DiskFacts{Total: 1 << 40}}
	}},
	{name: "a spooled report was damaged", want: CodeOK, findings: []Code{FindQuarantined}, change: func(s *Snapshot) {
		s.Disk = &DiskFacts{Free: 1 << 40, Total: 1 << 40, SetAside: []string{"spool/x.corrupt-20260301T120000Z"}}
	}},
	{name: "slept long ago", want: CodeOK, change: func(s *Snapshot) { s.Suspend = &SuspendFacts{Length: *sec(60), Age: 16 * time.Minute} }},
}

// silences gives drops, each after so many ms without a frame in and out.
func silences(inOut ...int64) (all []Drop) {
	for i := 0; i < len(inOut); i += 2 {
		all = append(all, Drop{InMS: &inOut[i], OutMS: &inOut[i+1]})
	}
	return all
}

func rewritten(s *Snapshot) {
	l := &s.Link.Ledger
	l.Foreign, l.Stripped = 3, 3
	l.Peer, l.PeerVia, l.PeerAge = &wire.Ledger{Written: 16, Read: 8}, ViaText, sec(16)
	s.Link.In.TextAge = sec(16)
}

func owe(s *Snapshot, owed, said float64) {
	s.Link.Ledger.Owed, s.Link.Ledger.OwedAge = 1, sec(owed)
	s.Link.Ledger.PeerAge = sec(said)
}

func other(s *Snapshot, ageMS int64) {
	view(s, 1, wire.LinkView{Written: 17, AgeMS: ageMS})
	s.OOB.View.Links = append(s.OOB.View.Links, wire.LinkView{Link: 0xb2, Instance: "instance-2"})
}

// atNetwork is a writer in a write that the network holds up.
func atNetwork(s *Snapshot, age float64) {
	s.Loops["writer"] = LoopFacts{Pending: sec(age), Waits: true}
}

func stall(s *Snapshot, loop string, age float64) { s.Loops[loop] = LoopFacts{Pending: sec(age)} }

func TestJudge(t *testing.T) {
	for _, c := range judgeCases {
		t.Run(c.name, func(t *testing.T) {
			s := healthy()
			if c.from != nil {
				s = c.from()
			}
			if c.change != nil {
				c.change(&s)
			}
			j := Judge(s, t0.Add(*sec(c.after)), wire.DefaultPolicy())
			v := j.Verdict
			if v.Code != c.want || v.Suspected != c.suspected {
				t.Fatalf("%q (suspected %v), want %q (%v): %s", v.Code, v.Suspected, c.want, c.suspected, v.Sentence)
			}
			for _, m := range c.masks {
				if !slices.Contains(v.Masks, m) {
					t.Errorf("masks %v, want %s among them", v.Masks, m)
				}
			}
			var found []Code
			for _, f := range j.Findings {
				found = append(found, f.Code)
			}
			allowed := c.findings
			if c.findings == nil { // rewritten pings ride along in some link cases
				found = slices.DeleteFunc(found, func(f Code) bool { return f == FindPingsRewritten })
			}
			if !slices.Equal(found, allowed) {
				t.Errorf("findings %v, want %v", found, allowed)
			}
			if !strings.Contains(v.Sentence, c.says) {
				t.Errorf("says %q, want %q in it", v.Sentence, c.says)
			}
			if c.not != "" && strings.Contains(v.Sentence, c.not) {
				t.Errorf("says %q", v.Sentence)
			}
			if v.Title == "" || v.Sentence == "" || v.Action == "" || len(v.Evidence) == 0 {
				t.Errorf("a verdict must say all: %+v", v)
			}
			if v.Suspected && v.Severity == SeverityError {
				t.Error("a suspicion is no error")
			}
			t.Logf("%s %s: %s", v.Severity, v.Code, v.Sentence)
		})
	}
}

// A rule without a case is a rule nobody has seen work.
func TestEveryVerdictHasACase(t *testing.T) {
	for i := range rules {
		r := &rules[i]
		if !slices.ContainsFunc(judgeCases, func(c judgeCase) bool { return ruleOf(c.want) == r && !c.suspected }) {
			t.Errorf("no case proves %s", r.code)
		}
	}
	for _, f := range findings {
		if !slices.ContainsFunc(judgeCases, func(c judgeCase) bool { return slices.Contains(c.findings, f.code) }) {
			t.Errorf("no case finds %s", f.code)
		}
	}
}

func TestRulesAreComplete(t *testing.T) {
	seen := map[Code]bool{}
	for _, r := range rules {
		if seen[r.code] {
			t.Errorf("%s stands twice", r.code)
		}
		seen[r.code] = true
		if r.title == "" || r.action == "" || ranks[r.severity] == 0 || r.look == nil {
			t.Errorf("%s: a row is not filled in", r.code)
		}
		for _, m := range r.masks {
			if !slices.ContainsFunc(rules, func(o rule) bool { return inFamily(o.code, m) }) {
				t.Errorf("%s masks %s, which there is not", r.code, m)
			}
		}
	}
	for _, c := range []Code{CodeOK, CodeOKIdle, CodeLinkConnecting, CodeLinkSilent, CodeLinkHandshake, CodeLinkTextLost,
		CodeLinkTextDelayed, CodeLinkTextAltered, CodeLinkStuckFragment, CodeLinkTextSilent, CodeLinkUplinkLost,
		CodeLinkPingForeign, CodeLinkFlapping, CodeRouteStale, CodeRouteDuplicate, CodeRouteUnwritten, CodeAgentDecode,
		CodeAgentRejected, CodeAgentStalled + ".reader", CodeAgentExecutorFull, CodeAgentHung, CodeAgentCrashloop,
		CodeOOBUnreachable, CodeOOBRejected, CodeAgentRemoved, CodeLinkQuarantined, FindClockSkew, FindPingsRewritten, FindSuspendResumed, FindRefused, FindQuarantined, FindDiskFull, CodeAgentJournal} {
		title, severity, action := Describe(c)
		if title == "" || severity == SeverityUnknown || action == "" {
			t.Errorf("Describe(%s) = %q, %q, %q", c, title, severity, action)
		}
	}
	if title, severity, _ := Describe(CodeUnknown); title == "" || severity != SeverityUnknown {
		t.Errorf("unknown is %q, %q", title, severity)
	}
	if title, severity, action := Describe("no.such"); title != "" || severity != SeverityUnknown || action != "" {
		t.Errorf("a code that is none is %q, %q, %q", title, severity, action)
	}
}

// Recheck is when the suspicion turns: just before it, it is one; then it is proof.
func TestRecheckIsWhenSuspicionTurns(t *testing.T) {
	s := healthy()
	lose(&s, 1, 0.25)
	j := Judge(s, t0, wire.DefaultPolicy())
	if !j.Verdict.Suspected || j.Recheck != 750*time.Millisecond || !j.Ping {
		t.Fatalf("suspected %v, recheck %v, ping %v", j.Verdict.Suspected, j.Recheck, j.Ping)
	}
	if j := Judge(s, t0.Add(j.Recheck-time.Millisecond), wire.DefaultPolicy()); !j.Verdict.Suspected {
		t.Error("proven too early")
	}
	if j := Judge(s, t0.Add(j.Recheck), wire.DefaultPolicy()); j.Verdict.Suspected {
		t.Error("not proven when it was said to be")
	}
}

// A judgement changes nothing of what it is given.
func TestJudgeIsPure(t *testing.T) {
	s := healthy()
	s.Worker.Silent = sec(1)
	lose(&s, 1, 3)
	first := Judge(s, t0.Add(time.Second), wire.DefaultPolicy())
	if *s.Worker.Silent != time.Second || s.Link.Ledger.Down.Age != 3*time.Second {
		t.Error("the snapshot was changed")
	}
	if again := Judge(s, t0.Add(time.Second), wire.DefaultPolicy()); again.Verdict.Sentence != first.Verdict.Sentence {
		t.Errorf("%q, then %q", first.Verdict.Sentence, again.Verdict.Sentence)
	}
}

// An idle link's day: nothing but ok and ok.idle, whenever one looks.
func TestIdleDayIsWell(t *testing.T) {
	p := wire.DefaultPolicy()
	for i := range 24 * 60 * 4 {
		up := time.Duration(i) * 15 * time.Second
		s := healthy()
		s.Link.VerifiedAge = new(up)
		s.Link.In.TextAge = new(up % (60 * time.Second))
		s.Link.In.AnyAge, s.Link.Ledger.PeerAge = new(up%(30*time.Second)), new(up%(30*time.Second))
		if v := Judge(s, t0, p).Verdict; v.Code != CodeOK && v.Code != CodeOKIdle {
			t.Fatalf("after %v: %s: %s", up, v.Code, v.Sentence)
		}
	}
}

func BenchmarkJudgeWell(b *testing.B) {
	s, p := healthy(), wire.DefaultPolicy()
	b.ReportAllocs()
	for b.Loop() {
		Judge(s, t0, p)
	}
}

// A ping whose answer is late is asked again before the path is judged, and not for ever after.
func TestALateAnswerIsAskedForAgain(t *testing.T) {
	for late, asks := range map[float64]bool{1.9: false, 2.1: true, 4.9: true, 5.1: false, 60: false} {
		s := healthy()
		s.Link.Ledger.PingPending, s.Link.In.AnyAge = sec(late), sec(late+20)
		j := Judge(s, t0, wire.DefaultPolicy())
		if j.Ping != asks {
			t.Errorf("after %v s: ping %v", late, j.Ping)
		}
		if (j.Verdict.Code == CodeLinkSilent) != (late >= 5) {
			t.Errorf("after %v s: %s", late, j.Verdict.Code)
		}
	}
}
