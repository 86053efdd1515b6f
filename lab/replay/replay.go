package replay

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"gururmm/diagnosis"
)

// Cell is how a test of the case comes out under a mechanism.
type Cell string

// The cells. Untouched: as in the case, and so it would in a healthy system.
const (
	Reproduced   Cell = "reproduced"
	Contradicted Cell = "contradicted"
	Untouched    Cell = "untouched"
)

// Test is one column.
type Test struct {
	Name string `json:"test"`
	Case string `json:"case"` // what the case has
}

// Tests are the columns: the case's tests by their numbers, and what is told of its agents.
var Tests = []Test{
	{"first", "agent-a ran a command at once on its first link"},
	{"T1", "a large command on the second link is offered up to ten times, each time taken by a queue, never acknowledged, and fails"},
	{"T2", "so does a tiny one"},
	{"T3", "all is cancelled; a tiny one alone is not acknowledged"},
	{"T4", "the server's events show the agent online once in 30 minutes"},
	{"T5", "its texts arrive all the time, and each heartbeat sets off an offer"},
	{"T6", "both TLS sessions end before the server, which sees a proxy's connections only"},
	{"T7", "the link is ended at the server after three offers; the agent is back within half a minute"},
	{"T8", "a tiny command on that fresh link is not acknowledged"},
	{"T9", "a tiny command to agent-c, at another site, is not acknowledged"},
	{"T9 end", "and it fails after one offer and about a minute"},
	{"T10", "commands to the others run meanwhile"},
	{"never", "agent-b has not acknowledged one, ever"},
}

// Row is one mechanism in one reading.
type Row struct {
	Mechanism string `json:"mechanism"`
	Reading   string `json:"reading,omitempty"`
	Cells     []Cell `json:"cells"` // in the order of Tests
	// Share is the engine's, on the case; of the mechanism, not of this reading.
	Share float64 `json:"share"`
	Out   bool    `json:"ruled_out,omitempty"` // by the engine
	// Contradicts and Reproduces count cells.
	Contradicts int `json:"contradicts"`
	Reproduces  int `json:"reproduces"`
	// What the case's server did not look at, or nobody could see, in the 30 minutes of T4.
	Links int  `json:"links"` // that agent-a began, the one at the beginning among them
	Pongs bool `json:"pongs"` // to the last of the server's pings
	Pings bool `json:"pings"` // the agent read them to the end
	Looks int  `json:"looks"` // how often its loop came to look at the deadline
	Texts bool `json:"texts"` // it read a text of the server's in its last ten minutes
	Ran   bool `json:"ran"`   // a command ran, acknowledged or not
}

// Replay is the matrix, the most fitting rows first.
type Replay struct {
	Case    string           `json:"case"`
	Tests   []Test           `json:"tests"`
	Rows    []Row            `json:"rows"`
	Without []Without        `json:"without"` // mechanisms that the model can't express
	Answer  diagnosis.Answer `json:"answer"`  // the engine's, on the case
}

// Without is a mechanism without a row.
type Without struct {
	Mechanism string `json:"mechanism"`
	Why       string `json:"why"`
}

// The day of a run.
const (
	firstAt  = 2 * time.Minute // a command on the first link
	largeAt  = onset + 7*time.Minute
	tinyAt   = largeAt + 5*time.Minute
	window   = 30 * time.Minute // of T4, from the second link on
	clearAt  = 65 * time.Minute
	aloneAt  = clearAt + 35*time.Second
	evictAt  = 75 * time.Minute
	freshFor = 8 * time.Minute // a command on the fresh link is watched
	endAt    = 115 * time.Minute
)

// seen is what a run shows.
type seen struct {
	cells map[string]bool // test: as the case has it
	row   Row
	// Of agent-a's tiny command and its large one, as the server has them.
	acked, stored, taken, largeAcked bool
	heard                            bool // lately, at the end of T4's window
	evicted                          bool
}

