package guardian

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/pipe"
	"gururmm/internal/serial"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// A large step of the clock stands beside the verdict for an hour, a sleep and what time
// services do all day does not.
func TestALargeStepOfTheClockIsShownForAWhile(t *testing.T) {
	at := time.Now()
	for _, c := range []struct {
		jump, slept time.Duration
		says        string
	}{
		{2 * time.Hour, 0, "set ahead by 2h0m0s, 5m ago"},
		{-26 * time.Hour, 0, "set back by 26h0m0s, 5m ago"},
		{8*time.Hour + 3*time.Second, 8 * time.Hour, ""},
		{8 * time.Hour, 7 * time.Hour, "set ahead by 1h0m0s, 5m ago"},
		{30 * time.Second, 0, ""},
	} {
		g := &Guardian{cfg: Config{Asleep: sleepless()}}
		g.clockMoved(at, c.jump, c.slept)
		found := g.clockFindings(at.Add(5 * time.Minute))
		switch {
		case c.says == "" && len(found) != 0:
			t.Errorf("%v with %v of sleep: %+v", c.jump, c.slept, found)
		case c.says != "" && (len(found) != 1 || found[0].Code != selfcheck.FindClockStep || !strings.Contains(found[0].Sentence, c.says)):
			t.Errorf("%v with %v of sleep: %+v, want %q", c.jump, c.slept, found, c.says)
		}
		if late := g.clockFindings(at.Add(time.Hour)); len(late) != 0 {
			t.Errorf("an hour later: %+v", late)
		}
	}
}

func TestOutboxNeverBlocksAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newOutbox()
		r, w := io.Pipe()
		done := make(chan struct{})
		ended := make(chan struct{})
		go func() { b.write(w, done); close(ended) }()
		taken := 0
		for range 10 * maxOrders {
			if b.put(pipe.Order{Ping: true}) {
				taken++
			}
		}
		if taken > maxOrders+1 || b.lost.Load() != int64(10*maxOrders-taken) {
			t.Fatalf("%d orders taken for a worker that reads none, %d counted as lost", taken, b.lost.Load())
		}
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if p := b.pending(time.Now()); p == nil || *p != 7*time.Second {
			t.Fatalf("pending %v, want 7 s", p)
		}
		r.Close()
		<-ended
		big := newOutbox()
		payload := make([]byte, maxOrderBytes/2+1)
		if !big.put(pipe.Order{Deliver: []wire.Envelope{{Payload: payload}}}) || big.put(pipe.Order{Deliver: []wire.Envelope{{Payload: payload}}}) {
			t.Fatal("orders are not bounded by bytes")
		}
	})
}

func TestLastWordsKeepTheStacksOfACrash(t *testing.T) {
	var r ring
	for i := range 5000 {
		fmt.Fprintf(&r, "goroutine %d [running]: somewhere in the program\n", i)
	}
	words := r.String()
	if len(words) > stderrRing || !strings.HasSuffix(words, "goroutine 4999 [running]: somewhere in the program\n") {
		t.Fatalf("%d bytes ending in %q", len(words), words[len(words)-60:])
	}
	exit := lifeExit{err: errors.New("exit status 2"), words: "note\npanic: out of luck\n\ngoroutine 1 [running]:\n"}
	if got := describeExit(exit, ""); got != "exit status 2: panic: out of luck" {
		t.Fatalf("described as %q", got)
	}
	if got := describeExit(exit, "journal: "+strings.Repeat("x", 1000)); len(got) > lastExitLen+40 || !strings.HasPrefix(got, "exit status 2: journal: x") {
		t.Fatalf("described as %q", got)
	}
}

type otherDoor Door

// nilDoor is configured and never asked.
type nilDoor struct{ otherDoor }

func (nilDoor) Door() string { return "" }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestUploadIsolatesTheMessageThatIsRefused(t *testing.T) {
	g := &Guardian{cfg: Config{Door: nilDoor{}}, log: discard()}
	bad := &oob.DoorError{Door: "d", Status: 400, Err: errors.New("bad request")}
	for i := range 3 {
		g.send(wire.Envelope{Type: wire.TypeCommandAck, Payload: fmt.Appendf(nil, `{"id":"%d"}`, i)})
	}
	d := &g.door
	d.upTaken = 3
	if !g.uploadRefused(bad) || len(d.up) != 3 || !d.upSingly {
		t.Fatalf("a refused batch: %d messages left, one by one %t", len(d.up), d.upSingly)
	}
	d.upTaken = 1
	if !g.uploadRefused(bad) || len(d.up) != 2 {
		t.Fatalf("a refused message: %d left, want 2", len(d.up))
	}
	d.upTaken = 1
	if g.uploadRefused(&oob.DoorError{Door: "d", Status: 503, Err: errors.New("draining")}) || len(d.up) != 2 {
		t.Fatal("a server that drains is no reason to drop messages")
	}
}

