package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

func TestOutputInPiecesAndWhatIsMissingIsAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.submit()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
		piece := func(off int64, s string) {
			r.send(l, wire.TypeCommandOutput, wire.CommandOutput{ID: id, Stream: wire.Stdout, Offset: off, Data: []byte(s)})
		}
		piece(0, "abc")
		piece(6, "ghi")
		res := completed(id, "")
		res.StdoutBytes = 9
		ack := resultAck(t, r.send(l, wire.TypeCommandResult, res))
		if ack.Stored || ack.HaveStdout != 3 {
			t.Fatalf("answered %+v", ack)
		}
		r.expect(id, wire.StateRunning, 1)
		piece(3, "def")
		if ack = resultAck(t, r.send(l, wire.TypeCommandResult, res)); !ack.Stored {
			t.Fatalf("answered %+v", ack)
		}
		if out, err := r.s.Output(t.Context(), id, wire.Stdout); err != nil || string(out) != "abcdefghi" {
			t.Fatalf("output %q %v", out, err)
		}
		piece(0, "abc") // a repeat after the end
		r.expect(id, wire.StateCompleted, 1)
	})
}

func TestBadUpstreamIsRefusedAndChangesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.order(operator.NewCommand{Script: "true", MaxOutput: 10})
		other := r.enroll("other")
		for name, test := range map[string]struct {
			agent   string
			typ     wire.Type
			payload any
			want    error
		}{
			"another agent's":  {other, wire.TypeCommandAck, wire.CommandAck{ID: id}, ErrForeign},
			"nobody's":         {r.agent, wire.TypeCommandAck, wire.CommandAck{ID: "nothing"}, ErrForeign},
			"nobody's output":  {r.agent, wire.TypeCommandOutput, wire.CommandOutput{ID: "nothing", Stream: wire.Stdout, Data: []byte("x")}, ErrForeign},
			"no id":            {r.agent, wire.TypeCommandAck, wire.CommandAck{}, ErrUnparseable},
			"long id":          {r.agent, wire.TypeCommandAck, wire.CommandAck{ID: strings.Repeat("x", 65)}, ErrUnparseable},
			"not an object":    {r.agent, wire.TypeCommandAck, []int{1}, ErrUnparseable},
			"no such result":   {r.agent, wire.TypeCommandResult, wire.CommandResult{ID: id, State: wire.StatePending}, ErrUnparseable},
			"negative size":    {r.agent, wire.TypeCommandResult, wire.CommandResult{ID: id, State: wire.StateFailed, StdoutBytes: -1}, ErrUnparseable},
			"output too long":  {r.agent, wire.TypeCommandOutput, wire.CommandOutput{ID: id, Stream: wire.Stdout, Data: make([]byte, 11)}, ErrUnparseable},
			"output far off":   {r.agent, wire.TypeCommandOutput, wire.CommandOutput{ID: id, Stream: wire.Stdout, Offset: 1<<63 - 1, Data: []byte("x")}, ErrUnparseable},
			"negative offset":  {r.agent, wire.TypeCommandOutput, wire.CommandOutput{ID: id, Stream: wire.Stdout, Offset: -1, Data: []byte("x")}, ErrUnparseable},
			"no such stream":   {r.agent, wire.TypeCommandOutput, wire.CommandOutput{ID: id, Stream: "x", Data: []byte("x")}, ErrUnparseable},
			"not for delivery": {r.agent, wire.TypeHeartbeat, wire.Heartbeat{}, ErrUnparseable},
		} {
			env, err := wire.Seal(test.typ, test.payload)
			if err != nil {
				t.Fatal(err)
			}
			replies, err := r.s.Upstream(t.Context(), test.agent, wire.ChannelLink, l.id, time.Now(), env)
			if !errors.Is(err, test.want) || len(replies) != 1 || replies[0].Type != wire.TypeNack {
				t.Errorf("%s: %v, answered %v", name, err, replies)
			}
		}
		if c := r.expect(id, wire.StateRunning, 1); c.AckedAt != nil {
			t.Fatal("acknowledged")
		}
	})
}

