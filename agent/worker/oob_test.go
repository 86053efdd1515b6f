package worker_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/pipe"
	"gururmm/agent/worker"
	"gururmm/wire"
)

func oob(on bool) pipe.Order { return pipe.Order{OOB: &on} }

func TestUpstreamTakesTheTrustedDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		run := func(script string) wire.Envelope {
			return srv.sign(wire.TypeCommand, command(func(c *wire.Command) { c.Script = script }))
		}

		// OOB delivery: what comes by the second door goes back there.
		r.order(oob(true))
		r.order(pipe.Order{Deliver: []wire.Envelope{run("echo by the second door")}})
		r.wait("ack and result up the pipe", time.Minute, func() bool {
			return len(r.up(wire.TypeCommandAck)) == 1 && len(r.up(wire.TypeCommandResult)) == 1
		})
		if len(p.of(wire.TypeCommandResult)) != 0 {
			t.Error("a result took a link that is not trusted")
		}
		// What was not stored is repeated, there too.
		r.wait("a repeat", 10*time.Second, func() bool { return len(r.up(wire.TypeCommandResult)) >= 2 })

		// A fresh link in the meantime is verified by its probes, acknowledged on it.
		r.order(reconnect(pipe.ReconnectOrder{Reason: "retry", Probe: true}))
		p = r.verified(2)
		if n := len(p.of(wire.TypeCommandAck)); n != len(wire.ProbeSizes) {
			t.Errorf("%d probes acknowledged on the link itself", n)
		}
		if n := len(r.up(wire.TypeCommandAck)); n != 1 {
			t.Errorf("%d acks up the pipe: a probe's belongs to its link", n)
		}

		// Trusted again: the link is used for both.
		r.order(oob(false))
		r.order(pipe.Order{Ping: true}) // orders are obeyed one by one: the last is done with OOB
		p.sendEnv(run("echo by the link"))
		r.wait("the result on the link", time.Minute, func() bool {
			for _, env := range p.of(wire.TypeCommandResult) {
				if res := decode[wire.CommandResult](t, env); unixText(res.Stdout) == "by the link\n" {
					return true
				}
			}
			return false
		})
	})
}

// The server may ask, by the link, that the guardian call by the second door.
func TestACallGoesToTheGuardian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		if auth := decode[wire.Auth](t, p.of(wire.TypeAuth)[0]); !slices.Contains(auth.Capabilities, wire.CapCall) {
			t.Errorf("it names %v", auth.Capabilities)
		}
		p.send(wire.TypeCall, struct{}{})
		r.wait("the fact", 10*time.Second, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return slices.ContainsFunc(r.facts, func(f pipe.Fact) bool { return f.Call })
		})
		if n := p.of(wire.TypeNack); len(n) != 0 {
			t.Errorf("refused: %s", n[0].Payload)
		}
	})
}

// A result that found no link goes up the pipe, and comes again on the next one.
func TestResultsComeAgainOnTheNextLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		srv.set(func() { srv.mute = true }) // nothing is stored, nothing acknowledged
		p.sendSigned(wire.TypeCommand, command(nil))
		r.wait("the result", time.Minute, func() bool { return len(p.of(wire.TypeCommandResult)) > 0 })
		srv.set(func() { srv.mute = false })
		r.order(reconnect(pipe.ReconnectOrder{Reason: "again"}))
		began := time.Now()
		p = r.verified(2)
		r.wait("the result again", time.Minute, func() bool { return len(p.of(wire.TypeCommandResult)) == 1 })
		if took := time.Since(began); took > time.Second {
			t.Errorf("repeated after %v, want at once on a verified link", took)
		}
		r.wait("nothing owed", 10*time.Second, func() bool { return r.last().Jobs.Unacked == 0 })
	})
}

