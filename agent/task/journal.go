package task

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/internal/fault"
	"gururmm/internal/lockfile"
)

// Names in Options.Dir.
const (
	journalName = "journal"
	corruptName = "journal.corrupt-" // and the time; kept for people
	newName     = "journal.new"      // being written; without meaning until renamed
	lockName    = "lock"
	outputDir   = "output"
	runDir      = "run"
)

// errMade is what tests make a disk say.
var errMade = errors.New("no space left on device (made by a test)")

// compactAt is the size in bytes at which the journal is rewritten, or twice its
// size after the last rewriting, if that is more.
const compactAt = 4 << 20

// readMost bounds what is read of a journal, in bytes, many times what one grows to. What is
// larger is damage, and to read it to its end would keep the worker from ever reporting.
const readMost = 256 << 20

// lockPoll is how often a directory that another worker still uses is tried again.
const lockPoll = 50 * time.Millisecond

// ErrLocked says that another executor, of this or another process, uses the directory.
var ErrLocked = errors.New("the task directory is in use by another worker")

// errClosed is the journal's error after Close.
var errClosed = errors.New("the executor is closed")

// file is what the journal needs of a file: the seam at which tests fill the disk.
type file interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Close() error
}

// journal is the file. Memory is the truth while the process lives: memory is
// changed first, then the record is committed; where a commit fails, the file is
// written anew from memory (snapshot) before anything else is. The owner takes
// back what must not stand without its record.
type journal struct {
	dir      string
	lockWait time.Duration
	snapshot func() []record
	open     func(name string, flag int) (file, error)
	ballast  *ballast

	io   sync.Mutex     // whoever holds it does the I/O, for all that wait
	f    file           // nil: broken, to be rewritten
	size int64          // bytes known to be good
	next int64          // size to compact at
	lock *lockfile.Lock // nil: not had yet
	// damage is set while an unreadable journal stands at its place: it is kept aside
	// before it is replaced.
	damage bool
	closed bool

	mu          sync.Mutex // of what follows; never held across I/O
	batch       *batch     // that collects
	err         error      // of the last write
	quarantined string
}

// batch is a group commit: those who come while the disk is busy share one write and one sync.
type batch struct {
	lines []byte
	sync  bool
	done  chan struct{}
	err   error
}

func openOS(name string, flag int) (file, error) {
	if fault.Active("worker.journal") {
		return nil, errMade
	}
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return dataFile{f}, nil
}

// load reads the journal of dir and takes the lock, where the directory can be
// written. used says that the directory has seen an executor before.
func (j *journal) load(take func(record)) (used bool, err error) {
	used, err = makeDir(j.dir)
	if err != nil {
		return used, fmt.Errorf("task directory: %w", err)
	}
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return used, fmt.Errorf("task directory: %w", err)
	}
	for _, e := range entries {
		used = used || e.Name() == outputDir || strings.HasPrefix(e.Name(), corruptName)
	}
	err = j.own()
	for over := time.Now().Add(j.lockWait); errors.Is(err, ErrLocked) && time.Now().Before(over); err = j.own() {
		time.Sleep(lockPoll)
	}
	if errors.Is(err, ErrLocked) {
		return used, err
	}
	if err != nil {
		j.fail(err)
	}
	f, err := atomicfile.Open(j.path(journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return used, nil
	}
	if errors.Is(err, atomicfile.ErrNotFile) {
		j.damage = true
		return used, nil
	}
	if err != nil {
		return used, fmt.Errorf("task journal: %w", err)
	}
	defer f.Close()
	// What can't be read (a bad sector) is damage like any other.
	in := &io.LimitedReader{R: f, N: readMost + 1}
	bad, err := scan(in, take)
	j.damage = bad > 0 || err != nil || in.N == 0
	return used, nil
}

func (j *journal) path(name string) string { return filepath.Join(j.dir, name) }