func TestCancel(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		cancel := func(id string) operator.Command {
			t.Helper()
			c, err := r.s.Cancel(t.Context(), id, "ops")
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return c
		}
		waiting := r.submit()
		if c := cancel(waiting); c.State != wire.StateCancelled || c.Reason != "cancelled before it was offered" {
			t.Fatalf("got %+v", c)
		}
		l := r.up()
		running := r.submit()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: running})
		cancel(running)
		cancel(running) // once more changes nothing
		if got := l.types(); !slices.Equal(got, []wire.Type{wire.TypeCommand, wire.TypeCancelCommand}) {
			t.Fatalf("sent %v", got)
		}
		sleep(6 * time.Second)
		r.s.Hint(r.agent)
		synctest.Wait()
		if len(l.sent) != 3 {
			t.Fatal("a cancel that came to nothing is not repeated")
		}
		_, envs, _ := r.take()
		if len(envs) != 1 || envs[0].Type != wire.TypeCancelCommand {
			t.Fatalf("the poll got %v", envs)
		}
		if _, envs, _ = r.take(); len(envs) != 0 {
			t.Fatal("each poll would come back at once with the same cancel")
		}
		r.send(nil, wire.TypeCommandNack, wire.Nack{Code: wire.CodeUnsupported, ID: running, Type: wire.TypeCancelCommand})
		r.expect(running, wire.StateRunning, 1)
		r.send(l, wire.TypeCommandResult, wire.CommandResult{ID: running, State: wire.StateCancelled, Reason: "cancelled by the operator"})
		r.expect(running, wire.StateCancelled, 1)

		claimed := r.submit()
		cancel(claimed)
		r.expect(claimed, wire.StateRunning, 1)
		sleep(5 * time.Second)
		if c := r.expect(claimed, wire.StateCancelled, 1); !strings.Contains(c.Reason, "may have arrived") {
			t.Fatalf("reason is %q", c.Reason)
		}
		out := r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: claimed}) // it had
		if len(out) != 1 || out[0].Type != wire.TypeCancelCommand {
			t.Fatalf("answered %v", out)
		}
		_, err := r.s.Cancel(t.Context(), "nothing", "ops")
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
	})
}

func TestRestartGivesBackClaimsAndKeepsWhatIsAcknowledged(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		out, acked := r.submit(), r.submit()
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: acked})
		r.restart()
		r.expect(out, wire.StatePending, 1)
		r.expect(acked, wire.StateRunning, 1)
		r.owed(1)
		l = r.up()
		if got := l.commands(t); !slices.Equal(got, []string{out}) {
			t.Fatalf("sent %v", got)
		}
		r.send(l, wire.TypeCommandResult, completed(acked, "x"))
		r.expect(acked, wire.StateCompleted, 1)
	})
}

func TestSubmitRefusesWhatCanNotBeDelivered(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for name, n := range map[string]operator.NewCommand{
			"empty":       {Script: " \n"},
			"long":        {Script: strings.Repeat("x", wire.MaxScript+1)},
			"escapes":     {Script: strings.Repeat("\x01", wire.MaxScript)},
			"not text":    {Script: "\xff"},
			"NUL":         {Script: "a\x00b"},
			"shell":       {Script: "x", Shell: "zsh"},
			"timeout":     {Script: "x", TimeoutMS: -1},
			"overflow":    {Script: "x", TimeoutMS: 1 << 62},
			"expiry":      {Script: "x", ExpiresInMS: -1},
			"output":      {Script: "x", MaxOutput: 1 << 40},
			"idempotency": {Script: "x", IdempotencyKey: strings.Repeat("k", 201)},
		} {
			if _, err := r.s.Submit(t.Context(), r.agent, n, "ops"); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := r.s.Submit(t.Context(), "nobody", operator.NewCommand{Script: "x"}, "ops"); !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
		if err := r.st.SetQuarantined(t.Context(), r.agent, true); err != nil {
			t.Fatal(err)
		}
		if _, err := r.s.Submit(t.Context(), r.agent, operator.NewCommand{Script: "x"}, "ops"); !errors.Is(err, ErrQuarantined) {
			t.Error(err)
		}
	})
}

func TestIdempotencyKeyGivesTheFirstCommand(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		a := r.order(operator.NewCommand{Script: "true", IdempotencyKey: "k"})
		b := r.order(operator.NewCommand{Script: "true", IdempotencyKey: "k"})
		if a != b || len(l.sent) != 1 {
			t.Fatalf("%s and %s, %d sent", a, b, len(l.sent))
		}
		for what, other := range map[string]operator.NewCommand{
			"script": {Script: "false"}, "shell": {Script: "true", Shell: wire.ShellBash},
			"timeout": {Script: "true", TimeoutMS: 1}, "max_output": {Script: "true", MaxOutput: 1},
		} {
			other.IdempotencyKey = "k"
			if _, err := r.s.Submit(t.Context(), r.agent, other, "ops"); !errors.Is(err, ErrKeyUsed) || !strings.Contains(err.Error(), a) {
				t.Errorf("another %s: %v", what, err)
			}
		}
	})
}

