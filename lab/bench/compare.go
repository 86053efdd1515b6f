package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gururmm/lab/harness"
	"gururmm/server/store/pgtest"
)

// idle compares what a server keeps for a connection that does nothing.
func (r *run) idle(ctx context.Context) error {
	each := map[string]weight{}
	for _, name := range []string{"tcp", "nats", "ours", "nats-tls", "ours-tls"} {
		w, err := r.weigh(ctx, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		each[name] = w
		r.info(words[name]+", heap and stacks", float64(w.heap), "B")
		r.info(words[name]+", of that stacks", float64(w.stacks), "B")
		r.info(words[name]+", RSS", float64(w.rss), "B")
	}
	ratio := func(a, b string) float64 { return float64(each[a].heap) / float64(each[b].heap) }
	r.figure("an idle link, plain", float64(each["ours"].heap), "B", 0, mostPlain)
	r.figure("an idle link over TLS", float64(each["ours-tls"].heap), "B", 0, mostTLS)
	r.figure("an idle link beside NATS, plain", ratio("ours", "nats"), "x", 0, mostOfNATS)
	r.figure("an idle link beside NATS, TLS", ratio("ours-tls", "nats-tls"), "x", 0, mostOfNATS)
	r.info("an idle link beside raw TCP, plain", ratio("ours", "tcp"), "x")
	return nil
}

// words are the contenders' names for people.
var words = map[string]string{
	"tcp": "raw TCP", "nats": "NATS", "ours": "ours", "nats-tls": "NATS over TLS", "ours-tls": "ours over TLS",
}

// weigh gives what one connection takes: between a tenth of them and all, so that what is
// made once is nobody's.
func (r *run) weigh(ctx context.Context, name string) (w weight, err error) {
	c, err := r.crewOf(ctx, name, "")
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	few := max(1, r.o.Agents/10)
	if err := c.grow(ctx, few); err != nil {
		return w, err
	}
	before, err := r.rested(ctx, c)
	if err != nil {
		return w, err
	}
	more := r.o.Agents - few
	if err := c.grow(ctx, more); err != nil {
		return w, err
	}
	after, err := r.rested(ctx, c)
	n := int64(more)
	return weight{heap: (after.heap - before.heap) / n, stacks: (after.stacks - before.stacks) / n, rss: (after.rss - before.rss) / n}, err
}

// settled weighs a server once what came of connecting is over.
func (r *run) settled(ctx context.Context, c *crew) (weight, error) {
	if err := harness.Pause(ctx, r.pick(5*time.Second, 200*time.Millisecond)); err != nil {
		return weight{}, err
	}
	return c.server.memory(ctx)
}

// rested weighs a server once each of its connections has been pinged since a collection: how
// large stacks are is what the runtime learned at the last one, and in a crowd that comes
// in they are larger than at rest.
func (r *run) rested(ctx context.Context, c *crew) (weight, error) {
	if _, err := r.settled(ctx, c); err != nil {
		return weight{}, err
	}
	if err := harness.Pause(ctx, r.pick(pingEvery+2*time.Second, 200*time.Millisecond)); err != nil {
		return weight{}, err
	}
	return c.server.memory(ctx)
}

// roundTrips compares a text to the server and its answer.
func (r *run) roundTrips(ctx context.Context) (err error) {
	type turn struct {
		load
		cpu time.Duration
	}
	names := []string{"tcp", "ours", "nats"}
	crews, all := map[string]*crew{}, map[string][]turn{}
	defer func() {
		for _, c := range crews {
			err = errors.Join(err, c.close())
		}
	}()
	for _, name := range names {
		c, err := r.crewOf(ctx, name, "")
		if err != nil {
			return err
		}
		crews[name] = c
		if err := c.grow(ctx, r.o.Agents); err != nil {
			return err
		}
	}
	for range r.turns() {
		for _, name := range names {
			l, cpu, err := crews[name].spent(ctx, crews[name].clients, order{Do: "echo", InFlight: r.inFlight(), For: r.pick(5*time.Second, 200*time.Millisecond)})
			if err != nil {
				return err
			}
			all[name] = append(all[name], turn{l, cpu})
		}
	}
	rate := func(name string) float64 { return median(all[name], func(t turn) float64 { return t.rate() }) }
	cost := func(name string) float64 {
		return median(all[name], func(t turn) float64 { return float64(t.cpu) / 1000 })
	}
	for _, name := range names {
		r.info(words[name], rate(name), "/s")
		r.info(words[name]+", p99", median(all[name], func(t turn) float64 { return milliseconds(t.P99) }), "ms")
		r.info(words[name]+", the server's CPU for one", cost(name), "µs")
	}
	r.figure("round trips beside raw TCP", rate("ours")/rate("tcp"), "x", leastOfTCP, 0)
	r.figure("round trips beside NATS", rate("ours")/rate("nats"), "x", leastOfNATS, 0)
	r.info("round trips a server core could do, beside raw TCP", cost("tcp")/cost("ours"), "x")
	r.info("round trips a server core could do, beside NATS", cost("nats")/cost("ours"), "x")
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// durable compares commands that are on disk before they go out, and when they are done.
func (r *run) durable(ctx context.Context) (err error) {
	ours, err := r.commandCrew(ctx, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	dir, err := r.dir()
	if err != nil {
		return err
	}
	stream, err := startPart("nats", r.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.close()) }()
	a, err := stream.ask(ctx, order{Do: "serve-stream", Dir: dir})
	if err != nil {
		return err
	}
	load, err := startPart("jetstream-load", r.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, load.close()) }()
	if _, err := load.ask(ctx, order{Do: "connect", Addr: a.Addr}); err != nil {
		return err
	}
	mine, theirs := &orders{}, &orders{}
	for range r.turns() {
		if err := r.order(ctx, mine, ours, ours.server, ours.agents); err != nil {
			return err
		}
		if err := r.order(ctx, theirs, &crew{server: stream}, load, nil); err != nil {
			return err
		}
	}
	r.info("JetStream, sync always", theirs.rate(), "/s")
	r.info("JetStream, sync always, p99", theirs.p99(), "ms")
	r.info("JetStream, sync always, the server's CPU for one", theirs.cost(), "µs")
	r.info("ours on SQLite, the server's CPU for one", mine.cost(), "µs")
	r.figure("ours on SQLite, synchronous=FULL", mine.rate(), "/s", leastDurable, 0)
	r.figure("ours on SQLite, p99", mine.p99(), "ms", 0, milliseconds(mostDurableP99))
	r.figure("ours on SQLite beside JetStream", mine.rate()/theirs.rate(), "x", leastOfStream, 0)
	return nil
}

// postgres does the same with PostgreSQL behind our server.
func (r *run) postgres(ctx context.Context) (err error) {
	db, err := pgtest.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Remove()) }()
	c, err := r.commandCrew(ctx, db.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	all := &orders{}
	for range r.turns() {
		if err := r.order(ctx, all, c, c.server, c.agents); err != nil {
			return err
		}
	}
	r.info("ours on PostgreSQL, the server's CPU for one", all.cost(), "µs")
	r.info("ours on PostgreSQL, p99", all.p99(), "ms")
	r.figure("ours on PostgreSQL", all.rate(), "/s", leastPostgres, 0)
	return nil
}

// commandCrew is our server with agents that take commands.
func (r *run) commandCrew(ctx context.Context, database string) (*crew, error) {
	c, err := r.crewOf(ctx, "ours", database)
	if err != nil {
		return nil, err
	}
	if err := c.grow(ctx, min(r.o.Agents, mostOrdered)); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// mostOrdered bounds the agents that take commands: more change nothing but the time to enroll them.
const mostOrdered = 1000

// orders are turns of giving commands.
type orders struct {
	loads []load
	cpu   []time.Duration
}

func (t *orders) rate() float64 { return median(t.loads, load.rate) }
func (t *orders) p99() float64 {
	return median(t.loads, func(l load) float64 { return milliseconds(l.P99) })
}
func (t *orders) cost() float64 {
	return median(t.cpu, func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 })
}

// order has one turn of commands given.
func (r *run) order(ctx context.Context, t *orders, c *crew, by *part, agents []string) error {
	l, cpu, err := c.spent(ctx, by, order{Do: "commands", InFlight: r.inFlight(), For: r.pick(6*time.Second, 300*time.Millisecond), Agents: agents})
	t.loads, t.cpu = append(t.loads, l), append(t.cpu, cpu)
	return err
}
