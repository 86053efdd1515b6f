package versions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/internal/diskfree"
	"gururmm/internal/fault"
	"gururmm/release"
	"gururmm/wire"
)

const (
	stateFile = "current.json"
	// maxState bounds it in bytes before it is parsed.
	maxState = 256 << 10
	// slack is what must stay free on the disk, in bytes: journal, spool and log go on.
	slack = 64 << 20
	// partEnd marks a program that is not whole yet.
	partEnd = ".part"
)

// ErrSpace: the disk has no room for the program.
var ErrSpace = errors.New("not enough free space")

// ErrUnjudged: whether a program is what was signed can't be told now.
var ErrUnjudged = errors.New("can't be judged now")

// ErrSetAside: the state could not be understood, and is kept under another name.
var ErrSetAside = errors.New("set aside")

// Store is the directory of programs. Its methods are not safe for concurrent use,
// except Path.
type Store struct {
	dir  string
	free func(dir string) (uint64, error) // bytes
}

// New gives the store in dir, a private directory that need not exist yet.
func New(dir string) *Store {
	return &Store{dir: dir, free: diskfree.Free}
}

// StateFile is where [State] is kept.
func (s *Store) StateFile() string { return filepath.Join(s.dir, stateFile) }

// Path is where e's program lies.
func (s *Store) Path(e Entry) string {
	return filepath.Join(s.dir, name(e.Build), program())
}

func name(b wire.Build) string { return b.Version + "-" + b.SHA256[:8] }

func program() string {
	if runtime.GOOS == "windows" {
		return "gururmm-agent.exe"
	}
	return "gururmm-agent"
}

// Load reads the state. No file is a zero State. A file that can't be
// understood is set aside, and the error, which wraps [ErrSetAside], says where it is
// now: the installed program runs. After any other error the state is not known.
func (s *Store) Load() (State, error) {
	st, err := s.Look()
	if d, ok := errors.AsType[*damaged](err); ok {
		kept, qerr := atomicfile.Quarantine(s.StateFile(), time.Now())
		if qerr != nil {
			return State{}, fmt.Errorf("%w, and it can't be set aside: %w", err, qerr)
		}
		return State{}, fmt.Errorf("%s can't be understood and was kept as %s: %w", s.StateFile(), kept, errors.Join(d.err, ErrSetAside))
	}
	return st, err
}

// damaged says that the state can't be understood.
type damaged struct {
	file string
	err  error
}

func (d *damaged) Error() string { return d.file + " can't be understood: " + d.err.Error() }
func (d *damaged) Unwrap() error { return d.err }

// Look reads the state as [Store.Load] does, and changes nothing.
func (s *Store) Look() (State, error) {
	f, err := atomicfile.Open(s.StateFile())
	if errors.Is(err, atomicfile.ErrNotFile) {
		return State{}, &damaged{s.StateFile(), err}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return State{}, err
	}
	var st State
	if len(raw) > maxState {
		err = fmt.Errorf("larger than %d bytes", maxState)
	} else if err = json.Unmarshal(raw, &st); err == nil {
		err = st.validate()
	}
	if err != nil {
		return State{}, &damaged{s.StateFile(), err}
	}
	return st, nil
}

// Save writes the state: after it returns, it survives a power cut.
func (s *Store) Save(st State) error {
	if err := s.mkdir(); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(s.StateFile(), append(raw, '\n'), 0o600)
}

func (s *Store) mkdir() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("versions: %w", err)
	}
	return nil
}

// Verify checks e's program: that it is there, and is what a release key signed,
// for this platform. The error wraps [ErrUnjudged] if that is not known: without a
// key, or if the file can't be read for another reason than that it is not there.
func (s *Store) Verify(keys []release.Key, e Entry) error {
	err := s.verify(keys, e)
	_, path := errors.AsType[*fs.PathError](err)
	if errors.Is(err, release.ErrNoKeys) || path && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrUnjudged, err)
	}
	return err
}

