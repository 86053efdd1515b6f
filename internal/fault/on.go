//go:build faults

package fault

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Of names the fault label as it strikes who alone: it is on while the file LABEL@WHO is
// there, or that of all.
func Of(label, who string) string { return label + "@" + who }

// Active reports whether the fault named label is switched on.
func Active(label string) bool { return file(label) != "" }

// file gives the file that switches the fault named label on; empty: it is off.
func file(label string) string {
	dir := os.Getenv("GURURMM_FAULTS")
	if dir == "" {
		return ""
	}
	all, _, _ := strings.Cut(label, "@")
	for _, name := range []string{label, all} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Stall blocks while the fault named label is switched on.
func Stall(label string) {
	for path := file(label); path != ""; path = file(label) {
		if raw, err := os.ReadFile(path); err == nil && string(raw) == Once && os.Remove(path) == nil {
			select {}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Die ends this process at once, as kill -9 does, if the fault named label is
// switched on. It is switched off first, its file renamed to end in ".died":
// the next start comes further.
func Die(label string) {
	path := file(label)
	if path == "" || os.Rename(path, path+".died") != nil {
		return
	}
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Kill() == nil {
		select {} // it is under way
	}
}

// Env gives the value of an environment variable that only fault builds obey.
func Env(name string) string { return os.Getenv(name) }

// Now is this machine's clock, wrong by $GURURMM_CLOCK_OFFSET ("-26h").
func Now() time.Time { return Clock(time.Now()) }

// Clock is what this machine's clock said at t.
func Clock(t time.Time) time.Time { return t.Add(clockOffset()) }

var clockOffset = sync.OnceValue(func() time.Duration {
	offset, err := time.ParseDuration(os.Getenv("GURURMM_CLOCK_OFFSET"))
	if err != nil {
		return 0
	}
	return offset
})
