package task

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"gururmm/wire"
)

// maxOutputLimit bounds what a command may ask to be kept of each stream, in bytes.
const maxOutputLimit = 64 << 20

// keptMost is how many bytes of each stream are kept of a command that orders so many.
func keptMost(ordered int64) int64 {
	if ordered <= 0 {
		return wire.DefaultMaxOutput
	}
	return min(ordered, maxOutputLimit)
}

// liveWindow is how much of a stream is sent while a job runs, in bytes. More than
// that is kept on disk and asked for by the server at its own pace
// (wire.ResultAck), so that no job can fill the way up.
const liveWindow = 2 << 20

// outputs are the files of jobs' output, ID.stdout and ID.stderr.
type outputs struct{ dir string }

func (o outputs) path(id string, s wire.Stream) string {
	return filepath.Join(o.dir, id+"."+string(s))
}

// size of a kept stream in bytes; 0 if there is none.
func (o outputs) size(id string, s wire.Stream) int64 {
	info, err := os.Stat(o.path(id, s))
	if err != nil {
		return 0
	}
	return info.Size()
}

// read gives up to len(buf) bytes from offset on.
func (o outputs) read(id string, s wire.Stream, offset int64, buf []byte) (int, error) {
	f, err := os.Open(o.path(id, s))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.ReadAt(buf, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// remove forgets a job's output.
func (o outputs) remove(id string) error {
	var errs []error
	for _, s := range []wire.Stream{wire.Stdout, wire.Stderr} {
		if err := os.Remove(o.path(id, s)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweep removes the files of jobs that keep says no to.
func (o outputs) sweep(keep func(id string) bool) {
	entries, _ := os.ReadDir(o.dir)
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		if !keep(id) {
			_ = os.Remove(filepath.Join(o.dir, e.Name())) // another start tries again
		}
	}
}

// capture reads one stream of a running job to its end, keeps the first max
// bytes in a file, and counts the rest. It never stops reading: a job is not
// held up by what is not kept.
type capture struct {
	path string
	max  int64
	more func() // kept has grown
	// ballast gives room for the beginning of a stream on a full disk.
	ballast *ballast

	mu         sync.Mutex
	kept, lost int64
	err        error // why less than max was kept
}

// run reads until the stream ends or is closed.
func (c *capture) run(in io.Reader) {
	var out *os.File
	defer func() {
		if out != nil {
			c.note(errors.Join(out.Sync(), out.Close()))
		}
	}()
	buf := make([]byte, wire.MaxChunk)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			out = c.keep(out, buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// keep writes as much of p as is to be kept.
func (c *capture) keep(out *os.File, p []byte) *os.File {
	want := min(int64(len(p)), max(c.max-c.kept, 0)) // only this goroutine changes kept
	if c.err != nil {
		want = 0
	}
	var wrote int
	var err error
	write := func() error {
		if out == nil {
			if out, err = os.OpenFile(c.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
				return err
			}
		}
		n, err := out.Write(p[wrote:want])
		wrote += n
		return err
	}
	switch {
	case want == 0:
	case c.kept < wire.InlineOutput: // what a person asked, not what floods
		err = inPlace(filepath.Dir(c.path), func() error { return c.ballast.with(write) })
	default:
		err = write()
	}
	c.mu.Lock()
	c.kept += int64(wrote)
	c.lost += int64(len(p) - wrote)
	c.mu.Unlock()
	c.note(err)
	if wrote > 0 {
		c.more()
	}
	return out
}

func (c *capture) note(err error) {
	if err != nil && c.err == nil {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
	}
}

func (c *capture) counts() (kept, lost int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept, c.lost, c.err
}
