package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"gururmm/lab/harness"
)

// PartWord as the first argument makes the measuring program a part of a benchmark: one
// contender's server, or what plays its clients.
const PartWord = "bench-part"

// order is what a part is asked, one line of JSON; not every field is for each part.
type order struct {
	Do       string        `json:"do"`
	Addr     string        `json:"addr,omitempty"`
	N        int           `json:"n,omitempty"`
	First    int           `json:"first,omitempty"`
	InFlight int           `json:"in_flight,omitempty"`
	For      time.Duration `json:"for,omitempty"`
	Dir      string        `json:"dir,omitempty"`
	Database string        `json:"database,omitempty"`
	Door     door          `json:"door,omitzero"`
	Agents   []string      `json:"agents,omitempty"`
}

// answer is what it says, one line of JSON.
type answer struct {
	Error  string        `json:"error,omitempty"`
	Addr   string        `json:"addr,omitempty"`
	Memory int64         `json:"memory,omitempty"`
	Stacks int64         `json:"stacks,omitempty"` // of Memory
	Load   load          `json:"load,omitzero"`
	Took   time.Duration `json:"took,omitempty"`
	Agents []string      `json:"agents,omitempty"`
	Door   door          `json:"door,omitzero"`
}

// load is what came of one: how much in which time, and how long each took.
type load struct {
	N        int           `json:"n"`
	Took     time.Duration `json:"took"`
	P50, P99 time.Duration
}

func (l load) rate() float64 { return float64(l.N) / l.Took.Seconds() }

// loadOf sums up what each took.
func loadOf(each []time.Duration, took time.Duration) load {
	if len(each) == 0 {
		return load{Took: took}
	}
	slices.Sort(each)
	return load{N: len(each), Took: took, P50: each[len(each)/2], P99: each[len(each)*99/100]}
}

// role is one kind of part; it takes one order after the other.
type role interface {
	do(context.Context, order) (answer, error)
	close() error
}

var roles = map[string]func() role{
	"tcp": newTCPServer, "tcp-clients": newTCPClients,
	"nats": newNATSServer, "nats-clients": newNATSClients, "jetstream-load": newStreamLoad,
	"server": newOurServer, "agents": newHerd,
}

// Part is the whole of a part's program: orders from in, answers to out, until in ends.
func Part(ctx context.Context, kind string, in io.Reader, out io.Writer) (err error) {
	made := roles[kind]
	if made == nil {
		return fmt.Errorf("there is no part %q", kind)
	}
	r := made()
	defer func() { err = errors.Join(err, r.close()) }()
	orders, answers := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		a, err := r.do(ctx, o)
		if o.Do == "memory" && err == nil {
			a.Memory, a.Stacks = memory()
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// memory is what the heap and the stacks take in bytes, after a collection.
func memory() (all, stacks int64) {
	runtime.GC()
	runtime.GC() // what pools held goes with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse), int64(m.StackInuse)
}

// part is one that runs, as the program that measures sees it.
type part struct {
	kind    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	orders  *json.Encoder
	answers *json.Decoder
}

// startPart runs this very program as a part. Its last words go to log.
func startPart(kind string, log io.Writer) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, PartWord, kind)
	cmd.Env = append(os.Environ(), partEnv+"="+kind)
	cmd.Stderr = log
	// Ctrl-C is for who measures: it ends its parts.
	harness.OwnGroup(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the part %s: %w", kind, err)
	}
	return &part{kind, cmd, in, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))}, nil
}

// partEnv has a test's program be a part; see TestMain.
const partEnv = "GURURMM_BENCH_PART"

func (p *part) pid() int { return p.cmd.Process.Pid }

// ask has the part do something and waits for the answer. Who gives up ends the part.
func (p *part) ask(ctx context.Context, o order) (answer, error) {
	type said struct {
		a   answer
		err error
	}
	done := make(chan said, 1)
	go func() {
		var s said
		if s.err = p.orders.Encode(o); s.err == nil {
			s.err = p.answers.Decode(&s.a)
		}
		done <- s
	}()
	var s said
	select {
	case s = <-done:
	case <-ctx.Done():
		p.kill()
		<-done
		return answer{}, context.Cause(ctx)
	}
	if s.err == nil && s.a.Error != "" {
		s.err = errors.New(s.a.Error)
	}
	if s.err != nil {
		return s.a, fmt.Errorf("%s, asked to %s: %w", p.kind, o.Do, s.err)
	}
	return s.a, nil
}

// memory is that of the part's heap and stacks, after a collection, and its RSS.
func (p *part) memory(ctx context.Context) (weight, error) {
	a, err := p.ask(ctx, order{Do: "memory"})
	if err != nil {
		return weight{}, err
	}
	rss, _, err := harness.Memory(p.pid())
	return weight{heap: a.Memory, stacks: a.Stacks, rss: rss}, err
}

func (p *part) kill() { p.cmd.Process.Kill() } // an error: it has ended

// close ends the part at once: what it kept is thrown away, and orderly ends take their time.
func (p *part) close() error {
	p.kill()
	err := p.cmd.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); ended {
		return nil
	}
	return err
}

// weight is what a process takes in bytes: heap and stacks after a collection, and RSS.
type weight struct{ heap, stacks, rss int64 } // stacks: of heap
