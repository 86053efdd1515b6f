package guardian

import (
	"strings"
	"testing"
)

func TestTheLogTakesFewOfAWorkersLastWords(t *testing.T) {
	if got := wordsForLog("panic: here"); got != "panic: here" {
		t.Errorf("short words became %q", got)
	}
	long := "SIGQUIT: quit\n" + strings.Repeat("goroutine 1 é\n", 5000)
	got := wordsForLog(long)
	if len(got) > maxLogWords+64 || !strings.HasPrefix(got, "SIGQUIT: quit\n") || !strings.Contains(got, "bytes in all") {
		t.Errorf("%d bytes of %d are logged: %.40q", len(got), len(long), got)
	}
}
