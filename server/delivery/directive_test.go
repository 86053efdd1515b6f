package delivery

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

func TestDirectivesAreNotHandedOutTwiceAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		awake, stop := r.s.Waiter(r.agent)
		defer stop()
		d, err := r.s.Directive(t.Context(), r.agent, operator.NewDirective{Kind: wire.DirectivePoll}, "ops")
		if err != nil {
			t.Fatal(err)
		}
		<-awake
		envs, failed, err := r.s.Directives(t.Context(), r.agent)
		if err != nil || len(envs) != 1 || envs[0].Type != wire.TypeDirective {
			t.Fatalf("got %v, %v", envs, err)
		}
		if got, err := wire.DecodePayload[wire.Directive](envs[0]); err != nil || got.ID != d.ID || got.Agent != r.agent {
			t.Fatalf("got %+v, %v", got, err)
		}
		none := func() {
			t.Helper()
			if envs, _, err := r.s.Directives(t.Context(), r.agent); err != nil || len(envs) != 0 {
				t.Fatalf("got %v, %v", envs, err)
			}
		}
		none() // it is out
		failed(time.Now(), errBroken)
		synctest.Wait()
		_, envs, done := r.take()
		if len(envs) != 1 {
			t.Fatalf("got %v", envs)
		}
		done(time.Now(), nil)
		synctest.Wait()
		none()
		r.restart()
		none()
		for _, bad := range []operator.NewDirective{{Kind: "format_disk"}, {Kind: wire.DirectiveUpdate}, {Kind: wire.DirectiveReenroll}, {Kind: wire.DirectivePoll, Lift: true}, {Kind: wire.DirectivePoll, Only: []string{"dns"}}, {Kind: wire.DirectiveUseEndpoint, Endpoint: "https://x"}, {Kind: wire.DirectiveSetPolicy}} {
			if _, err := r.s.Directive(t.Context(), r.agent, bad, "ops"); !errors.Is(err, ErrInvalid) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		if _, err := r.s.Directive(t.Context(), "nobody", operator.NewDirective{Kind: wire.DirectivePoll}, "ops"); !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
	})
}

func (r *rig) direct(kind wire.DirectiveKind) string {
	r.t.Helper()
	d, err := r.s.Directive(r.t.Context(), r.agent, operator.NewDirective{Kind: kind, Reason: "a reason"}, "ops")
	if err != nil {
		r.t.Fatal(err)
	}
	if d.State != operator.DirectiveWaiting || d.CreatedBy != "ops" || d.Reason != "a reason" {
		r.t.Fatalf("ordered: %+v", d)
	}
	synctest.Wait()
	return d.ID
}

// fetch takes directives as a beacon does, and has its answer written.
func (r *rig) fetch() (ids []string) {
	r.t.Helper()
	envs, done, err := r.s.Directives(r.t.Context(), r.agent)
	if err != nil {
		r.t.Fatal(err)
	}
	done(time.Now(), nil)
	synctest.Wait()
	for _, env := range envs {
		d, err := wire.DecodePayload[wire.Directive](env)
		if err != nil {
			r.t.Fatal(err)
		}
		ids = append(ids, d.ID)
	}
	return ids
}

// answer sends an agent's word on a directive up; the code of what it is refused with.
func (r *rig) answer(agent string, t wire.Type, payload any) wire.Code {
	r.t.Helper()
	env, err := wire.Seal(t, payload)
	if err != nil {
		r.t.Fatal(err)
	}
	replies, err := r.s.Answered(r.t.Context(), agent, time.Now(), env)
	synctest.Wait()
	if len(replies) == 0 {
		if err != nil && t != wire.TypeNack {
			r.t.Fatal(err)
		}
		return ""
	}
	nack, err := wire.DecodePayload[wire.Nack](replies[0])
	if err != nil || nack.Type != t {
		r.t.Fatalf("got %+v, %v", replies[0], err)
	}
	return nack.Code
}

