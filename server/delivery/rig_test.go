package delivery

import (
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
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

// rig is a service with one agent in a bubble of virtual time, on a real database.
type rig struct {
	t     *testing.T
	path  string
	st    store.Store
	s     *Service
	agent string
	gen   uint64
	max   int // attempts; 0: the default
	why   func(agent string) (kind, clause string)
	ended func(string)
	// cluster: nil, it is alone.
	cluster Cluster

	stop func()
}

func inBubble(t *testing.T, test func(*testing.T, *rig)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.db")
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, path: path}
		st, err := store.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.st = st
		defer func() {
			r.stop()
			if err := r.st.Close(); err != nil {
				t.Error(err)
			}
		}()
		r.agent = r.enroll("host")
		r.start()
		test(t, r)
	})
}

func (r *rig) enroll(name string) string {
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	hash, now := store.HashToken(wire.NewID()), time.Now()
	err = r.st.CreateEnrollToken(context.Background(), hash, operator.EnrollToken{ID: wire.NewID(), Site: "s", UsesLeft: 1, CreatedAt: now, ExpiresAt: now.Add(time.Hour)})
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := r.st.TradeToken(context.Background(), hash, store.Agent{ID: wire.NewID(), Name: name, PublicKey: key}, now)
	if err != nil {
		r.t.Fatal(err)
	}
	return a.ID
}

