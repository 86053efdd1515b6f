package task

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"gururmm/internal/atomicfile"
	"gururmm/internal/diskfree"
)

// A disk that is full is a common reason to run a command on an endpoint, and every
// command takes room: for its record, its script and what it writes. So some is kept
// in a file that is cut, piece by piece, when the disk refuses a write of these, and
// filled again once there is plenty.
const (
	ballastName  = "ballast"
	ballastSize  = 4 << 20          // bytes: a journal that is due to be rewritten fits in
	ballastPiece = 256 << 10        // given at once: another program that writes would take all
	ballastFrom  = 16 * ballastSize // free bytes from which on it is filled
)

// ballast is that file. Without one (no room yet, a directory at its place) it gives nothing.
type ballast struct {
	path string
	mu   sync.Mutex // orders the writes of the file
}

func newBallast(dir string) *ballast { return &ballast{path: filepath.Join(dir, ballastName)} }

// give frees a piece; false: there is none left.
func (b *ballast) give() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	info, err := os.Lstat(b.path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	return os.Truncate(b.path, max(info.Size()-ballastPiece, 0)) == nil
}

// with runs do again as long as the disk is full and a piece can be given.
func (b *ballast) with(do func() error) error {
	err := do()
	for isFull(err) && b.give() {
		err = do()
	}
	return err
}

// short reports whether there is something to fill, and the room for it.
func (b *ballast) short() bool {
	info, err := os.Lstat(b.path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() >= ballastSize) {
		return false
	}
	free, err := diskfree.Free(filepath.Dir(b.path))
	return err == nil && free >= ballastFrom
}

// fill makes the file whole.
func (b *ballast) fill() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, err := os.OpenFile(b.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|atomicfile.NoFollow, 0o600)
	if err != nil {
		return err
	}
	// Chance: zeros take no room where a file system compresses them or leaves them out.
	var seed [32]byte
	noise := rand.NewChaCha8(seed)
	piece := make([]byte, ballastPiece)
	for range ballastSize / ballastPiece {
		_, _ = noise.Read(piece) // never fails
		if _, err = f.Write(piece); err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

// isFull reports whether err says that a disk, or a share of it, is full.
func isFull(err error) bool {
	if runtime.GOOS == "windows" && // ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL
		(errors.Is(err, syscall.Errno(39)) || errors.Is(err, syscall.Errno(112))) {
		return true
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