// own takes the lock, once. The system drops it when the process dies.
func (j *journal) own() error {
	if j.lock != nil {
		return nil
	}
	lock, err := lockfile.Take(j.path(lockName))
	if errors.Is(err, lockfile.ErrInUse) {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	j.lock = lock
	return err
}

// commit appends r; with sync it is on disk when commit returns. It waits for
// the disk, which can't be given a deadline.
func (j *journal) commit(r record, sync bool) error {
	line, err := appendLine(nil, r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	b := j.batch
	lead := b == nil
	if lead {
		b = &batch{done: make(chan struct{})}
		j.batch = b
	}
	b.lines = append(b.lines, line...)
	b.sync = b.sync || sync
	j.mu.Unlock()
	if lead {
		j.io.Lock()
		j.mu.Lock()
		j.batch = nil // later ones make the next group
		j.mu.Unlock()
		b.err = j.write(b.lines, b.sync)
		j.io.Unlock()
		close(b.done)
	}
	<-b.done
	return b.err
}

// write appends lines. The caller holds io.
func (j *journal) write(lines []byte, sync bool) error {
	if j.f == nil {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	_, err := j.f.Write(lines)
	if fault.Active("worker.journal") {
		err = errMade
	}
	// A write that a full disk refuses can be taken back whole, and tried again.
	for isFull(err) && j.f.Truncate(j.size) == nil && j.ballast.give() {
		_, err = j.f.Write(lines)
	}
	if err == nil && sync {
		err = j.f.Sync()
	}
	if err != nil {
		// After a failed write or sync nobody knows what is on the disk: nothing is
		// appended to that any more. What was refused is cut off, as well as it goes.
		_ = j.f.Truncate(j.size)
		_ = j.f.Close()
		j.f = nil
		return j.fail(fmt.Errorf("write task journal: %w", err))
	}
	j.size += int64(len(lines))
	return j.fail(nil)
}

// repair writes the journal anew if it is broken, or if it has grown past its limit.
func (j *journal) repair() error {
	j.io.Lock()
	defer j.io.Unlock()
	if j.f != nil && j.size < j.next {
		return j.fail(nil)
	}
	err := j.rewrite()
	if err != nil && j.f != nil {
		j.next = j.size + compactAt // no room for a second one: it goes on with the first
		return j.fail(nil)
	}
	return err
}

// rewrite puts a journal made from memory in place of the old one. The caller holds io.
func (j *journal) rewrite() error {
	if j.closed {
		return j.fail(errClosed)
	}
	err := j.own()
	if err == nil && j.damage {
		err = j.setAside()
	}
	var lines []byte
	if err == nil {
		lines, err = appendLines(nil, j.snapshot())
	}
	if err == nil {
		err = j.ballast.with(func() error { return j.replace(lines) })
	}
	if err != nil {
		return j.fail(fmt.Errorf("write task journal: %w", err))
	}
	j.size = int64(len(lines))
	j.next = max(compactAt, 2*j.size)
	return j.fail(nil)
}

func (j *journal) replace(lines []byte) error {
	tmp := j.path(newName)
	f, err := j.open(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|atomicfile.NoFollow)
	if err != nil {
		return err
	}
	_, err = f.Write(lines)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if j.f != nil { // Windows replaces no open file
		_ = j.f.Close()
		j.f = nil
	}
	if err := atomicfile.Rename(tmp, j.path(journalName)); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(j.dir); err != nil {
		return err
	}
	j.f, err = j.open(j.path(journalName), os.O_WRONLY|os.O_APPEND)
	return err
}

// setAside gives the damaged journal a second name, so that replacing it destroys nothing.
func (j *journal) setAside() error {
	base := corruptName + time.Now().UTC().Format("20060102T150405Z")
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		err := os.Link(j.path(journalName), j.path(name))
		info, _ := os.Lstat(j.path(journalName))
		switch {
		case errors.Is(err, fs.ErrExist) && n < 100:
			continue
		case err != nil && info != nil && info.IsDir(): // nothing of ours can be in it
			if err := atomicfile.Rename(j.path(journalName), j.path(name)); err != nil {
				return fmt.Errorf("set a directory at the journal's place aside: %w", err)
			}
		case err != nil:
			if err := copyFile(j.path(journalName), j.path(name)); err != nil { // a file system without links
				return fmt.Errorf("set the damaged journal aside: %w", err)
			}
		}
		j.damage = false
		j.mu.Lock()
		j.quarantined = j.path(name)
		j.mu.Unlock()
		return nil
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// fail notes the outcome of the last write, and gives it back.
func (j *journal) fail(err error) error {
	j.mu.Lock()
	j.err = err
	j.mu.Unlock()
	return err
}

// state is the file set aside and the last write's error.
func (j *journal) state() (quarantined string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.quarantined, j.err
}

// due tells whether the journal is to be written anew.
func (j *journal) due() bool {
	if !j.io.TryLock() {
		return false // busy: another turn will see it
	}
	defer j.io.Unlock()
	return !j.closed && (j.f == nil || j.size >= j.next)
}

// distrust makes the next write begin with a journal made from memory: what was
// taken back there may be in the file.
func (j *journal) distrust() {
	j.io.Lock()
	defer j.io.Unlock()
	if j.f != nil {
		_ = j.f.Close()
		j.f = nil
	}
}

// close ends writing; with unlock another may use the directory.
func (j *journal) close(unlock bool) error {
	j.io.Lock()
	defer j.io.Unlock()
	j.closed = true
	var err error
	if j.f != nil {
		err = errors.Join(j.f.Sync(), j.f.Close())
		j.f = nil
	}
	if unlock && j.lock != nil {
		err = errors.Join(err, j.lock.Release())
		j.lock = nil
	}
	return err
}
