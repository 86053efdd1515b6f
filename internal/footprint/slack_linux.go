package footprint

import (
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usualSlack is what the kernel gives a process that nobody has set: 50 µs, see prctl(2).
const usualSlack = 50 * time.Microsecond

// Slack lets the kernel put each timer of this process off by up to d, to let several
// end in one wake (PR_SET_TIMERSLACK). The Go runtime's own watch sleeps for 20 µs at a
// time while anything runs: with the usual slack that was a quarter of an idle agent's
// CPU. Threads that exist already are reached with CAP_SYS_NICE only; those made later,
// and child processes, take over what the thread that makes them has.
func Slack(d time.Duration) {
	ns := strconv.FormatInt(d.Nanoseconds(), 10)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads {
		_ = os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", []byte(ns), 0)
	}
	setSlack(d)
}

// Punctual runs start, which starts a process, so that its timers have the usual slack.
func Punctual(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if was, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil {
		setSlack(usualSlack)
		defer setSlack(time.Duration(was))
	}
	return start()
}

// setSlack sets that of the calling thread.
func setSlack(d time.Duration) {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d.Nanoseconds()), 0, 0, 0)
}