// A follower that reads nothing for long is caught up from the database, and blocks nobody.
func TestSlowFollowerMissesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.up()
		id := r.submit()
		ch, err := r.s.Follow(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: id})
		var whole []byte
		for i := range 50 {
			data := bytes.Repeat([]byte{byte(i)}, 3000)
			r.send(l, wire.TypeCommandOutput, wire.CommandOutput{ID: id, Stream: wire.Stdout, Offset: int64(len(whole)), Data: data})
			whole = append(whole, data...)
		}
		res := completed(id, "")
		res.StdoutBytes = int64(len(whole))
		r.send(l, wire.TypeCommandResult, res)
		var got []byte
		var kinds []string
		seen := map[wire.Stage]int{}
		for e := range ch {
			kinds = append(kinds, e.Kind)
			got = append(got, e.Data...)
			if e.Stage != nil {
				seen[e.Stage.Stage]++
			}
			if e.At.IsZero() {
				t.Errorf("%s without a time", e.Kind)
			}
		}
		if !bytes.Equal(got, whole) || kinds[0] != "state" || kinds[len(kinds)-1] != "end" || seen[wire.StageResultStored] != 1 || seen[wire.StageClaimed] != 1 {
			t.Fatalf("%d of %d bytes, kinds %v, stages %v", len(got), len(whole), kinds, seen)
		}
	})
}

func TestFollowerIsToldWhyItWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id := r.submit()
		ctx, cancel := context.WithCancel(t.Context())
		events := r.follow(ctx, id)
		cancel()
		if all := events(); !slices.ContainsFunc(all, func(e operator.Event) bool {
			return strings.Contains(e.Notice, "not offered yet: the agent is offline")
		}) {
			t.Fatalf("told %+v", all)
		}
		if _, err := r.s.Follow(t.Context(), "nothing"); !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
	})
}

func TestFollowerIsToldEachOtherReasonAndTheSameOneAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.stop()
		var mu sync.Mutex
		kind, read := "connecting", 0
		r.why = func(string) (string, string) {
			mu.Lock()
			defer mu.Unlock()
			return kind, fmt.Sprintf("%s, the agent has read %d", kind, read)
		}
		set := func(k string, n int) {
			mu.Lock()
			defer mu.Unlock()
			kind, read = k, n
		}
		r.start()
		id := r.submit()
		ctx, cancel := context.WithCancel(t.Context())
		events := r.follow(ctx, id)
		sleep(500 * time.Millisecond)
		set("connecting", 1) // a number is no other reason
		sleep(10 * time.Second)
		set("deaf", 2)
		sleep(1500 * time.Millisecond)
		r.stopped(id, "deaf, the agent has read 2")
		cancel()
		var told []string
		for _, e := range events() {
			if said, ok := strings.CutPrefix(e.Notice, "not offered yet: "); ok {
				said, _, _ = strings.Cut(said, ";")
				told = append(told, said)
			}
		}
		want := []string{"connecting, the agent has read 0", "connecting, the agent has read 1", "deaf, the agent has read 2"}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

func TestStoppedServiceSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id := r.submit()
		ch, err := r.s.Follow(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		drained := make(chan struct{})
		go func() {
			for range ch {
			}
			close(drained)
		}()
		r.stop()
		<-drained
		if _, err := r.s.Submit(t.Context(), r.agent, operator.NewCommand{Script: "x"}, ""); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
		if _, done, err := r.s.Take(t.Context(), r.agent, 1); !errors.Is(err, ErrStopped) {
			t.Error(err)
		} else {
			done(time.Now(), nil)
		}
		if _, err := r.s.Follow(t.Context(), id); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
	})
}

// One slow or dead agent holds up nobody else's commands.
func TestClaimsOutToOneAgentAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for range maxOut + 5 {
			r.submit()
		}
		l := r.up()
		if len(l.sent) != maxOut {
			t.Fatalf("%d sent at once", len(l.sent))
		}
		r.send(l, wire.TypeCommandAck, wire.CommandAck{ID: l.commands(t)[0]})
		if len(l.sent) != maxOut+1 {
			t.Fatalf("%d sent", len(l.sent))
		}
	})
}
