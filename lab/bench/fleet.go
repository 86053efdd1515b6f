package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gururmm/lab/harness"
)

const (
	// spareFiles is what a server needs beside its links: database, log, listeners, requests.
	spareFiles = 800
	// pinged is the number of links that the figure of pings is for.
	pinged = 20_000
	// stormed is how many come back at once.
	stormed = 10_000
)

// Row is what the server costs with so many agents.
type Row struct {
	Agents     int     `json:"agents"`
	PerLink    float64 `json:"bytes_per_link"` // heap and stacks, after a collection
	RSS        float64 `json:"rss_bytes"`      // of the whole server
	IdleCPU    float64 `json:"idle_cpu"`       // of one core, pings and heartbeats both ways
	RoundTrips float64 `json:"round_trips"`    // a second
	RoundCPU   float64 `json:"round_trip_us"`  // the server's time for one
	Commands   float64 `json:"commands"`       // a second
	CommandCPU float64 `json:"command_us"`
	CommandP99 float64 `json:"command_p99_ms"`
}

// fits gives how many links of n this machine lets one process have.
func fits(n int) (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return min(n, int(min(limit.Cur, 1<<30))-spareFiles), nil
}

// growth is what the server costs as a fleet grows, in one life of it.
func (r *run) growth(ctx context.Context) (err error) {
	most, err := fits(r.o.Fleet)
	if err != nil {
		return err
	}
	if most < r.o.Fleet {
		fmt.Fprintf(r.o.Out, "%10sthis machine lets a process have files for %d links, not %d\n", "", most, r.o.Fleet)
	}
	c, err := r.crewOf(ctx, "ours", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	empty, err := c.server.memory(ctx)
	if err != nil {
		return err
	}
	printRow(r.o.Out, nil)
	for _, share := range []float64{1. / 19, 5. / 19, 10. / 19, 1} {
		n := max(2, int(float64(most)*share))
		if err := c.grow(ctx, n-c.first); err != nil {
			return err
		}
		row, err := r.row(ctx, c, n, empty)
		if err != nil {
			return fmt.Errorf("with %d agents: %w", n, err)
		}
		printRow(r.o.Out, &row)
		r.report.Growth = append(r.report.Growth, row)
	}
	first, last := r.report.Growth[0], r.report.Growth[len(r.report.Growth)-1]
	r.figure(fmt.Sprintf("CPU a round trip, %d agents beside %d", last.Agents, first.Agents), last.RoundCPU/first.RoundCPU, "x", 0, mostGrown)
	r.figure(fmt.Sprintf("CPU a command, %d agents beside %d", last.Agents, first.Agents), last.CommandCPU/first.CommandCPU, "x", 0, mostGrown)
	return nil
}

// mostGrown: nothing that a server does for one agent may be work for all.
const mostGrown = 2

func (r *run) row(ctx context.Context, c *crew, n int, empty weight) (row Row, err error) {
	row.Agents = n
	w, err := r.settled(ctx, c)
	if err != nil {
		return row, err
	}
	row.PerLink, row.RSS = float64(w.heap-empty.heap)/float64(n), float64(w.rss)
	if row.IdleCPU, err = used(ctx, c.server, r.pick(30*time.Second, 300*time.Millisecond)); err != nil {
		return row, err
	}
	l, cpu, err := c.spent(ctx, c.clients, order{Do: "echo", InFlight: r.inFlight(), For: r.pick(4*time.Second, 200*time.Millisecond)})
	if err != nil {
		return row, err
	}
	row.RoundTrips, row.RoundCPU = l.rate(), float64(cpu.Nanoseconds())/1000
	l, cpu, err = c.spent(ctx, c.server, order{Do: "commands", InFlight: r.inFlight(), For: r.pick(4*time.Second, 200*time.Millisecond), Agents: c.agents})
	row.Commands, row.CommandCPU, row.CommandP99 = l.rate(), float64(cpu.Nanoseconds())/1000, milliseconds(l.P99)
	return row, err
}

// used is what share of one core a part takes, watched for a time.
func used(ctx context.Context, p *part, d time.Duration) (float64, error) {
	before, err := harness.CPU(p.pid())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := harness.Pause(ctx, d); err != nil {
		return 0, err
	}
	after, err := harness.CPU(p.pid())
	return float64(after-before) / float64(time.Since(began)), err
}

// pings compares what it costs to look every 30 s whether each of many links lives.
func (r *run) pings(ctx context.Context) error {
	n, err := fits(r.o.Fleet)
	if err != nil {
		return err
	}
	cost := map[string]float64{}
	for _, name := range []string{"tcp", "nats", "ours"} {
		if cost[name], err = r.pinging(ctx, name, n); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.info(words[name]+fmt.Sprintf(", %d links", n), 100*cost[name], "%")
	}
	r.figure(fmt.Sprintf("of a core to ping %d links, from %d", pinged, n), 100*cost["ours"]*pinged/float64(n), "%", 0, 100*mostPingCPU)
	r.info("pings beside raw TCP", cost["ours"]/cost["tcp"], "x")
	r.info("pings beside NATS", cost["ours"]/cost["nats"], "x")
	return nil
}

func (r *run) pinging(ctx context.Context, name string, n int) (cost float64, err error) {
	c, err := r.crewOf(ctx, name, "")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.grow(ctx, n); err != nil {
		return 0, err
	}
	for _, p := range []*part{c.clients, c.server} { // who answers comes first
		if _, err := p.ask(ctx, order{Do: "ping"}); err != nil {
			return 0, err
		}
	}
	// Until what connecting left behind is over, and each link has had its first ping.
	if err := harness.Pause(ctx, r.pick(pingEvery+2*time.Second, 200*time.Millisecond)); err != nil {
		return 0, err
	}
	return used(ctx, c.server, r.pick(pingEvery, 300*time.Millisecond))
}

// storm has all links cut at once, and come back over TLS.
func (r *run) storm(ctx context.Context) error {
	n, err := fits(min(r.o.Fleet, stormed))
	if err != nil {
		return err
	}
	took, peak := map[string]float64{}, map[string]float64{}
	for _, name := range []string{"nats-tls", "ours-tls"} {
		d, rss, err := r.storming(ctx, name, n)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took[name], peak[name] = d.Seconds(), rss
		until := 0.0
		if name == "ours-tls" {
			until = mostStorm.Seconds()
		}
		r.figure(fmt.Sprintf("%s, until %d are back", words[name], n), took[name], "s", 0, until)
		r.info(words[name]+", peak RSS", rss/1e6, "MB")
	}
	r.info("the storm beside NATS, time", took["ours-tls"]/took["nats-tls"], "x")
	r.figure("the storm beside NATS, peak memory", peak["ours-tls"]/peak["nats-tls"], "x", 0, 1)
	return nil
}

func (r *run) storming(ctx context.Context, name string, n int) (took time.Duration, peak float64, err error) {
	c, err := r.crewOf(ctx, name, "")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.grow(ctx, n); err != nil {
		return 0, 0, err
	}
	if _, err := r.settled(ctx, c); err != nil {
		return 0, 0, err
	}
	// So that the peak is the storm's: proc(5), clear_refs.
	if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(c.server.pid()), "clear_refs"), []byte("5"), 0); err != nil {
		return 0, 0, err
	}
	a, err := c.clients.ask(ctx, order{Do: "cut", Addr: c.addr})
	if err != nil {
		return 0, 0, err
	}
	peak, err = peakRSS(c.server.pid())
	return a.Took, peak, err
}

// peakRSS is the most that a process has had, in bytes.
func peakRSS(pid int) (float64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(raw), "VmHWM:")
	if !ok {
		return 0, errors.New("this system does not tell a process's peak memory")
	}
	var kb float64
	_, err = fmt.Sscan(rest, &kb)
	return kb * 1024, err
}