func TestUpstreamIsBoundedOldestFirst(t *testing.T) {
	g := &Guardian{cfg: Config{Door: nilDoor{}}, log: discard()}
	chunk := make([]byte, 1<<20)
	for i := range 40 {
		g.send(wire.Envelope{Type: wire.TypeCommandOutput, Seq: uint64(i), Payload: chunk})
	}
	if g.door.upBytes > maxUp || g.door.up[len(g.door.up)-1].Seq != 39 {
		t.Fatalf("%d bytes wait, the last is %d", g.door.upBytes, g.door.up[len(g.door.up)-1].Seq)
	}
}

// shelf takes so many events.
type shelf struct {
	room   int
	events []history.Event
}

func (s *shelf) Add(e history.Event) error {
	if s.room == 0 {
		return errors.New("no room")
	}
	s.room--
	s.events = append(s.events, e)
	return nil
}

func (s *shelf) Close() error { return nil }

// What the disk does not take goes on waiting, in its order; what there is no room for is
// told where it is missing.
func TestEventsWaitForADiskThatFailsAndAGapIsTold(t *testing.T) {
	s := &shelf{room: 10}
	g := &Guardian{cfg: Config{History: s}, log: discard()}
	g.history.again = time.Now() // a try has failed: nobody writes for now
	for i := range maxNotes + 88 {
		g.note(history.Event{ID: fmt.Sprint(i), Kind: history.KindWorker})
	}
	if err := g.writeNotes(); err == nil {
		t.Fatal("no error")
	}
	for i := range 20 { // as many more as have gone, and ten for which there is no room
		g.note(history.Event{ID: fmt.Sprint("later", i), Kind: history.KindWorker})
	}
	if s.room = maxNotes; g.writeNotes() == nil { // a place short
		t.Fatal("no error")
	}
	s.room = 1
	if err := g.writeNotes(); err != nil {
		t.Fatal(err)
	}
	if n := len(s.events); n != maxNotes+11 || s.events[maxNotes-1].ID != fmt.Sprint(maxNotes-1) || s.events[maxNotes].ID != "later0" {
		t.Fatalf("%d events are kept", n)
	}
	gap := s.events[maxNotes+10]
	if gap.Code != "unkept" || !strings.Contains(gap.Sentence, "98 of them") {
		t.Errorf("the gap is told as %+v", gap)
	}
	if g.history.dropped != 0 || len(g.history.pending) != 0 {
		t.Errorf("%d wait, %d are missing", len(g.history.pending), g.history.dropped)
	}
	few := []history.Event{{ID: "a"}, {ID: "b"}}
	g.history.pending = make([]history.Event, maxNotes-1) // that came while these were tried
	if g.history.waitOn(few, 0); len(g.history.pending) != maxNotes || g.history.pending[1].ID != "b" || g.history.dropped != 1 {
		t.Errorf("%d wait, %d are missing", len(g.history.pending), g.history.dropped)
	}
}

// What the keeper does not take is not written: it is tried again.
func TestAStateThatTheKeeperDoesNotTakeIsTriedAgain(t *testing.T) {
	now := time.Now()
	g := &Guardian{cfg: Config{StateFile: t.TempDir() + "/state"}, log: discard(), ladder: selfcheck.NewLadder(wire.DefaultPolicy(), nil)}
	g.cfg.Uptime = func() (time.Duration, bool) { return 0, false }
	g.keeper = serial.New(maxJobs, g.work)
	g.keeper.Close()
	g.memory.dirty, g.memory.urgent = true, true
	g.rememberDue(now)
	if m := g.memory; !m.dirty || !m.saveAt.Equal(now.Add(saveEvery)) {
		t.Errorf("dirty %v, due in %v", m.dirty, m.saveAt.Sub(now))
	}
}
