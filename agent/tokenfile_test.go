package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestATokenFileThatAllCanReadIsNoticed(t *testing.T) {
	if runtime.GOOS == "windows" { // its files have no such mode
		return
	}
	path := filepath.Join(t.TempDir(), "token")
	for mode, want := range map[fs.FileMode]fs.FileMode{0o644: 0o644, 0o640: 0, 0o600: 0} {
		if err := os.WriteFile(path, []byte("t"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if got := readByOthers(path); got != want {
			t.Errorf("%04o: %04o, want %04o", mode, got, want)
		}
	}
	if got := readByOthers("-") + readByOthers("") + readByOthers(path+"x"); got != 0 {
		t.Errorf("of no file: %04o", got)
	}
}
