// Package bench measures what the server costs and how fast it is, beside what others reach
// on the same machine in the same run: raw TCP, NATS, JetStream.
//
// Rules that hold here:
//   - each contender's server is a process of its own, and what plays its clients another,
//     so that what a client costs is nobody's figure;
//   - ratios are of medians of turns taken one after the other, for a machine is never only ours;
//   - memory is what heap and stacks take after a collection, and RSS beside it;
//   - ours is the server itself with its own protocol: links verified, commands through
//     delivery and the database; nothing is left out for speed.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"gururmm/lab/harness"
)

const (
	// patience bounds each wait of one connection or command.
	patience = 60 * time.Second
	// inFlight is how much is under way at once in each comparison.
	inFlight = 256
	// turns of each contender; the median counts.
	turns = 3

	// What must hold; see the requirement in docs/performance.md.
	mostPlain, mostTLS = 9_000, 17_000 // bytes an idle connection
	mostOfNATS         = 0.5
	leastOfTCP         = 0.7
	leastOfNATS        = 1.8
	leastDurable       = 20_000 // commands a second, SQLite
	mostDurableP99     = 25 * time.Millisecond
	leastOfStream      = 15
	leastPostgres      = 8_000
	mostPingCPU        = 0.01 // of a core
	mostStorm          = 60 * time.Second
)

// Options of Run.
type Options struct {
	Agents int      // connections of a comparison
	Fleet  int      // links of what is measured with many
	Only   []string // sections; empty: all
	Quick  bool     // so short that figures say little: whether it works
	Dir    string   // for state and logs
	Out    io.Writer
	// Done is told of the report after each section; nil: nobody is.
	Done func(Report) error
}

