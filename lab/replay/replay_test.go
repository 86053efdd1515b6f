package replay

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"gururmm/diagnosis"
	"gururmm/internal/wrap"
)

func replay() (Replay, error) {
	raw, err := os.ReadFile("../cases/commands-unacknowledged.yaml")
	if err != nil {
		return Replay{}, err
	}
	c, err := diagnosis.ReadCase(raw)
	if err != nil {
		return Replay{}, err
	}
	return Of(c)
}

// once is the replay that the tests share: it is the same each time.
var once = sync.OnceValues(replay)

func replayed(t *testing.T) Replay {
	t.Helper()
	r, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The page has what a run of now prints: go run ./cmd/gururmm-lab dossier --write docs/diagnosis.md
func TestThePageHasTheMatrix(t *testing.T) {
	page, err := os.ReadFile("../../docs/diagnosis.md")
	if err != nil {
		t.Fatal(err)
	}
	page = bytes.ReplaceAll(page, []byte("\r\n"), []byte("\n"))
	made, err := replayed(t).Put(page)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, made) {
		t.Error("docs/diagnosis.md is not what a run prints: go run ./cmd/gururmm-lab dossier --write docs/diagnosis.md")
	}
}

func (r Row) cell(test string) Cell {
	return r.Cells[slices.IndexFunc(Tests, func(t Test) bool { return t.Name == test })]
}

func TestWhatIsPrintedFitsATerminal(t *testing.T) {
	var all strings.Builder
	if err := errors.Join(replayed(t).Print(&all), PrintPoor(&all, Poor())); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(all.String(), "\n"); n < 100 {
		t.Errorf("only %d lines", n)
	}
	for line := range strings.Lines(all.String()) {
		if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > wrap.Width {
			t.Error(line)
		}
	}
}

// What the page's discussion says follows from the runs.
func TestWhatTheDiscussionSays(t *testing.T) {
	r := replayed(t)
	find := func(id, reading string) Row {
		t.Helper()
		i := slices.IndexFunc(r.Rows, func(x Row) bool { return x.Mechanism == id && strings.Contains(x.Reading, reading) })
		if i < 0 {
			t.Fatalf("no row %s %s", id, reading)
		}
		return r.Rows[i]
	}
	reader := find("agent.reader.handler", "outlives the link; heartbeats have a writer of their own, whose failure")
	if reader.cell("T4") == Contradicted || reader.Pings || reader.Pongs || reader.Links != 1 {
		t.Errorf("a blocked reader sleeps through its deadline without a ping: %+v", reader)
	}
	if well := find("well", ""); well.Looks <= reader.Looks {
		t.Errorf("a blocked reader looked %d times at its deadline, a free one %d", reader.Looks, well.Looks)
	}
	if x := find("agent.reader.handler", "only the reader ends"); x.cell("T7") != Contradicted {
		t.Error("a blocked reader came back from a link that was ended, with nobody to notice")
	}
	if x := find("agent.reader.handler", "one loop reads and writes"); x.cell("T5") != Contradicted {
		t.Error("one blocked loop wrote heartbeats")
	}
	if x := find("agent.reader.handler", "what the link has"); x.cell("T8") != Contradicted {
		t.Error("a fresh link did not free what belonged to the link")
	}
	for _, id := range []string{"path.mtu", "server.unwritten"} {
		if x := find(id, map[string]string{"path.mtu": "", "server.unwritten": "each later"}[id]); x.cell("T4") == Contradicted || x.Links < 10 || x.cell("T5") != Contradicted {
			t.Errorf("%s: many links, and no event of them; its heartbeats are what is missing: %+v", id, x)
		}
	}
	var left []Row // contradicted by nothing but the ending that is against the rules
	ids := map[string]bool{}
	for _, x := range r.Rows {
		if x.cell("T9 end") == Contradicted && x.Contradicts == 1 {
			left = append(left, x)
			ids[x.Mechanism] = true
		}
		if x.cell("T9 end") != Contradicted && x.Contradicts == 0 && !strings.Contains(x.Reading, "holds agent-c") {
			t.Errorf("%s explains the ending: the page says that none does", x.Mechanism)
		}
		if x.cell("T9 end") == Reproduced && !strings.Contains(x.Reading, "acknowledgements") {
			t.Errorf("%s explains the ending", x.Mechanism)
		}
	}
	for _, x := range left {
		if (x.Mechanism == "agent.reader.handler") == x.Pongs {
			t.Errorf("pongs tell a blocked reader from all else that is left: %s %s has %v", x.Mechanism, x.Reading, x.Pongs)
		}
		if want := x.Mechanism == "agent.ack" || x.Mechanism == "path.uplink"; x.Ran != want {
			t.Errorf("that a command runs tells a lost acknowledgement from all else that is left: %s has %v", x.Mechanism, x.Ran)
		}
	}
	for _, id := range []string{"agent.dispatcher", "agent.ack", "agent.reader.handler", "agent.decode", "path.text.all", "path.uplink", "path.text.altered", "path.compression", "path.fragment", "path.text.count"} {
		if !ids[id] {
			t.Errorf("%s is not among those that are left: %v", id, ids)
		}
		delete(ids, id)
	}
	if len(ids) > 0 {
		t.Errorf("the page does not name %v", ids)
	}
}

// A run is the same each time, and leaves nothing running: a bubble does not end before what
// was begun in it, and fails where that can't.
func TestARunIsTheSameEachTime(t *testing.T) {
	first := replayed(t)
	synctest.Test(t, func(t *testing.T) {
		again, err := replay()
		if err != nil {
			t.Fatal(err)
		}
		if again.Markdown() != first.Markdown() {
			t.Error("two runs print two things")
		}
	})
}

func TestTasksTakeTurns(t *testing.T) {
	c := newClock()
	var said []string
	full := false
	c.spawn(func(t *task) {
		t.sleep(2 * time.Second)
		full = true
		said = append(said, "filled at "+c.now.String())
	})
	waits := c.spawn(func(t *task) {
		if t.until(time.Second, func() bool { return full }) {
			said = append(said, "early")
		}
		said = append(said, "gave up at "+c.now.String())
		if t.until(forever, func() bool { return full }) {
			said = append(said, "saw it at "+c.now.String())
		}
		t.until(forever, nil)
		said = append(said, "never")
	})
	c.run(time.Minute)
	if got := strings.Join(said, ", "); got != "gave up at 1s, filled at 2s, saw it at 2s" || c.now != time.Minute {
		t.Errorf("%s, at %v", got, c.now)
	}
	if waits.abort(); waits.ended {
		t.Error("it ended before its turn")
	}
	c.end()
	if !waits.ended || len(c.tasks) > 0 {
		t.Error("a task is left")
	}
}