func (r *rig) asked(id string) operator.Directive {
	r.t.Helper()
	d, err := r.s.AskDirective(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func TestADirectivesOutcomeIsKeptOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id := r.direct(wire.DirectiveRunProbes)
		if got := r.fetch(); len(got) != 1 || got[0] != id || r.asked(id).State != operator.DirectiveDelivered {
			t.Fatalf("fetched %v, then %+v", got, r.asked(id))
		}
		sleep(time.Second)
		accepted := wire.DirectiveResult{ID: id, Kind: wire.DirectiveRunProbes, State: wire.DirectiveAccepted, At: time.Now()}
		r.answer(r.agent, wire.TypeDirectiveResult, accepted)
		d := r.asked(id)
		if d.State != string(wire.DirectiveAccepted) || d.AcceptedAt == nil || !d.AcceptedAt.Equal(time.Now()) || d.EndedAt != nil {
			t.Fatalf("accepted: %+v", d)
		}
		sleep(2 * unheardAfter)
		if got := r.fetch(); len(got) != 0 {
			t.Errorf("handed out again though it was accepted: %v", got)
		}
		done := wire.DirectiveResult{ID: id, State: wire.DirectiveDone, Detail: "fine", Report: json.RawMessage(`{"checks":[]}`)}
		for range 2 {
			r.answer(r.agent, wire.TypeDirectiveResult, done)
			r.answer(r.agent, wire.TypeDirectiveResult, accepted) // a repeat that comes late
			r.answer(r.agent, wire.TypeDirectiveResult, wire.DirectiveResult{ID: id, State: wire.DirectiveFailed, Detail: "other"})
		}
		d = r.asked(id)
		if d.State != string(wire.DirectiveDone) || d.Detail != "fine" || string(d.Report) != `{"checks":[]}` || !d.Ended() {
			t.Errorf("done: %+v", d)
		}
		all, err := r.s.ListDirectives(t.Context(), r.agent, 0)
		if err != nil || len(all) != 1 || all[0].Report != nil || all[0].State != string(wire.DirectiveDone) {
			t.Errorf("listed: %+v, %v", all, err)
		}
	})
}

func TestARefusedDirectiveSaysWhy(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id := r.direct(wire.DirectiveRollback)
		r.fetch()
		r.answer(r.agent, wire.TypeNack, wire.Nack{Code: wire.CodeUnsupported, ID: id, Type: wire.TypeDirective, Detail: "no older program is kept"})
		if d := r.asked(id); d.State != string(wire.DirectiveFailed) || d.Code != wire.CodeUnsupported || d.Detail != "no older program is kept" {
			t.Errorf("%+v", d)
		}
	})
}

// The cause of the moment goes with a failure, and with nothing else.
func TestAFailureKeepsItsCode(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for state, want := range map[wire.DirectiveState]wire.Code{wire.DirectiveFailed: wire.CodeInterrupted, wire.DirectiveDone: "", wire.DirectiveAccepted: ""} {
			id := r.direct(wire.DirectiveRollback)
			r.fetch()
			r.answer(r.agent, wire.TypeDirectiveResult, wire.DirectiveResult{ID: id, State: state, Code: wire.CodeInterrupted, Detail: "as told"})
			if d := r.asked(id); d.State != string(state) || d.Code != want || d.Detail != "as told" {
				t.Errorf("%s: %+v", state, d)
			}
		}
	})
}

// Bytes taken by a connection may never arrive: what is not answered is handed
// out again, and an agent that knows it says so.
func TestAnUnansweredDirectiveIsHandedOutAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		short, long := r.direct(wire.DirectiveReconnect), r.direct(wire.DirectiveSendBundle)
		if got := r.fetch(); len(got) != 2 {
			t.Fatalf("fetched %v", got)
		}
		sleep(unheardAfter - time.Second)
		if got := r.fetch(); len(got) != 0 {
			t.Fatalf("again too soon: %v", got)
		}
		awake, stop := r.s.Waiter(r.agent)
		defer stop()
		sleep(time.Second)
		select {
		case <-awake:
		default:
			t.Error("no poll was woken for it")
		}
		if got := r.fetch(); len(got) != 2 {
			t.Fatalf("again: %v", got)
		}
		for _, id := range []string{short, long} {
			r.answer(r.agent, wire.TypeNack, wire.Nack{Code: wire.CodeDuplicate, ID: id, Type: wire.TypeDirective})
		}
		if d := r.asked(long); d.State != string(wire.DirectiveAccepted) || d.Code != "" {
			t.Errorf("that it was known says nothing of its outcome: %+v", d)
		}
		r.answer(r.agent, wire.TypeDirectiveResult, wire.DirectiveResult{ID: short, State: wire.DirectiveDone})
		if d := r.asked(short); d.State != string(wire.DirectiveDone) {
			t.Errorf("told later: %+v", d)
		}
		sleep(directiveLife)
		if d := r.asked(long); d.State != operator.DirectiveExpired || !d.Ended() {
			t.Errorf("never ended: %+v", d)
		}
	})
}