// Figure is one of the report: least or most is what must hold, 0: for information.
type Figure struct {
	Section string  `json:"section"`
	Figure  string  `json:"figure"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
	Least   float64 `json:"least,omitempty"`
	Most    float64 `json:"most,omitempty"`
	Held    bool    `json:"held"`
}

// Report is what was measured, and on what.
type Report struct {
	OK      bool     `json:"ok"`
	Cores   int      `json:"cores"`
	Go      string   `json:"go"`
	OS      string   `json:"os"`
	Agents  int      `json:"agents"`
	Fleet   int      `json:"fleet"`
	Figures []Figure `json:"figures"`
	Growth  []Row    `json:"growth,omitempty"`
}

type run struct {
	o       Options
	report  Report
	section string
	log     *os.File
	n       int // of state directories
}

// section is one comparison.
type section struct {
	name, what string
	measure    func(*run, context.Context) error
}

var sections = []section{
	{"idle", "memory of an idle connection", (*run).idle},
	{"roundtrips", "round trips, 256 in flight", (*run).roundTrips},
	{"durable", "durable commands, 256 in flight", (*run).durable},
	{"postgres", "durable commands on PostgreSQL, 256 in flight", (*run).postgres},
	{"pings", "what it takes to look every 30 s whether each link lives", (*run).pings},
	{"storm", "many links cut at once that come back over TLS", (*run).storm},
	{"growth", "cost as a fleet grows", (*run).growth},
}

// Sections are the names that [Options.Only] takes.
func Sections() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

// Run measures, and prints each figure as it is known.
func Run(ctx context.Context, o Options) (_ Report, err error) {
	for _, name := range o.Only {
		if !slices.Contains(Sections(), name) {
			return Report{}, fmt.Errorf("there is no section %q: there are %s", name, strings.Join(Sections(), ", "))
		}
	}
	if o.Agents < 2 || o.Fleet < 2 {
		return Report{}, fmt.Errorf("%d and %d agents: want 2 or more", o.Agents, o.Fleet)
	}
	r := &run{o: o, report: Report{Cores: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH, Agents: o.Agents, Fleet: o.Fleet}}
	if r.log, err = os.OpenFile(filepath.Join(o.Dir, "parts.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return r.report, err
	}
	defer func() { err = errors.Join(err, r.log.Close()) }()
	fmt.Fprintf(o.Out, "%d cores, %s, %s; %d connections each\n", r.report.Cores, r.report.Go, r.report.OS, o.Agents)
	for _, s := range sections {
		if len(o.Only) > 0 && !slices.Contains(o.Only, s.name) {
			continue
		}
		fmt.Fprintf(o.Out, "\n%s: %s\n", s.name, s.what)
		r.section = s.name
		if err := s.measure(r, ctx); err != nil {
			return r.report, fmt.Errorf("%s: %w", s.name, err)
		}
		if o.Done != nil {
			if err := o.Done(r.report); err != nil {
				return r.report, err
			}
		}
	}
	r.report.OK = !slices.ContainsFunc(r.report.Figures, func(f Figure) bool { return !f.Held })
	return r.report, nil
}

// figure notes and prints one.
func (r *run) figure(what string, value float64, unit string, least, most float64) {
	f := Figure{r.section, what, value, unit, least, most, (least == 0 || value >= least) && (most == 0 || value <= most)}
	r.report.Figures = append(r.report.Figures, f)
	fmt.Fprintln(r.o.Out, f)
}

func (r *run) info(what string, value float64, unit string) { r.figure(what, value, unit, 0, 0) }

func (f Figure) String() string {
	mark := map[bool]string{true: "held", false: "NOT HELD"}[f.Held]
	limit := ""
	switch {
	case f.Least > 0:
		limit = " (at least " + number(f.Least) + ")"
	case f.Most > 0:
		limit = " (at most " + number(f.Most) + ")"
	default:
		mark = ""
	}
	return fmt.Sprintf("%-8s  %9s %-5s %s%s", mark, number(f.Value), f.Unit, f.Figure, limit)
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

// dir is a fresh one for one server's state.
func (r *run) dir() (string, error) {
	r.n++
	dir := filepath.Join(r.o.Dir, fmt.Sprint(r.n))
	return dir, os.Mkdir(dir, 0o700)
}

// pick is long, or with Quick short.
func (r *run) pick(long, short time.Duration) time.Duration {
	if r.o.Quick {
		return short
	}
	return long
}

func (r *run) turns() int {
	if r.o.Quick {
		return 1
	}
	return turns
}

func (r *run) inFlight() int {
	if r.o.Quick {
		return inFlight / 16
	}
	return inFlight
}

// crew are the parts of one contender: its server and its clients.
type crew struct {
	name            string
	server, clients *part
	serve, connect  string
	door            door
	addr            string
	agents          []string
	first           int
}

// crewOf starts both parts of a contender; with "-tls" behind its name over TLS.
func (r *run) crewOf(ctx context.Context, name, database string) (c *crew, err error) {
	kinds := map[string][2]string{"tcp": {"tcp", "tcp-clients"}, "nats": {"nats", "nats-clients"}, "ours": {"server", "agents"}}
	base, secure := strings.CutSuffix(name, "-tls")
	c = &crew{name: name, serve: "serve", connect: "connect"}
	if secure {
		c.serve, c.connect = "serve-tls", "connect-tls"
	}
	if base == "ours" {
		c.connect = "connect"
	}
	dir, err := r.dir()
	if err != nil {
		return nil, err
	}
	if c.server, err = startPart(kinds[base][0], r.log); err != nil {
		return nil, err
	}
	if c.clients, err = startPart(kinds[base][1], r.log); err != nil {
		return nil, errors.Join(err, c.server.close())
	}
	a, err := c.server.ask(ctx, order{Do: c.serve, Dir: dir, Database: database})
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.addr, c.door = a.Addr, a.Door
	return c, nil
}

// grow adds n connections.
func (c *crew) grow(ctx context.Context, n int) error {
	a, err := c.clients.ask(ctx, order{Do: c.connect, Addr: c.addr, Door: c.door, N: n, First: c.first})
	c.first += n
	c.agents = a.Agents
	return err
}

func (c *crew) close() error { return errors.Join(c.clients.close(), c.server.close()) }

// spent is what a load costs its server, in time of one core for each piece.
func (c *crew) spent(ctx context.Context, p *part, o order) (load, time.Duration, error) {
	before, err := harness.CPU(c.server.pid())
	if err != nil {
		return load{}, 0, err
	}
	a, err := p.ask(ctx, o)
	if err != nil {
		return load{}, 0, err
	}
	after, err := harness.CPU(c.server.pid())
	if err != nil || a.Load.N == 0 {
		return load{}, 0, errors.Join(err, errors.New("nothing came of the load"))
	}
	return a.Load, (after - before) / time.Duration(a.Load.N), nil
}

// median of what of gives of all.
func median[T any](all []T, of func(T) float64) float64 {
	each := make([]float64, len(all))
	for i, v := range all {
		each[i] = of(v)
	}
	slices.Sort(each)
	if n := len(each); n%2 == 0 {
		return (each[n/2-1] + each[n/2]) / 2
	}
	return each[len(each)/2]
}