// run makes the tests under m.
func run(m mechanism) seen {
	w := newWorld(&m)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		a := &agent{w: w, name: name, ill: name < "d" || m.strikesAll}
		w.agents[name] = a
		w.spawn(a.live)
	}
	w.spawn(w.reap)
	a := w.agents["a"]
	const tiny, large = 80, 4 << 10

	w.run(firstAt)
	first := w.order("a", tiny)
	w.run(onset)
	for _, name := range []string{"a", "b", "c"} {
		w.agents[name].cut = true
	}
	var others []*command
	w.spawn(func(t *task) {
		for {
			t.sleep(3 * time.Minute)
			for _, name := range []string{"d", "e"} {
				others = append(others, w.order(name, tiny))
			}
		}
	})
	w.run(onset + graceFor + 10*time.Second)
	from := w.now
	begun := len(a.links)
	w.run(largeAt)
	t1 := w.order("a", large)
	never := []*command{w.order("b", tiny), w.order("b", tiny)}
	w.run(tinyAt)
	t2 := w.order("a", tiny)
	t9 := w.order("c", tiny)
	w.run(from + window)
	s := seen{cells: map[string]bool{}}
	s.row = Row{Mechanism: m.id, Reading: m.gloss, Links: len(a.links) - begun + 1}
	s.row.look(w, a, from)
	t5 := w.regular("a", from) && w.offeredOnHeartbeats("a", from)
	s.heard = w.seenAfter("a", w.now-3*time.Minute)
	t4 := w.onlineOnce("a", onset, from+window)
	w.run(clearAt)
	t1done, t2done := *t1, *t2
	w.cancelAll("a")
	w.run(aloneAt)
	t3 := w.order("a", tiny)
	w.run(evictAt)
	t3acked := t3.acked
	w.cancelAll("a")
	w.evicting = true
	w.order("a", tiny)
	back := time.Duration(0)
	var fresh *command
	for w.now < endAt-freshFor && fresh == nil {
		w.run(w.now + 5*time.Second)
		if at := w.evicted["a"]; len(at) > 0 {
			if last := a.links[len(a.links)-1]; back == 0 && w.register["a"] == last && !last.over && len(w.seen["a"]) > 0 && len(a.links) > begun && w.seenAfter("a", at[0]+time.Second) {
				back = w.now - at[0]
			}
			if back > 0 || w.now > at[0]+2*time.Minute {
				w.cancelAll("a")
				fresh = w.order("a", tiny)
			}
		}
	}
	w.run(w.now + freshFor)
	gaveUp := func(c command) bool {
		return c.acked == 0 && c.state == failed && c.offers >= mostOffers && c.taken == c.offers
	}
	s.cells["first"] = first.acked > 0 && first.acked-first.given < time.Second && first.state == completed
	s.cells["T1"], s.cells["T2"] = gaveUp(t1done), gaveUp(t2done)
	s.cells["T3"] = t3acked == 0
	s.cells["T4"], s.cells["T5"], s.cells["T6"] = t4, t5, true
	s.cells["T7"] = back > 0 && back <= 30*time.Second
	s.cells["T8"] = fresh != nil && fresh.acked == 0
	s.cells["T9"] = t9.acked == 0
	s.cells["T9 end"] = t9.state == failed && t9.offers == 1 && t9.ended-t9.given < 3*time.Minute
	ran := 0
	for _, c := range others {
		if c.state == completed {
			ran++
		}
	}
	s.cells["T10"] = ran > len(others)*9/10
	s.cells["never"] = !slices.ContainsFunc(never, func(c *command) bool { return c.acked > 0 })
	s.row.Ran = t1.ran || t2.ran
	s.acked, s.stored, s.taken, s.largeAcked = t2done.acked > 0, t2done.state == completed, t2done.taken == t2done.offers && t2done.offers > 0, t1done.acked > 0
	s.evicted = len(w.evicted["a"]) > 0
	w.end()
	return s
}

