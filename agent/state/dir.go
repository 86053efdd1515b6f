package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"gururmm/internal/fileerr"
)

// Names of the files in the state directory.
const (
	identityFile = "identity.json"
	policyFile   = "policy.json"
	configFile   = "agent.yaml"
	// What an installation leaves there before there is an identity (Windows).
	OrderFile = "enroll.conf"  // an order to enroll
	NoteFile  = "package.note" // how the service was before an upgrade
	LogDir    = "log"
)

// maxIdentity and maxConfig bound those files in bytes before they are parsed.
const (
	maxIdentity = 1 << 20 // a CA bundle may be in it
	maxConfig   = 256 << 10
)

// Errors to branch on.
var (
	// ErrNotEnrolled: there is no identity yet.
	ErrNotEnrolled = errors.New("this endpoint is not enrolled")
	// ErrEnrolled: there is an identity (or a file that may hold one) already.
	ErrEnrolled = errors.New("this endpoint is enrolled already")
	// ErrNotPrivate: others can get at the state directory, and that can't be mended.
	ErrNotPrivate = errors.New("state directory is not private")
)

// CorruptError says that a file that is never reset can't be understood. It was
// left as it is.
type CorruptError struct {
	File string // full path
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s can't be understood and was left as it is: %v", e.File, e.Err)
}
func (e *CorruptError) Unwrap() error { return e.Err }

// QuarantinedError says that a file could not be used and was set aside, and
// that defaults are in force: a finding, not a failure.
type QuarantinedError struct {
	File string // full path it had
	Kept string // full path it has now; "" if it could not be renamed
	Err  error
}

func (e *QuarantinedError) Error() string {
	if e.Kept == "" {
		return fmt.Sprintf("%s is not usable (defaults are in force) and could not be set aside: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s is not usable (defaults are in force) and was kept as %s: %v", e.File, filepath.Base(e.Kept), e.Err)
}
func (e *QuarantinedError) Unwrap() error { return e.Err }

// Dir is an endpoint's state directory, private to the account it runs as.
type Dir struct{ path string }

// Open creates dir if need be, private to this account (0700; on Windows a
// protected access list of SYSTEM, Administrators and this account). A
// directory that others can get at is mended if it is empty or holds an identity
// of this account's, else refused with [ErrNotPrivate] and left as it is: others
// may need what is in it. Refused are also a symbolic link, one that belongs to
// somebody else, and one that anybody but root and this account may put another in the
// place of, by a directory above it (on Windows: by being the owner of the one right above).
func Open(dir string) (*Dir, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	err = makeParent(filepath.Dir(abs))
	if errors.Is(err, ErrNotPrivate) {
		return nil, err
	}
	if err == nil {
		err = makePrivate(abs)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("the state directory %s can't be made: %w; %s", abs, fileerr.Why(err), ElseRoot(err, elsewhere))
	}
	fi, err := os.Lstat(abs)
	if err != nil {
		return nil, unreadable(abs, err)
	}
	if !fi.IsDir() { // a link, a junction, a file
		return nil, noDirectory(abs, fi.Mode())
	}
	if err := ensurePrivate(abs); err != nil {
		return nil, err
	}
	return &Dir{path: abs}, nil
}

// elsewhere is what may be done where a state directory can't be.
const elsewhere = "name another directory with --state-dir"

// ElseRoot is what may be done about an error that [fileerr.Why] put in words, besides.
func ElseRoot(err error, besides string) string {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return "run this as root or as the account that the agent runs as, or " + besides
	}
	return besides
}

// unreadable says that dir is there, or not, and can't be looked at.
func unreadable(dir string, err error) error {
	return fmt.Errorf("the state directory %s can't be read: %w; %s", dir, fileerr.Why(err), ElseRoot(err, elsewhere))
}

func noDirectory(dir string, m fs.FileMode) error {
	return fileerr.Said(fmt.Sprintf("%s is not a directory but %s; name the agent's own directory with --state-dir", dir, kind(m)), ErrNotPrivate)
}

// taken reports whether a directory that others can get at, with these names in
// it, is in use for something else. own reports whether a file is this account's, or
// a more powerful one's.
func taken(names []string, shared bool, own func(name string) bool) bool {
	if slices.Contains(names, identityFile) && own(identityFile) {
		return false
	}
	ours := []string{OrderFile, NoteFile, LogDir}
	return shared || slices.ContainsFunc(names, func(n string) bool { return n != configFile && (!slices.Contains(ours, n) || !own(n)) })
}

func refuseTaken(dir string) error {
	return fmt.Errorf("%w: %s holds other files and others may read it; give a directory of its own", ErrNotPrivate, dir)
}

func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m.IsRegular():
		return "a file"
	}
	return "something else (" + m.Type().String() + ")"
}

// Path gives the full path of the file called name.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// read gives the file called name, of at most limit bytes. A link or a pipe is
// refused: opening the latter could block for ever.
func (d *Dir) read(name string, limit int64) ([]byte, error) {
	path := d.Path(name)
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, &CorruptError{path, fmt.Errorf("not a file but %s", kind(fi.Mode()))}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(raw)) > limit {
		return nil, &CorruptError{path, fmt.Errorf("larger than %d bytes", limit)}
	}
	return raw, nil
}
