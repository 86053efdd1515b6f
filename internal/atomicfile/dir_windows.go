package atomicfile

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

const (
	// renameTries bounds the tries of a rename: with their waits about a second.
	renameTries = 20
	// renameWait is the longest wait between two.
	renameWait = 64 * time.Millisecond
)

// Rename is os.Rename, which is MoveFileEx with MOVEFILE_REPLACE_EXISTING here. It
// fails for the moment in which another process reads or replaces the same
// file, or a virus scanner looks at it: then it is tried again for about a second.
func Rename(from, to string) error {
	wait := time.Millisecond
	for try := 1; ; try++ {
		err := os.Rename(from, to)
		busy := errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_SHARING_VIOLATION)
		if !busy || try == renameTries {
			return err
		}
		if info, serr := os.Stat(to); serr == nil && info.IsDir() {
			return err // for good
		}
		time.Sleep(wait)
		wait = min(2*wait, renameWait)
	}
}

// chmod does nothing: on Windows it could only set the read-only bit, which
// would make the next replacement fail.
func chmod(*os.File, os.FileMode) error { return nil }

// SyncDir does nothing: NTFS journals the rename.
func SyncDir(string) error { return nil }
