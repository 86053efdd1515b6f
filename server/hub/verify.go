package hub

import (
	"fmt"
	"slices"
	"time"

	"gururmm/session"
	"gururmm/wire"
)

// probes are the state of a link's verification: policy accepted, then a probe
// of each size acknowledged through the command path, its pad sent back.
type probes struct {
	configured bool
	pads       map[string]string // of probes under way, by id
}

// probeLife bounds how long a probe may be taken for valid.
const probeLife = time.Minute

// capabilities of this server.
var capabilities = []string{wire.CapLedger, wire.CapOOB, wire.CapCall}

// auth takes the agent's word on which copy it is, settles who holds the
// identity, and sends auth_ack and the policy.
func (l *link) auth(env wire.Envelope, at time.Time, again bool) error {
	if again {
		return refusal{wire.CodeUnsupported, "this link is authenticated already"}
	}
	auth, err := wire.DecodePayload[wire.Auth](env)
	if err != nil {
		return err
	}
	for name, v := range map[string]string{
		"instance": auth.Instance, "boot_id": auth.BootID, "fingerprint": auth.Fingerprint, "version": auth.Version,
		"hostname": auth.Platform.Hostname, "os": auth.Platform.OS, "arch": auth.Platform.Arch, "release": auth.Platform.Release,
	} {
		if len(v) > maxFieldLength {
			return refusal{wire.CodeTooLarge, fmt.Sprintf("%s is longer than %d bytes", name, maxFieldLength)}
		}
	}
	if auth.Instance == "" {
		return refusal{wire.CodeUnparseable, "auth without an instance"}
	}
	l.mu.Lock()
	l.who, l.version = asCalled(l.caller, wire.CopyOf(auth.Presence)), auth.Version
	l.caller = nil
	l.calls = slices.Contains(auth.Capabilities, wire.CapCall)
	l.mu.Unlock()
	l.hub.identify(l)
	if !auth.Clock.IsZero() {
		l.hub.clockSeen(l.agent, at.Sub(auth.Clock))
	}

	ctx, cancel := l.handling()
	defer cancel()
	if err := l.hub.opts.Store.UpdatePresence(ctx, l.agent, auth.Presence); err != nil {
		l.log().Error("agent not recorded", "error", err)
	}
	attrs := []any{"instance", auth.Instance, "version", auth.Version, "attempts", auth.Attempts}
	if p := auth.Previous; p != nil {
		attrs = append(attrs, "previous_link", p.Link.String(), "previous_read", p.Read, "previous_reason", clip(p.Reason))
	}
	l.log().Info("link authenticated", attrs...)

	ack, err := wire.Seal(wire.TypeAuthAck, wire.AuthAck{
		Link: l.id, ServerTime: time.Now(), Capabilities: shared(auth.Capabilities),
	})
	if err != nil {
		return err
	}
	l.reply(ack, session.SendOptions{})
	l.tellPolicy()
	return nil
}

// asCalled gives who, with the past that the upgrade's token told of it; in the token's
// words, where they are the same, for they are kept as long as the link.
func asCalled(caller *wire.Copy, who wire.Copy) *wire.Copy {
	if caller.Instance != who.Instance {
		return &who
	}
	if caller.BootID == who.BootID && caller.Fingerprint == who.Fingerprint && caller.Hostname == who.Hostname {
		return caller
	}
	who.Before = caller.Before
	return &who
}

// maxFieldLength bounds each field in which an agent describes itself.
const maxFieldLength = 256

// shared are the capabilities that both ends named.
func shared(theirs []string) []string {
	both := []string{}
	for _, ours := range capabilities {
		if slices.Contains(theirs, ours) {
			both = append(both, ours)
		}
	}
	return both
}

// configAck checks that the policy in force is the one sent, then sends the probes.
func (l *link) configAck(env wire.Envelope) error {
	ack, err := wire.DecodePayload[wire.ConfigAck](env)
	if err != nil {
		return err
	}
	p := &l.probes
	if !l.acknowledged(config{ack.Version, ack.Hash}) {
		return refusal{wire.CodeUnsupported, "config_ack is not for the policy that was sent"}
	}
	if p.configured {
		return nil
	}
	p.configured, p.pads = true, map[string]string{}
	for _, size := range wire.ProbeSizes {
		id, pad, env, err := l.probe(size)
		if err != nil {
			return err
		}
		p.pads[id] = pad
		l.reply(env, session.SendOptions{Flush: true})
	}
	return nil
}

// probe makes one of the probes that verify a link.
func (l *link) probe(size int) (id, pad string, env wire.Envelope, err error) {
	cmd, env, _, err := l.hub.maker.Make(l.agent, size, probeLife)
	return cmd.ID, cmd.Pad, env, err
}

// probed takes the answer to a probe; mine is false if it was for a command.
// With the last one the link is verified.
func (l *link) probed(env wire.Envelope, at time.Time) (mine bool, err error) {
	if len(l.probes.pads) == 0 {
		return false, nil
	}
	if env.Type == wire.TypeCommandNack {
		nack, err := wire.DecodePayload[wire.Nack](env)
		if err != nil {
			return false, err
		}
		if _, mine = l.probes.pads[nack.ID]; mine {
			l.log().Warn("the agent refused a probe", "code", nack.Code, "detail", clip(nack.Detail))
		}
		return mine, nil
	}
	ack, err := wire.DecodePayload[wire.CommandAck](env)
	if err != nil {
		return false, err
	}
	pad, mine := l.probes.pads[ack.ID]
	if !mine {
		return false, nil
	}
	if ack.Pad != pad {
		return true, refusal{wire.CodeUnsupported, "the probe's pad did not come back as sent"}
	}
	delete(l.probes.pads, ack.ID)
	if len(l.probes.pads) == 0 {
		l.becomeVerified(at)
	}
	return true, nil
}

func (l *link) becomeVerified(at time.Time) {
	l.probes.pads = nil
	l.settle()
	l.mu.Lock()
	l.verifiedAt = at
	l.mu.Unlock()
	l.hub.textBothWays(l, at)
	l.log().Info("link verified", "after", at.Sub(l.opened).Round(time.Millisecond), "rtt", l.RTT().Round(time.Microsecond))

	l.note(Connecting, Verified, "", fmt.Sprintf("from %s, %v after it was opened", l.addr, at.Sub(l.opened).Round(time.Millisecond)))
	l.hub.observe(l.agent)

	l.hub.opts.Delivery.LinkUp(l)
	l.mu.Lock()
	gone := l.gone
	l.mu.Unlock()
	if gone { // it ended between the two: its LinkDown may have come first
		l.hub.opts.Delivery.LinkDown(l.agent, l.generation, "as it was verified")
	}
}

func (l *link) verified() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.verifiedAt.IsZero()
}
