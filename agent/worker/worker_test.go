package worker_test

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/pipe"
	"gururmm/wire"
)

func TestHandshakeToVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.policy = wire.Policy{Version: 7, HeartbeatMS: 30_000}
		r := startRig(t, srv, nil)
		p := r.verified(1)

		auth := decode[wire.Auth](t, p.of(wire.TypeAuth)[0])
		if auth.Instance != "instance-1" || auth.Version != "1.0" || auth.Attempts != 1 || auth.Previous != nil {
			t.Errorf("auth = %+v", auth)
		}
		ack := decode[wire.ConfigAck](t, p.of(wire.TypeConfigAck)[0])
		sum := sha256.Sum256(srv.sign(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agentID, Policy: srv.policy}).Payload)
		if ack.Version != 7 || ack.Hash != hex.EncodeToString(sum[:]) {
			t.Errorf("config_ack = %+v", ack)
		}
		for i, env := range p.of(wire.TypeCommandAck) {
			a := decode[wire.CommandAck](t, env)
			if len(a.Pad) != wire.ProbeSizes[i] || a.Stages[wire.StageJournaled].IsZero() || a.Stages[wire.StageAcked].IsZero() {
				t.Errorf("probe ack %d: %d bytes of pad, stages %v", i, len(a.Pad), a.Stages)
			}
		}
		r.wait("the policy handed up", time.Second, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.facts) == 1 && r.facts[0].Policy != nil
		})
		s := r.last()
		if s.Link.Attempts != 0 || s.Link.Failure != nil || s.Link.VerifiedAge == nil {
			t.Errorf("link facts %+v", s.Link)
		}
		if c := s.Stages; c.Read != c.Decoded || c.Verified != 4 || c.Journaled != 3 || c.Acked != 3 {
			t.Errorf("stages %+v", c)
		}
		// Heartbeats keep the interval that the policy set.
		before := len(p.of(wire.TypeHeartbeat))
		time.Sleep(5 * time.Minute)
		if n := len(p.of(wire.TypeHeartbeat)) - before; n < 9 || n > 11 {
			t.Errorf("%d heartbeats in 5 min, want one every 30 s", n)
		}
		if s := r.last(); s.Link.Phase != "verified" || s.Link.Drops != 0 || len(srv.links()) != 1 {
			t.Errorf("an idle link did not hold: %+v", s.Link)
		}
	})
}

func TestCommandRunsOnceAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		cmd := command(func(c *wire.Command) { c.Script = "echo out\nexit 3" })
		env := p.sendSigned(wire.TypeCommand, cmd)
		r.wait("a result", time.Minute, func() bool { return len(p.of(wire.TypeCommandResult)) > 0 })
		res := decode[wire.CommandResult](t, p.of(wire.TypeCommandResult)[0])
		if res.ID != cmd.ID || res.ExitCode == nil || *res.ExitCode != 3 || unixText(res.Stdout) != "out\n" {
			t.Errorf("result %+v", res)
		}
		if acks := p.of(wire.TypeCommandAck); decode[wire.CommandAck](t, acks[len(acks)-1]).ID != cmd.ID {
			t.Error("the command was not acknowledged")
		}
		// The same again, by the link and by the second door: known, not run.
		p.sendEnv(env)
		r.wait("a duplicate nack", time.Minute, func() bool { return len(p.of(wire.TypeCommandNack)) == 1 })
		n := decode[wire.Nack](t, p.of(wire.TypeCommandNack)[0])
		if n.Code != wire.CodeDuplicate || n.Result == nil || *n.Result.ExitCode != 3 {
			t.Errorf("nack %+v", n)
		}
		r.order(pipe.Order{Deliver: []wire.Envelope{env}})
		r.wait("a duplicate nack up the pipe", time.Minute, func() bool { return len(r.up(wire.TypeCommandNack)) == 1 })
		r.wait("the counters", time.Second, func() bool {
			s := r.last().Stages
			return s.Duplicates == 2 && s.Started == 1 && s.Finished == 1 && s.Results == 1
		})
	})
}
