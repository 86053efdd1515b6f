package guardian

import (
	"gururmm/agent/pipe"
	"gururmm/wire"
)

// adoptUpdate puts a config_update in force that the worker took from the link.
// It is checked once more: the worker is the observed one.
func (g *Guardian) adoptUpdate(signed wire.Envelope) {
	if err := g.keys.Verify(signed); err != nil || signed.Type != wire.TypeConfigUpdate {
		g.log.Warn("worker passed on a policy that is not the server's", "error", err)
		return
	}
	update, err := wire.DecodePayload[wire.ConfigUpdate](signed)
	if err != nil || update.Agent != g.cfg.Agent {
		g.log.Warn("worker passed on a policy that is not ours", "error", err)
		return
	}
	if update.Policy.Version < g.policy.Version { // a replay, or a server restored from a backup
		g.log.Warn("an older policy is not adopted", "version", update.Policy.Version, "in_force", g.policy.Version)
		return
	}
	if err := g.adopt(update.Policy, &signed); err != nil {
		g.log.Warn("policy is not adopted", "version", update.Policy.Version, "error", err)
	}
}

// adopt puts p in force here and makes it last; signed is the config_update
// that brought it, nil for a directive's.
func (g *Guardian) adopt(p wire.Policy, signed *wire.Envelope) error {
	p = p.WithDefaults()
	if err := p.Validate(); err != nil {
		return err
	}
	source := "server"
	if signed == nil {
		source = "directive"
	}
	g.notePolicy(p, source)
	g.policy = p
	g.ladder.SetPolicy(p)
	if signed == nil {
		g.memory.policy, g.memory.dirty, g.memory.urgent = &p, true, true
		return nil
	}
	g.memory.policy, g.memory.dirty = nil, true
	if g.cfg.SavePolicy != nil {
		g.keep(job{what: jobPolicy, do: func() error { return g.cfg.SavePolicy(*signed) }})
	}
	return nil
}

// tellPolicy gives the worker the policy of a directive: it is not stored where
// the worker finds that of a config_update.
func (g *Guardian) tellPolicy() {
	if g.memory.policy == nil || g.worker.life == nil {
		return
	}
	update, err := wire.Seal(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: g.cfg.Agent, Policy: *g.memory.policy})
	if err != nil {
		g.log.Error("policy can't be encoded", "error", err)
		return
	}
	g.order(pipe.Order{Policy: &update})
}

// policySource says where the policy in force came from.
func (g *Guardian) policySource() string {
	switch {
	case g.memory.policy != nil:
		return "directive"
	case g.policy.Version == 0:
		return "default"
	}
	return "server"
}
