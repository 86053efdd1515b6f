//go:build unix

package versions

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// To open a pipe that nobody writes to would hold up each start for ever.
func TestAPipeForAStateIsSetAside(t *testing.T) {
	r := newRig(t)
	if err := os.MkdirAll(filepath.Dir(r.StateFile()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(r.StateFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := r.Load(); err == nil || st.Current != nil || !strings.Contains(err.Error(), ".corrupt-") {
		t.Errorf("%+v, %v", st, err)
	}
}
