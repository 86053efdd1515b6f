package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const oomScore = "/proc/self/oom_score_adj"

// giveUpMercy takes back the protection from the kernel's out-of-memory killer
// that the unit gives the guardian: the worker and its jobs, which inherit it, are
// what can be spared.
func giveUpMercy() error {
	raw, err := os.ReadFile(oomScore)
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("%s: %w", oomScore, err)
	}
	if score >= 0 {
		return nil // somebody's choice
	}
	return os.WriteFile(oomScore, []byte("0"), 0)
}