func TestAnAnswerIsTakenFromItsOwnAgentAndInBounds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		id, other := r.direct(wire.DirectiveRunProbes), r.enroll("other")
		done := wire.DirectiveResult{ID: id, State: wire.DirectiveDone}
		if code := r.answer(other, wire.TypeDirectiveResult, done); code != wire.CodeWrongAgent {
			t.Errorf("another agent's: %q", code)
		}
		r.answer(other, wire.TypeNack, wire.Nack{Code: wire.CodeDuplicate, ID: id, Type: wire.TypeDirective})
		for name, bad := range map[string]wire.DirectiveResult{
			"no id": {State: wire.DirectiveDone}, "a long id": {ID: strings.Repeat("x", 65), State: wire.DirectiveDone},
			"a long code": {ID: id, State: wire.DirectiveFailed, Code: wire.Code(strings.Repeat("x", 65))},
			"no state":    {ID: id}, "a made up state": {ID: id, State: "maybe"},
			"a large report": {ID: id, State: wire.DirectiveDone, Report: json.RawMessage(`"` + strings.Repeat("x", wire.MaxDirectiveReport) + `"`)},
		} {
			if code := r.answer(r.agent, wire.TypeDirectiveResult, bad); code != wire.CodeUnparseable {
				t.Errorf("%s: %q", name, code)
			}
		}
		if d := r.asked(id); d.State != operator.DirectiveWaiting {
			t.Errorf("%+v", d)
		}
	})
}

func TestAVerifiedLinkThatUnderstandsItIsCalled(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		plain := r.up()
		r.direct(wire.DirectiveReconnect)
		if got := plain.types(); len(got) != 0 {
			t.Fatalf("an agent that does not know call got %v", got)
		}
		able := r.up()
		able.calls = true
		r.direct(wire.DirectiveReconnect)
		if got := able.types(); len(got) != 1 || got[0] != wire.TypeCall || len(plain.types()) != 0 {
			t.Fatalf("called by %v and %v", got, plain.types())
		}
		if raw, err := able.sent[0].env.Encode(); err != nil {
			t.Error(err)
		} else if _, err := wire.Decode(raw); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	})
}

func TestDirectivesAreBoundedWhereTheyAreOrderedAndHandedOut(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		order := func(n operator.NewDirective) error {
			_, err := r.s.Directive(t.Context(), r.agent, n, "ops")
			return err
		}
		long := "wss://example.org/" + strings.Repeat("x", maxURL)
		policy := func(urls ...string) *wire.Policy { return &wire.Policy{Version: 1, LinkURLs: urls} }
		for name, bad := range map[string]operator.NewDirective{
			"a long endpoint":  {Kind: wire.DirectiveUseEndpoint, Endpoint: long},
			"a long link URL":  {Kind: wire.DirectiveSetPolicy, Policy: policy(long)},
			"many of its URLs": {Kind: wire.DirectiveSetPolicy, Policy: policy(slices.Repeat([]string{"wss://example.org/v1/link"}, maxURLs+1)...)},
		} {
			if err := order(bad); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}

		// Those of a server that did not bound them yet.
		for range 3 {
			if _, err := r.s.Order(t.Context(), wire.Directive{Agent: r.agent, Kind: wire.DirectiveUseEndpoint,
				Endpoint: "wss://example.org/" + strings.Repeat("x", maxOrderBytes)}, "ops"); err != nil {
				t.Fatal(err)
			}
			sleep(time.Millisecond) // the oldest go first
		}
		for range maxDirectives - 3 {
			r.direct(wire.DirectiveReconnect)
		}
		if err := order(operator.NewDirective{Kind: wire.DirectiveReconnect}); !errors.Is(err, ErrBusy) {
			t.Errorf("one more than may wait: %v", err)
		}
		if err := order(operator.NewDirective{Kind: wire.DirectiveQuarantine}); err != nil {
			t.Errorf("a quarantine waits behind the others: %v", err)
		}
		for i := range 3 {
			if got := r.fetch(); len(got) != 1 {
				t.Fatalf("answer %d carries %d large directives, want one", i, len(got))
			}
		}
		if got := r.fetch(); len(got) != maxDirectives-3+1 {
			t.Fatalf("%d in the next answer, want all that is small", len(got))
		}
	})
}

func TestWhatAsksOfThisMomentDoesNotOutliveIt(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for kind, want := range map[wire.DirectiveKind]time.Duration{
			wire.DirectiveRunProbes: directiveShort, wire.DirectivePoll: directiveShort,
			wire.DirectiveQuarantine: directiveLife, wire.DirectiveRestartService: directiveLife,
		} {
			if d := r.asked(r.direct(kind)); d.ExpiresAt.Sub(d.CreatedAt) != want {
				t.Errorf("%s is good for %v, want %v", kind, d.ExpiresAt.Sub(d.CreatedAt), want)
			}
		}
	})
}
