package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"gururmm/wire"
)

// policy is one in force, with what a config_ack says of it.
type policy struct {
	wire.Policy
	hash string // hex SHA-256 of the raw config_update payload; "" for one not so received
}

// newPolicy fills and validates what an update carries; raw is its payload.
func newPolicy(u wire.ConfigUpdate, raw []byte) (*policy, error) {
	p := &policy{Policy: u.Policy.WithDefaults()}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if raw != nil {
		sum := sha256.Sum256(raw)
		p.hash = hex.EncodeToString(sum[:])
	}
	return p, nil
}

// policy is the one in force.
func (w *worker) policy() wire.Policy { return w.inForce.Load().Policy }

// urls are the link's endpoints in order of preference. Call it from any goroutine.
func (w *worker) urls() []string {
	switch p := w.policy(); {
	case len(w.cfg.LinkURLs) > 0:
		return w.cfg.LinkURLs
	case len(p.LinkURLs) > 0:
		return p.LinkURLs
	}
	return w.cfg.Identity.LinkURLs
}

// apply puts p in force: everything asks for it again when it needs it.
func (w *worker) apply(p *policy) {
	w.inForce.Store(p)
	w.exec.SetMaxJobs(p.MaxJobs)
	w.log.Info("policy in force", "version", p.Version)
	w.beatSoon()
	w.change()
}

// configure handles a config_update whose signature is verified.
func (w *worker) configure(it item, env wire.Envelope) {
	u, err := wire.DecodePayload[wire.ConfigUpdate](env)
	if err != nil {
		w.refuse(it, env, "", wire.CodeUnparseable, err.Error())
		return
	}
	if u.Agent != w.cfg.Identity.Agent {
		w.refuse(it, env, "", wire.CodeWrongAgent, "")
		return
	}
	p, err := newPolicy(u, env.Payload)
	if err != nil {
		w.refuse(it, env, "", wire.CodeUnsupported, err.Error())
		return
	}
	if now := w.inForce.Load(); p.Version < now.Version {
		// Validly signed, but old: a replay, or a server restored from a backup. The
		// newer one stays in force; the ack that follows says so and lets the link be
		// verified: nobody is locked out.
		w.refuse(it, env, "", wire.CodeExpired,
			fmt.Sprintf("version %d is older than %d, which stays in force", p.Version, now.Version))
		p = now
	} else {
		w.counters.count(it.session, func(c *wire.StageCounters) { c.Verified++ })
		if p.hash != now.hash { // each new link brings the same one again
			w.apply(p)
			w.hand(env)
		}
	}
	w.reply(it, wire.TypeConfigAck, wire.ConfigAck{Version: p.Version, Hash: p.hash}, true)
	if it.session != nil {
		it.session.Configured()
		w.beatSoon()
	}
}
