package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// oomScore is this process's own.
const oomScore = "/proc/self/oom_score_adj"

// giveUpMercy takes back the protection from the kernel's out-of-memory killer
// that the unit gives the guardian: the worker and its jobs, which inherit it, are
// what can be spared.
func giveUpMercy() error { return raise(oomScore) }

// raise lifts what is below 0 to 0.
func raise(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if score >= 0 {
		return nil // somebody's choice
	}
	return os.WriteFile(file, []byte("0"), 0)
}
