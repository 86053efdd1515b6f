// Package sdnotify tells systemd that this process is ready, how it fares and
// that it still turns: sd_notify(3), for a unit of Type=notify with WatchdogSec.
//
// Rules that hold here:
//   - the watchdog is fed by [Notifier.Tell] alone, never by a timer: a caller
//     that hangs is not fed for;
//   - Tell never blocks: a service manager that does not read can't hold up its service;
//   - the environment is left as it is, so that a program this process becomes by
//     exec finds systemd again; children get theirs through [Strip].
package sdnotify

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	// feeds is how often the watchdog is fed in its interval: sd_watchdog_enabled(3)
	// asks for twice, a loaded machine for more.
	feeds = 4
	// maxStatus bounds the status in bytes: it is one line of `systemctl status`.
	maxStatus = 400
	// closeWait bounds the wait for the last message at the end.
	closeWait = time.Second
)

// ours are the variables that name the main process to systemd.
var ours = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// Strip gives env without what lets a process speak for this one to systemd.
func Strip(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(ours, name)
	})
}

// State is what systemd is told. That it is told is itself the news that the
// process is ready and turns.
type State struct {
	Status   string // for people; only its first 400 bytes are told
	Stopping bool
	// Extend is how much longer a stop may take from now on; 0: as the unit says.
	Extend time.Duration
}

// Notifier tells the service manager. A nil one tells nobody.
type Notifier struct {
	log  *slog.Logger
	feed time.Duration // the longest between two messages; 0: no watchdog
	box  chan string   // holds the newest message only
	done chan struct{}

	last State     // as last told; of the caller's goroutine
	told time.Time // zero: never
}

// New gives the notifier of this process, nil if no systemd waits for it to speak.
func New(log *slog.Logger) (*Notifier, error) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil, nil
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	n := &Notifier{log: log, feed: interval / feeds, box: make(chan string, 1), done: make(chan struct{})}
	go n.send() // ends with Close
	if err != nil {
		err = fmt.Errorf("watchdog of systemd: %w", err)
	}
	return n, err
}

// Tell says s if it is news or the watchdog is due. It is for one goroutine, the one whose
// turning is to be watched.
func (n *Notifier) Tell(s State) {
	if n == nil {
		return
	}
	s.Status = line(s.Status)
	now := time.Now()
	due := n.feed > 0 && now.Sub(n.told) >= n.feed
	if s == n.last && !due && !n.told.IsZero() && !s.Stopping {
		return
	}
	n.last, n.told = s, now
	select { // what still waits is older
	case <-n.box:
	default:
	}
	n.box <- message(s) // room: this goroutine is the only one that puts
}

// message is what goes over the socket. READY=1 a second time changes nothing, so
// no message depends on one before it.
func message(s State) string {
	lines := []string{"READY=1"}
	if s.Stopping {
		lines = []string{"STOPPING=1"}
		if s.Extend > 0 {
			lines = append(lines, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", s.Extend.Microseconds()))
		}
	}
	return strings.Join(append(lines, "STATUS="+s.Status, "WATCHDOG=1"), "\n")
}

// line makes text one bounded line.
func line(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxStatus {
		text = text[:maxStatus]
	}
	return strings.ToValidUTF8(text, "")
}

func (n *Notifier) send() {
	defer close(n.done)
	failed := false
	for m := range n.box {
		_, err := daemon.SdNotify(false, m)
		if err != nil && !failed { // said once: it may fail each second
			n.log.Error("systemd can't be told how it goes: it may restart this service", "error", err)
		}
		failed = err != nil
	}
}

// Close waits, but not for long, until the last message is out.
func (n *Notifier) Close() {
	if n == nil {
		return
	}
	close(n.box)
	limit := time.NewTimer(closeWait)
	defer limit.Stop()
	select {
	case <-n.done:
	case <-limit.C: // systemd itself hangs; the end of the process ends the goroutine
	}
}
