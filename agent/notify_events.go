package agent

import (
	"time"

	"gururmm/agent/guardian"
	"gururmm/internal/serial"
	"gururmm/internal/version"
	"gururmm/selfcheck"
)

// What Windows' event log is told is decided here, and tested on every platform.

// Ids of our events in the Application log; eventcreate.exe, whose messages they use, knows 1 to 1000.
const (
	eventStarted = 1 + iota
	eventStopped
	eventFailed
	eventBroken // a verdict of severity error
	eventMended
	eventInstalled // what a package did
)

// maxEvents is how many events may wait for the event log: it may be slow to start at boot.
const maxEvents = 16

// lastEvent bounds the wait for the event log at the end.
const lastEvent = 2 * time.Second

// event is one entry of the event log, as an error or as information.
type event struct {
	id   uint32
	text string
	bad  bool
}

// eventTeller writes the turns of fortune to the event log; serial because its
// calls may block.
type eventTeller struct {
	queue  *serial.Queue[event]
	shut   func()         // the log, after the last event
	broken selfcheck.Code // the error told last; "": none stands
	first  bool
}

// newEventTeller makes one that writes by say, which may block, and closes the log by shut.
func newEventTeller(say func(event), shut func()) *eventTeller {
	return &eventTeller{queue: serial.New(maxEvents, say), shut: shut, first: true}
}

// put: an event that finds the queue full is in our own log still.
func (t *eventTeller) put(e event) { _ = t.queue.Push(e, 1) }

func (t *eventTeller) turn(turn guardian.Turn) {
	if t.first {
		t.first = false
		t.put(event{id: eventStarted, text: "Version " + version.Version + " started."})
	}
	v := turn.Verdict
	switch {
	case v.Severity == selfcheck.SeverityError && !v.Suspected && v.Code != t.broken:
		t.broken = v.Code
		t.put(event{id: eventBroken, text: told(turn), bad: true})
	case v.Severity == selfcheck.SeverityWell && t.broken != "":
		t.broken = ""
		t.put(event{id: eventMended, text: told(turn)})
	}
}

func (t *eventTeller) end(err error) {
	if err != nil {
		t.put(event{id: eventFailed, text: "Ended: " + err.Error(), bad: true})
	} else {
		t.put(event{id: eventStopped, text: "Stopped."})
	}
	gone := make(chan struct{})
	go func() { // ends with the last event, or the process
		defer close(gone)
		t.queue.Wait()
		t.shut()
	}()
	limit := time.NewTimer(lastEvent)
	defer limit.Stop()
	select {
	case <-gone:
	case <-limit.C:
	}
}