// start runs a service; stop ends it and waits.
func (r *rig) start() {
	r.s = New(r.st, Options{Cluster: r.cluster, MaxAttempts: r.max, Why: r.why, Ended: r.ended, Sign: func(t wire.Type, p any) (wire.Envelope, error) {
		e, err := wire.Seal(t, p)
		e.KeyID, e.Sig = "k", []byte("sig")
		return e, err
	}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := r.s
	go func() { ended <- s.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
		r.stop = func() {}
	}
	synctest.Wait()
}

func (r *rig) restart() {
	r.stop()
	r.start()
}

// crash is a restart of a process that could not store what it kept.
func (r *rig) crash() {
	if v := r.s.known(r.agent); v != nil {
		v.post(func() {
			for _, j := range v.jobs {
				j.saved()
			}
		})
	}
	synctest.Wait()
	r.restart()
}

func (r *rig) submit() string {
	r.t.Helper()
	return r.order(operator.NewCommand{Script: "true"})
}

func (r *rig) order(n operator.NewCommand) string {
	r.t.Helper()
	c, err := r.s.Submit(r.t.Context(), r.agent, n, "ops")
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return c.ID
}

// saved has the service store what it keeps for a moment.
func (r *rig) saved() {
	if v := r.s.known(r.agent); v != nil {
		v.post(func() { v.saveKept(true) })
	}
	synctest.Wait()
}

func (r *rig) command(id string) operator.Command {
	r.t.Helper()
	r.saved()
	c, err := r.s.Command(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) expect(id string, state wire.State, attempts int) operator.Command {
	r.t.Helper()
	c := r.command(id)
	if c.State != state || c.Attempts != attempts {
		r.t.Fatalf("command is %s after %d attempts (%s), want %s after %d\n%s", c.State, c.Attempts, c.Reason, state, attempts, r.trace(id))
	}
	return c
}

// stopped checks the sentence of a trace.
func (r *rig) stopped(id, part string) {
	r.t.Helper()
	r.saved()
	tr, err := r.s.Trace(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	if !strings.Contains(tr.Stopped, part) {
		r.t.Fatalf("stopped is %q, want …%q…\n%s", tr.Stopped, part, r.trace(id))
	}
}

// trace prints a trace for people who read a failure.
func (r *rig) trace(id string) string {
	r.saved()
	tr, err := r.s.Trace(context.Background(), id)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	b.WriteString(tr.Stopped)
	for _, e := range tr.Entries {
		b.WriteString("\n  " + e.At.Format("15:04:05.000 ") + string(rune('0'+e.Attempt)) + " " + string(e.Stage) + " " + e.End + " " + string(e.Channel) + " " + e.Note)
	}
	return b.String()
}

func (r *rig) owed(n int) {
	r.t.Helper()
	got, oldest := r.s.Owed(r.agent)
	if got != n || oldest.IsZero() != (n == 0) {
		r.t.Fatalf("owed is %d (oldest %v), want %d", got, oldest, n)
	}
}

// up gives a new verified link.
func (r *rig) up() *fakeLink {
	r.gen++
	l := &fakeLink{agent: r.agent, gen: r.gen, id: wire.LinkID(1000 + r.gen), auto: true}
	r.s.LinkUp(l)
	synctest.Wait()
	return l
}

func (r *rig) down(l *fakeLink, why string) {
	l.undeliverable("its link has ended")
	r.s.LinkDown(l.agent, l.gen, why)
	synctest.Wait()
}

// from brings an upstream message in by a link, or by the second door if l is nil.
func (r *rig) from(l *fakeLink, typ wire.Type, payload any) ([]wire.Envelope, error) {
	r.t.Helper()
	env, err := wire.Seal(typ, payload)
	if err != nil {
		r.t.Fatal(err)
	}
	ch, id := wire.ChannelOOB, wire.LinkID(0)
	if l != nil {
		ch, id = wire.ChannelLink, l.id
	}
	out, err := r.s.Upstream(r.t.Context(), r.agent, ch, id, time.Now(), env)
	synctest.Wait()
	return out, err
}

func (r *rig) send(l *fakeLink, typ wire.Type, payload any) []wire.Envelope {
	r.t.Helper()
	out, err := r.from(l, typ, payload)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) take() ([]string, []wire.Envelope, Done) {
	r.t.Helper()
	envs, done, err := r.s.Take(r.t.Context(), r.agent, 10)
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return commandIDs(r.t, envs), envs, done
}

func commandIDs(t *testing.T, envs []wire.Envelope) []string {
	t.Helper()
	var ids []string
	for _, e := range envs {
		if e.Type != wire.TypeCommand {
			continue
		}
		c, err := wire.DecodePayload[wire.Command](e)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	return ids
}

// turns orders what a test read before it slept and what a timer does then: the
// race detector knows nothing of virtual time.
var turns sync.Mutex

func sleep(d time.Duration) {
	turns.Lock()
	//lint:ignore SA2001 the order is all that is wanted
	turns.Unlock()
	time.Sleep(d) // virtual
	synctest.Wait()
}

// fakeLink is a link in memory. It is touched by the service only while the
// test waits, so it needs no lock.
type fakeLink struct {
	agent string
	gen   uint64
	id    wire.LinkID
	mu    sync.Mutex // of why, full, asked and quiet: a turn may be under way when a test sets them
	why   string     // not deliverable
	rtt   time.Duration
	auto  bool // the writer writes at once
	calls bool // understands call
	asked int
	quiet time.Duration // no pong, nothing, for so long
	full  error
	n     uint64
	sent  []sent
	check func(wire.Envelope)
}

type sent struct {
	env     wire.Envelope
	written func(uint64, time.Time, error)
	n       uint64
}

func (l *fakeLink) Agent() string      { return l.agent }
func (l *fakeLink) ID() wire.LinkID    { return l.id }
func (l *fakeLink) Generation() uint64 { return l.gen }
func (l *fakeLink) RTT() time.Duration { return l.rtt }
func (l *fakeLink) Calls() bool        { return l.calls }

func (l *fakeLink) Ask() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	return l.quiet
}

// askedFor tells how often it was asked; from now on nothing came for quiet.
func (l *fakeLink) askedFor(quiet time.Duration) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet = quiet
	return l.asked
}

func (l *fakeLink) Deliverable() (bool, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why == "", l.why
}

// undeliverable sets why nothing may go this way; "": it may.
func (l *fakeLink) undeliverable(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.why = why
}

// fails lets all that is sent be refused with err.
func (l *fakeLink) fails(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = err
}

func (l *fakeLink) failing() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

func (l *fakeLink) Send(env wire.Envelope, written func(uint64, time.Time, error)) error {
	turns.Lock()
	defer turns.Unlock()
	if err := l.failing(); err != nil {
		return err
	}
	if l.check != nil {
		l.check(env)
	}
	m := sent{env: env, written: written}
	if l.auto {
		l.n++
		m.n = l.n
		written(m.n, time.Now(), nil)
	}
	l.sent = append(l.sent, m)
	return nil
}

func (l *fakeLink) commands(t *testing.T) []string {
	t.Helper()
	var envs []wire.Envelope
	for _, m := range l.sent {
		envs = append(envs, m.env)
	}
	return commandIDs(t, envs)
}

func (l *fakeLink) types() []wire.Type {
	var out []wire.Type
	for _, m := range l.sent {
		out = append(out, m.env.Type)
	}
	return out
}

func completed(id, stdout string) wire.CommandResult {
	code := 0
	return wire.CommandResult{ID: id, State: wire.StateCompleted, ExitCode: &code, Stdout: []byte(stdout), StdoutBytes: int64(len(stdout))}
}

func resultAck(t *testing.T, envs []wire.Envelope) wire.ResultAck {
	t.Helper()
	i := slices.IndexFunc(envs, func(e wire.Envelope) bool { return e.Type == wire.TypeResultAck })
	if i < 0 {
		t.Fatalf("no result_ack in %v", envs)
	}
	ack, err := wire.DecodePayload[wire.ResultAck](envs[i])
	if err != nil {
		t.Fatal(err)
	}
	return ack
}

var errBroken = errors.New("connection reset")
