package selfcheck

import (
	"strings"
	"testing"

	"gururmm/wire"
)

func told(n uint64) *uint64 { return new(n) }

// What the kernel says changes no verdict; it says where to look.
func TestTheKernelsWordIsEvidence(t *testing.T) {
	uplink := func(s *Snapshot) {
		s.Link.Ledger.Local.Written = 12
		s.Link.Ledger.Peer = &wire.Ledger{Link: ourLink, Written: 17, Read: 9}
		s.Link.Ledger.Up = &Gap{Missing: 3, Age: *sec(2)}
	}
	stalled := func(s *Snapshot) { s.Loops["reader"] = LoopFacts{Pending: sec(30)} }
	for _, tt := range []struct {
		name   string
		change func(s *Snapshot)
		tcp    *TCPFacts
		want   Code
		says   string
		facts  []string // fact=seen, among the evidence
	}{
		{"stalled reader, bytes wait for it", stalled, &TCPFacts{Unread: told(512)}, "agent.stalled.reader",
			"The kernel has 512 bytes for it that it did not read.", []string{"link.tcp.unread=512 bytes"}},
		{"stalled reader, nothing waits", stalled, &TCPFacts{Unread: told(0)}, "agent.stalled.reader", "has not turned", nil},
		{"stalled reader, not known", stalled, nil, "agent.stalled.reader", "has not turned", nil},
		{"silence, and nobody acknowledges", func(s *Snapshot) { s.Link.In = TapView{AnyAge: sec(120)} },
			&TCPFacts{Unacked: told(64), Timeouts: told(7), Retransmitted: told(448)}, CodeLinkSilent,
			"sent again 7 times without an answer; 64 bytes are not acknowledged", []string{"link.tcp.unacked=64 bytes", "link.tcp.timeouts=7", "link.tcp.retransmitted=448 bytes"}},
		{"silence, and all is acknowledged", func(s *Snapshot) { s.Link.In = TapView{AnyAge: sec(120)} },
			&TCPFacts{Unacked: told(0), Timeouts: told(0)}, CodeLinkSilent, "it is there, and sends nothing", []string{"link.tcp.unacked=0 bytes"}},
		{"uplink lost, bytes under way", uplink, &TCPFacts{Unacked: told(900)}, CodeLinkUplinkLost,
			"Our kernel has 900 bytes that the peer has not acknowledged.", []string{"link.tcp.unacked=900 bytes"}},
		{"uplink lost, all acknowledged", uplink, &TCPFacts{Unacked: told(0), RTT: sec(0.0004)}, CodeLinkUplinkLost,
			"a box on the way that ends TCP lost them", []string{"link.tcp.unacked=0 bytes", "link.tcp.rtt=under 1 ms"}},
		{"text lost, none waits here", func(s *Snapshot) { lose(s, 2, 1.5) }, &TCPFacts{Unread: told(0), RTT: sec(0.04)}, CodeLinkTextLost,
			"a box on the way that ends TCP left them out", []string{"link.tcp.unread=0 bytes"}},
		{"text perhaps lost: no word on by whom", func(s *Snapshot) { lose(s, 2, 0.2) }, &TCPFacts{Unread: told(0)}, CodeLinkTextLost,
			"proof after", []string{"link.tcp.unread=0 bytes"}},
		{"hung, seen from outside", func(s *Snapshot) {
			s.Worker.Silent, s.Worker.Kernel, s.Worker.Unread = sec(30), "stopped", told(77)
		}, nil, CodeAgentHung, "The kernel has 77 bytes for it that it did not read.", []string{"worker.unread=77 bytes", "worker.kernel_state=stopped"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := healthy()
			tt.change(&s)
			s.Link.TCP = tt.tcp
			v := Judge(s, t0, wire.DefaultPolicy()).Verdict
			if v.Code != tt.want || !strings.Contains(v.Sentence, tt.says) {
				t.Fatalf("%s: %q, want %s: %q", v.Code, v.Sentence, tt.want, tt.says)
			}
			seen := map[string]bool{}
			for _, e := range v.Evidence {
				seen[e.Fact+"="+e.Seen] = true
				if tt.facts == nil && strings.HasPrefix(e.Fact, "link.tcp.") {
					t.Errorf("evidence of nothing: %+v", e)
				}
			}
			for _, want := range tt.facts {
				if !seen[want] {
					t.Errorf("evidence %v lacks %s", v.Evidence, want)
				}
			}
			if v.Suspected && strings.Contains(v.Sentence, "a box") {
				t.Errorf("blamed on a suspicion: %q", v.Sentence)
			}
		})
	}
}

func TestOnlyAQuietKernelMayBeToldOfLater(t *testing.T) {
	for name, tt := range map[string]struct {
		tcp  *TCPFacts
		want bool
	}{
		"not known":          {nil, true},
		"nothing told":       {&TCPFacts{}, true},
		"idle":               {&TCPFacts{Unread: told(0), Timeouts: told(0), Lost: told(0), Received: told(10)}, true},
		"unread":             {&TCPFacts{Unread: told(1)}, false},
		"sent again in vain": {&TCPFacts{Timeouts: told(1)}, false},
		"losing":             {&TCPFacts{Lost: told(2)}, false},
	} {
		if got := tt.tcp.Quiet(); got != tt.want {
			t.Errorf("%s: quiet %v", name, got)
		}
	}
}
