package agent

import (
	"log/slog"
	"time"

	"golang.org/x/sys/windows/svc/eventlog"

	"gururmm/agent/guardian"
	"gururmm/internal/serial"
	"gururmm/internal/version"
	"gururmm/selfcheck"
)

// Ids of our events in the Application log; eventcreate.exe, whose messages they use, knows 1 to 1000.
const (
	eventStarted = 1 + iota
	eventStopped
	eventFailed
	eventBroken // a verdict of severity error
	eventMended
)

// maxEvents is how many events may wait for the event log: it may be slow to start at boot.
const maxEvents = 16

// lastEvent bounds the wait for the event log at the end.
const lastEvent = 2 * time.Second

type event struct {
	id   uint32
	text string
	say  func(l *eventlog.Log) func(uint32, string) error
}

// The severities, as the event log has them.
var (
	asInfo  = func(l *eventlog.Log) func(uint32, string) error { return l.Info }
	asError = func(l *eventlog.Log) func(uint32, string) error { return l.Error }
)

// eventTeller writes the turns of fortune to the event log; serial because its
// calls may block.
type eventTeller struct {
	log    *eventlog.Log
	queue  *serial.Queue[event]
	broken selfcheck.Code // the error told last; "": none stands
	first  bool
}

type silentTeller struct{}

func (silentTeller) turn(guardian.Turn) {}
func (silentTeller) end(error)          {}

func (s *Setup) teller(log *slog.Logger) teller {
	if !s.Service {
		return silentTeller{}
	}
	l, err := eventlog.Open(ServiceName)
	if err != nil {
		log.Warn("event log", "error", err)
		return silentTeller{}
	}
	return &eventTeller{log: l, first: true, queue: serial.New(maxEvents, func(e event) {
		if err := e.say(l)(e.id, e.text); err != nil {
			log.Warn("event log", "error", err, "event", e.text)
		}
	})}
}

// put: an event that finds the queue full is in our own log still.
func (t *eventTeller) put(e event) { _ = t.queue.Push(e, 1) }

func (t *eventTeller) turn(turn guardian.Turn) {
	if t.first {
		t.first = false
		t.put(event{eventStarted, "Version " + version.Version + " started.", asInfo})
	}
	v := turn.Verdict
	switch {
	case v.Severity == selfcheck.SeverityError && !v.Suspected && v.Code != t.broken:
		t.broken = v.Code
		t.put(event{eventBroken, told(turn), asError})
	case v.Severity == selfcheck.SeverityWell && t.broken != "":
		t.broken = ""
		t.put(event{eventMended, told(turn), asInfo})
	}
}

func (t *eventTeller) end(err error) {
	if err != nil {
		t.put(event{eventFailed, "Ended: " + err.Error(), asError})
	} else {
		t.put(event{eventStopped, "Stopped.", asInfo})
	}
	gone := make(chan struct{})
	go func() { // ends with the last event, or the process
		defer close(gone)
		t.queue.Wait()
		_ = t.log.Close()
	}()
	limit := time.NewTimer(lastEvent)
	defer limit.Stop()
	select {
	case <-gone:
	case <-limit.C:
	}
}