// The last heartbeat of a drain counts as those before it do, also on a link that came
// after jobs had run on another.
func TestLastHeartbeatCountsJobsOfItsOwnLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)
		p.sendSigned(wire.TypeCommand, command(nil))
		r.wait("the result", time.Minute, func() bool { return len(p.of(wire.TypeCommandResult)) == 1 })
		r.order(reconnect(pipe.ReconnectOrder{Reason: "another link"}))
		p = r.verified(2)
		before := len(p.of(wire.TypeHeartbeat))
		r.order(pipe.Order{Drain: &pipe.DrainOrder{GraceMS: 1000, Reason: "update"}})
		r.wait("the last heartbeat", time.Minute, func() bool { return len(p.of(wire.TypeHeartbeat)) > before })
		beats := p.of(wire.TypeHeartbeat)
		if s := decode[wire.Heartbeat](t, beats[len(beats)-1]).Stages; s.Started != 0 || s.Finished != 0 {
			t.Errorf("%d jobs started and %d finished on a link that had none", s.Started, s.Finished)
		}
	})
}

func TestOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		p := r.verified(1)

		pings := r.last().Link.Out.Frames["ping"].Count
		r.order(pipe.Order{Ping: true})
		r.wait("a ping", time.Second, func() bool { return r.last().Link.Out.Frames["ping"].Count > pings })

		r.order(pipe.Order{Frames: true})
		r.order(pipe.Order{Stacks: true})
		r.wait("frames and stacks", 5*time.Second, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			var frames, stacks bool
			for _, f := range r.facts {
				frames = frames || f.Frames != nil && len(*f.Frames) > 16
				stacks = stacks || len(f.Stacks) > 1000
			}
			return frames && stacks
		})

		ns := (90 * time.Second).Nanoseconds()
		r.order(pipe.Order{OffsetNS: &ns})
		r.wait("the offset", time.Second, func() bool {
			o := r.last().Clock.Offset
			return o != nil && *o == 90*time.Second
		})

		verdict := "ok.idle"
		r.order(pipe.Order{Verdict: &verdict})
		r.wait("a heartbeat with it", 2*time.Minute, func() bool {
			beats := p.of(wire.TypeHeartbeat)
			return decode[wire.Heartbeat](t, beats[len(beats)-1]).Verdict == verdict
		})

		update, _ := wire.Seal(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agentID, Policy: wire.Policy{Version: 3, MaxJobs: 2}})
		r.order(pipe.Order{Policy: &update})
		r.wait("the policy in force", time.Second, func() bool { return r.last().Jobs.Limit == 2 })
	})
}

// In real time: virtual time stands still while a real process runs.
func TestDrain(t *testing.T) {
	srv := newServer(t)
	r := startRig(t, srv, nil)
	p := r.verified(1)
	p.sendSigned(wire.TypeCommand, command(func(c *wire.Command) { c.Script = sleeper }))
	// One that is accepted counts as running before it is started, and a drain leaves it to the next worker.
	r.wait("a started job", time.Minute, func() bool {
		jobs := r.last().Jobs.Jobs
		return len(jobs) == 1 && jobs[0].PID > 0
	})
	r.order(pipe.Order{Drain: &pipe.DrainOrder{GraceMS: 100, Reason: "stop"}})
	r.stop(nil)
	res := p.of(wire.TypeCommandResult)
	if len(res) == 0 {
		t.Fatal("the interrupted job's result was not sent before the link closed")
	}
	if got := decode[wire.CommandResult](t, res[0]); got.State != wire.StateInterrupted {
		t.Errorf("result %+v", got)
	}
}

// A guardian that does not read is as good as gone.
func TestDeafGuardian(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := startRig(t, srv, nil)
		r.verified(1)
		close(r.deaf)
		began := time.Now()
		err := <-r.done
		if took := time.Since(began); err != worker.ErrGuardianDeaf || took > time.Minute {
			t.Errorf("ended with %v after %v", err, took)
		}
		r.stopped = true
	})
}
