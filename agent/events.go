package agent

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"

	"gururmm/agent/guardian"
)

// Events go from the launcher, which the service manager tells them, to the guardian that
// it started (on Windows) by that one's standard input, one word a line. Each may be of
// another version: a word that is not known is stepped over, and a program that asks for
// none reads on and throws them away.

// knownEvents are the words.
var knownEvents = []guardian.Event{guardian.EventSuspend, guardian.EventResume, guardian.EventSession}

// maxWord bounds a line, in bytes; one that is longer is stepped over.
const maxWord = 64

// passEvents writes events to w until done is closed, or w takes no more.
func passEvents(events <-chan guardian.Event, w io.Writer, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case e := <-events:
			if _, err := io.WriteString(w, string(e)+"\n"); err != nil {
				return
			}
		}
	}
}

// hearEvents gives what r says to events until r ends. What nobody takes is lost, and never
// waited for: the end of r is the word to stop.
func hearEvents(r io.Reader, events chan<- guardian.Event) {
	lines := bufio.NewReaderSize(r, maxWord)
	for long := false; ; {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = true
			continue
		}
		if err != nil {
			return // a line that was cut off is none
		}
		e := guardian.Event(strings.TrimSpace(string(line)))
		if !long && slices.Contains(knownEvents, e) {
			select {
			case events <- e:
			default:
			}
		}
		long = false
	}
}