// look notes what was to be seen at the end of T4's window.
func (r *Row) look(w *world, a *agent, from time.Duration) {
	s, l := a.last, a.last.l
	r.Looks = s.looks
	r.Pings = len(s.pings) > 0 && w.now-s.pings[len(s.pings)-1] <= 2*pingEvery
	r.Pongs = len(l.pongs) > 0 && w.now-l.pongs[len(l.pongs)-1] <= 2*pingEvery
	r.Texts = s.last > 0 && w.now-s.last <= 10*time.Minute
}

// regular tells whether texts of the agent came all the time since from.
func (w *world) regular(name string, from time.Duration) bool {
	last := from
	for _, at := range w.seen[name] {
		if at < from {
			continue
		}
		if at-last > 2*metricsEvery+redial {
			return false
		}
		last = at
	}
	return w.now-last <= 2*metricsEvery+redial
}

// offeredOnHeartbeats tells whether heartbeats come: each sets off an offer.
func (w *world) offeredOnHeartbeats(name string, from time.Duration) bool {
	n := 0
	for _, at := range w.heard[name] {
		if at >= from {
			n++
		}
	}
	return n >= int((w.now-from)/heartbeatEvery)/2 // a link that is made anew begins to count anew
}

// onlineOnce tells whether the agent's presence changed to online no more than once, and
// never to offline after that.
func (w *world) onlineOnce(name string, from, to time.Duration) bool {
	online := 0
	for _, e := range w.events[name] {
		if e.at < from || e.at > to {
			continue
		}
		if e.online {
			online++
		} else if online > 0 {
			return false
		}
	}
	return online <= 1 && w.online[name]
}

func (w *world) seenAfter(name string, at time.Duration) bool {
	list := w.seen[name]
	return len(list) > 0 && list[len(list)-1] > at
}

// Of replays the case under each mechanism.
func Of(c diagnosis.Case) (Replay, error) {
	answer := diagnosis.Diagnose(c)
	out := Replay{Case: c.Subject, Tests: Tests, Answer: answer}
	share := map[string]float64{}
	for _, r := range answer.Ranking {
		share[r.ID] = r.Probability
	}
	var healthy seen
	for i, m := range mechanisms() {
		s := run(m)
		if i == 0 {
			healthy = s
		}
		row := s.row
		p, left := share[m.id]
		row.Share, row.Out = p, !left
		for _, t := range Tests {
			cell := Contradicted
			switch {
			case s.cells[t.Name] && healthy.cells[t.Name]:
				cell = Untouched
			case s.cells[t.Name]:
				cell = Reproduced
				row.Reproduces++
			default:
				row.Contradicts++
			}
			row.Cells = append(row.Cells, cell)
		}
		out.Rows = append(out.Rows, row)
	}
	slices.SortStableFunc(out.Rows, func(a, b Row) int {
		return cmp.Or(a.Contradicts-b.Contradicts, b.Reproduces-a.Reproduces, cmp.Compare(b.Share, a.Share))
	})
	for _, x := range inexpressible {
		out.Without = append(out.Without, Without{x.id, x.why})
	}
	return out, out.whole(answer)
}

// whole holds that each mechanism of the tables has a row, or a reason for having none.
func (r Replay) whole(a diagnosis.Answer) error {
	ids := []string{}
	for _, h := range a.Ranking {
		ids = append(ids, h.ID)
	}
	for _, e := range a.Excluded {
		ids = append(ids, e.ID)
	}
	for _, id := range ids {
		row := slices.ContainsFunc(r.Rows, func(x Row) bool { return x.Mechanism == id })
		if without := slices.ContainsFunc(r.Without, func(x Without) bool { return x.Mechanism == id }); row == without {
			return fmt.Errorf("mechanism %s has a row: %v, and a reason for none: %v", id, row, without)
		}
	}
	return nil
}
