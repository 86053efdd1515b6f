package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// streamAgents is how many connections play agents for JetStream.
const streamAgents = 16

// streamLoad has durable commands go through JetStream: a command is published and on
// disk, comes to its agent, the agent's result is published and on disk. That is two
// durable writes where ours has a trace of all that happened between.
type streamLoad struct {
	operator *nats.Conn
	agents   []*nats.Conn
	stop     []func()
	js       jetstream.JetStream
	stored   told
	next     atomic.Int64
}

func newStreamLoad() role { return &streamLoad{} }

func (l *streamLoad) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "connect":
		return a, l.connect(ctx, o.Addr)
	case "commands":
		a.Load, err = closedLoop(ctx, o.InFlight, o.For, l.command)
	}
	return a, err
}

func (l *streamLoad) connect(ctx context.Context, addr string) (err error) {
	if l.operator, err = nats.Connect("nats://" + addr); err != nil {
		return err
	}
	if l.js, err = jetstream.New(l.operator); err != nil {
		return err
	}
	for name, subject := range map[string]string{"commands": "command.>", "results": "result.>"} {
		if _, err := l.js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Storage: jetstream.FileStorage}); err != nil {
			return err
		}
	}
	for i := range streamAgents {
		conn, err := nats.Connect("nats://" + addr)
		if err != nil {
			return err
		}
		l.agents = append(l.agents, conn)
		js, err := jetstream.New(conn)
		if err != nil {
			return err
		}
		c, err := js.CreateConsumer(ctx, "commands", jetstream.ConsumerConfig{
			Durable: fmt.Sprint("agent", i), FilterSubject: fmt.Sprintf("command.%d", i), AckPolicy: jetstream.AckExplicitPolicy,
		})
		if err != nil {
			return err
		}
		taking, err := c.Consume(func(m jetstream.Msg) {
			go func() { // ends with the load, which waits for each command
				if _, err := js.Publish(context.Background(), fmt.Sprintf("result.%d", i), m.Data()); err != nil {
					return // nobody is told, and the command's time runs out
				}
				_ = m.Ack() // an error: it comes again, to nobody's harm
				l.stored.tell(string(m.Data()))
			}()
		})
		if err != nil {
			return err
		}
		l.stop = append(l.stop, taking.Stop)
	}
	return nil
}

// command publishes one and waits until its result is stored.
func (l *streamLoad) command(ctx context.Context, _ int) error {
	n := l.next.Add(1)
	id := fmt.Sprintf("%032d uname -a", n)
	if _, err := l.js.Publish(ctx, fmt.Sprintf("command.%d", n%streamAgents), []byte(id)); err != nil {
		return err
	}
	return l.stored.await(ctx, id)
}

func (l *streamLoad) close() error {
	for _, stop := range l.stop {
		stop()
	}
	for _, conn := range append(l.agents, l.operator) {
		if conn != nil {
			conn.Close()
		}
	}
	return nil
}

// told are commands that are done, or are waited for.
type told struct{ by sync.Map } // chan struct{} by id

func (t *told) done(id string) chan struct{} {
	done, _ := t.by.LoadOrStore(id, make(chan struct{}))
	return done.(chan struct{})
}

// tell says, once, that a command is done.
func (t *told) tell(id string) { close(t.done(id)) }

// await waits for one command to be done.
func (t *told) await(ctx context.Context, id string) error {
	defer t.by.Delete(id)
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-t.done(id):
		return nil
	case <-late.C:
		return fmt.Errorf("a command was not done within %v", patience)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// closedLoop has so many commands under way at once for a time: each worker gives the next
// one when its last one is done.
func closedLoop(ctx context.Context, inFlight int, d time.Duration, once func(ctx context.Context, worker int) error) (load, error) {
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var workers sync.WaitGroup
	began := time.Now()
	for w := range inFlight {
		workers.Go(func() {
			var each []time.Duration
			var err error
			for err == nil && time.Since(began) < d {
				at := time.Now()
				err = once(ctx, w)
				each = append(each, time.Since(at))
			}
			mu.Lock()
			all, failed = append(all, each...), errors.Join(failed, err)
			mu.Unlock()
		})
	}
	workers.Wait()
	return loadOf(all, time.Since(began)), failed
}
