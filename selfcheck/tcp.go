package selfcheck

import (
	"fmt"
	"time"
)

// TCPFacts are what this machine's kernel says of the TCP connection under the
// link, or of its leg to the proxy, if there is one. What the platform does not
// tell is nil.
type TCPFacts struct {
	State      string `json:"state,omitempty"`      // as RFC 9293 §3.3.2 names it, in lower case
	Congestion string `json:"congestion,omitempty"` // open, disorder, cwr, recovery or loss

	RTT    *time.Duration `json:"rtt_ns,omitempty"`
	RTTVar *time.Duration `json:"rttvar_ns,omitempty"`
	MSS    *uint64        `json:"mss_bytes,omitempty"`
	PMTU   *uint64        `json:"pmtu_bytes,omitempty"`
	Window *uint64        `json:"window_bytes,omitempty"` // of congestion

	// Unread bytes have arrived in the kernel and were not read by us.
	Unread *uint64 `json:"unread_bytes,omitempty"`
	// Unacked bytes were written here and are not acknowledged by the other end of
	// this TCP connection; Unsent are those of them that were never sent.
	Unacked *uint64 `json:"unacked_bytes,omitempty"`
	Unsent  *uint64 `json:"unsent_bytes,omitempty"`
	// Timeouts counts retransmissions in a row that nothing has answered.
	Timeouts      *uint64 `json:"timeouts,omitempty"`
	Lost          *uint64 `json:"lost_segments,omitempty"` // thought lost now
	Retransmitted *uint64 `json:"retransmitted_bytes,omitempty"`

	Acked    *uint64 `json:"acked_bytes,omitempty"`
	Received *uint64 `json:"received_bytes,omitempty"`
	// Since data last went, and came.
	SentAge     *time.Duration `json:"sent_age_ns,omitempty"`
	ReceivedAge *time.Duration `json:"received_age_ns,omitempty"`
}

// Quiet reports whether nothing under the link waits for anybody: only then may
// facts of a while ago stand for those of now.
func (t *TCPFacts) Quiet() bool {
	return t == nil || !some(t.Unread) && !some(t.Timeouts) && !some(t.Lost)
}

func some(n *uint64) bool { return n != nil && *n > 0 }
func none(n *uint64) bool { return n != nil && *n == 0 }

// kernelHolds adds what the kernel holds for a reader that does not read.
func (f *facts) kernelHolds(h *hit) {
	t := f.Link.TCP
	if t == nil || !f.opened() || !some(t.Unread) {
		return
	}
	h.sentence += fmt.Sprintf(" The kernel has %s for it that it did not read.", count(*t.Unread, "byte"))
	h.evidence = append(h.evidence, Evidence{Fact: "link.tcp.unread", Seen: count(*t.Unread, "byte"), Expected: "0 bytes"})
}

// kernelRepeats adds what the kernel sends in vain while nothing comes.
func (f *facts) kernelRepeats(h *hit) {
	t := f.Link.TCP
	if t == nil {
		return
	}
	switch {
	case some(t.Unacked) && some(t.Timeouts):
		h.sentence += fmt.Sprintf(" Our kernel has sent again %s without an answer; %s are not acknowledged: the path or the peer is gone.", count(*t.Timeouts, "time"), count(*t.Unacked, "byte"))
	case some(t.Unacked):
		h.sentence += fmt.Sprintf(" Our kernel has %s that the peer has not acknowledged.", count(*t.Unacked, "byte"))
	case none(t.Unacked):
		h.sentence += " The peer's kernel has acknowledged all that was sent: it is there, and sends nothing."
	}
	h.evidence = append(h.evidence, f.unacked()...)
}

// unacked is what the kernel has not got rid of, as evidence.
func (f *facts) unacked() []Evidence {
	t := f.Link.TCP
	var e []Evidence
	if t.Unacked != nil {
		e = append(e, Evidence{Fact: "link.tcp.unacked", Seen: count(*t.Unacked, "byte"), Expected: "0 bytes"})
	}
	if some(t.Timeouts) {
		e = append(e, Evidence{Fact: "link.tcp.timeouts", Seen: number(*t.Timeouts), Expected: "0"})
	}
	if some(t.Retransmitted) {
		e = append(e, Evidence{Fact: "link.tcp.retransmitted", Seen: count(*t.Retransmitted, "byte")})
	}
	return e
}

// tookUp says what the kernel knows of texts that went up and did not arrive.
func (f *facts) tookUp(h *hit) {
	t := f.Link.TCP
	if t == nil {
		return
	}
	switch {
	case some(t.Unacked):
		h.sentence += fmt.Sprintf(" Our kernel has %s that the peer has not acknowledged.", count(*t.Unacked, "byte"))
	case none(t.Unacked) && !h.suspected:
		// Bytes acknowledged in order can't be lost by TCP any more.
		h.sentence += " TCP has acknowledged every byte of them: a box on the way that ends TCP lost them, or the server."
	}
	h.evidence = append(h.evidence, f.unacked()...)
	h.evidence = append(h.evidence, f.twoTrips()...)
}

// tookDown says what the kernel knows of texts that should have come.
func (f *facts) tookDown(h *hit) {
	t := f.Link.TCP
	if t == nil || t.Unread == nil {
		return
	}
	if none(t.Unread) && !h.suspected {
		// A later ping came by the same TCP connection: they never were in it.
		h.sentence += " None of it waits in our kernel, and TCP keeps the order: a box on the way that ends TCP left them out, or the server."
	}
	h.evidence = append(h.evidence, Evidence{Fact: "link.tcp.unread", Seen: count(*t.Unread, "byte"), Expected: "0 bytes"})
	h.evidence = append(h.evidence, f.twoTrips()...)
}

// twoTrips sets TCP's round trip beside the ledger's, where the two are so far
// apart that somebody nearer than the server may answer for TCP.
func (f *facts) twoTrips() []Evidence {
	tcp, ledger := f.Link.TCP.RTT, f.Link.Ledger.RTT
	if tcp == nil || ledger == nil || *ledger < 5*time.Millisecond || *ledger < 5**tcp {
		return nil
	}
	return []Evidence{{Fact: "link.tcp.rtt", Seen: "under " + span((*tcp).Truncate(time.Millisecond)+time.Millisecond), Expected: "about the ledger's " + span(*ledger)}}
}

// outside adds what the kernel tells of a worker that says nothing itself.
func (f *facts) outside(h *hit) {
	w := &f.Worker
	if w.Kernel != "" {
		h.evidence = append(h.evidence, Evidence{Fact: "worker.kernel_state", Seen: w.Kernel, Expected: "running or sleeping"})
	}
	if w.Unread == nil {
		return
	}
	h.evidence = append(h.evidence, Evidence{Fact: "worker.unread", Seen: count(*w.Unread, "byte"), Expected: "0 bytes"})
	if *w.Unread > 0 {
		h.sentence += fmt.Sprintf(" The kernel has %s for it that it did not read.", count(*w.Unread, "byte"))
	}
}