func (s *Store) verify(keys []release.Key, e Entry) error {
	f, err := os.Open(s.Path(e))
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s is no regular file", s.Path(e)), err)
	}
	return verify(keys, f, e.Build)
}

func verify(keys []release.Key, f *os.File, b wire.Build) error {
	if b.OS != runtime.GOOS || b.Arch != runtime.GOARCH {
		return fmt.Errorf("%w: it is for %s/%s", release.ErrPlatform, b.OS, b.Arch)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := release.Verify(keys, f, b); err != nil {
		return err
	}
	return release.CheckPlatform(f, b)
}

// Room refuses a program that would fill the disk. The error wraps [ErrSpace].
func (s *Store) Room(b wire.Build) error {
	if err := s.mkdir(); err != nil {
		return err
	}
	free, err := s.free(s.dir)
	if err != nil {
		return fmt.Errorf("how much space is free is not known: %w", err)
	}
	if need := 2*uint64(b.Size) + slack; free < need {
		return fmt.Errorf("%w: %d MiB free at %s, %d MiB needed", ErrSpace, free>>20, s.dir, need>>20)
	}
	return nil
}

// Fetch brings b's program into the store, verified, unless it is there. Get
// writes what follows offset to w; what it wrote before an error is kept, and the next
// Fetch goes on from there. A program that does not verify is thrown away.
func (s *Store) Fetch(ctx context.Context, keys []release.Key, b wire.Build, get func(ctx context.Context, offset int64, w io.Writer) error) error {
	e := Entry{Build: b}
	if s.Verify(keys, e) == nil {
		return nil
	}
	if err := s.mkdir(); err != nil {
		return err
	}
	part := filepath.Join(s.dir, name(b)+partEnd)
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|atomicfile.NoFollow, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // again, after an error
	offset, err := f.Seek(0, io.SeekEnd)
	if err == nil && offset > b.Size {
		offset, err = 0, f.Truncate(0)
	}
	if err != nil {
		return err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	if offset < b.Size {
		if err := get(ctx, offset, f); err != nil {
			return errors.Join(err, f.Sync())
		}
	}
	err = verify(keys, f, b)
	if err != nil && offset > 0 { // what an earlier call left may be damaged: once more, whole
		if _, serr := f.Seek(0, io.SeekStart); serr != nil {
			return errors.Join(err, serr)
		}
		if terr := f.Truncate(0); terr != nil {
			return errors.Join(err, terr)
		}
		if gerr := get(ctx, 0, f); gerr != nil {
			return errors.Join(gerr, f.Sync())
		}
		err = verify(keys, f, b)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(part))
	}
	if runtime.GOOS != "windows" {
		err = f.Chmod(0o700)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	fault.Die("update.verified")
	return s.place(part, e)
}

// place moves a verified program to where it is run from.
func (s *Store) place(part string, e Entry) error {
	path := s.Path(e)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := atomicfile.Rename(part, path); err != nil {
		return err
	}
	return errors.Join(atomicfile.SyncDir(filepath.Dir(path)), atomicfile.SyncDir(s.dir))
}

// Prune removes all programs but those that st names and own, that of this process
// (nil: the installed one). What can't be removed (a
// program that still runs, on Windows) is left for the next time.
func (s *Store) Prune(st State, own *Entry) error {
	keep := map[string]bool{}
	for _, e := range []*Entry{st.Current, st.Previous, st.Next, own} {
		if e != nil {
			keep[name(e.Build)] = true
			keep[name(e.Build)+partEnd] = true
		}
	}
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed error
	for _, e := range entries {
		// Only what this package makes: names of versions.
		if keep[e.Name()] || !strings.HasPrefix(e.Name(), "v") || !e.IsDir() && !strings.HasSuffix(e.Name(), partEnd) {
			continue
		}
		failed = errors.Join(failed, os.RemoveAll(filepath.Join(s.dir, e.Name())))
	}
	return failed
}
