package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWorkerGivesUpTheGuardiansMercy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "oom_score_adj")
	for has, want := range map[string]string{"-900\n": "0", "0\n": "0", "300\n": "300"} {
		if err := os.WriteFile(file, []byte(has), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := raise(file); err != nil {
			t.Error(err)
		}
		if got := strings.TrimSpace(read(t, file)); got != want {
			t.Errorf("%q became %q, want %q", has, got, want)
		}
	}
	if err := giveUpMercy(); err != nil { // of this very process: raising is always allowed
		t.Error(err)
	}
}
