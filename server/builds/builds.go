// Package builds keeps released programs: a file for each, named by its SHA-256,
// and its row in the store.
//
// Rules that hold here:
//   - the server holds no release key: a program is taken only with a signature by a
//     key that it was configured to trust, checked before a byte of it is read, and
//     again over all of its bytes;
//   - a program is an executable of the platform that its signature names;
//   - who sends slowly keeps nobody else waiting: see uploads;
//   - a file is whole or not there: written aside, synced, then given its name, and
//     only then recorded.
package builds

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/server/store"
	"gururmm/wire"
)

// Errors to branch on; store.ErrNotFound comes through.
var (
	// ErrNoKeys: this server trusts no release key.
	ErrNoKeys = errors.New("this server trusts no release key: start it with --release-key RW… (or a file with the public key); `gururmm update keygen` makes a pair")
	// ErrRefused: the program or its signature is not acceptable; the text says why.
	ErrRefused = errors.New("build refused")
	// ErrTaken: that version is another program already, for its platform.
	ErrTaken = errors.New("another program is published")
	// ErrSameBytes: that very program is published already, as another version or platform.
	ErrSameBytes = errors.New("the very same program is published already")
	// ErrBusy: others are being published.
	ErrBusy = errors.New("other builds are being published; try again")
)

// partial is how a file begins whose program is not whole yet.
const partial = ".partial-"

// Shelf holds the programs. All methods are safe for concurrent use.
type Shelf struct {
	dir     string
	st      store.Builds
	keys    []release.Key
	log     *slog.Logger
	uploads uploads
	// change orders what changes files and rows together.
	change sync.Mutex
	shared bool // with other nodes
}

// leftAfter is how old a file of a shared directory is before it counts as left behind:
// another node may be writing it.
const leftAfter = 24 * time.Hour

// Open opens the shelf in dir, made if need be, and clears what an interrupted
// publication has left. Programs signed with one of keys are taken.
func Open(ctx context.Context, dir string, st store.Builds, keys []release.Key, log *slog.Logger) (*Shelf, error) {
	return open(ctx, &Shelf{dir: dir, st: st, keys: keys, log: log})
}

// OpenShared is [Open] of a directory that several nodes have.
func OpenShared(ctx context.Context, dir string, st store.Builds, keys []release.Key, log *slog.Logger) (*Shelf, error) {
	return open(ctx, &Shelf{dir: dir, st: st, keys: keys, log: log, shared: true})
}

func open(ctx context.Context, s *Shelf) (*Shelf, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	return s, s.clear(ctx)
}

// clear removes files that have no row: nobody was told of them.
func (s *Shelf) clear(ctx context.Context) error {
	known, err := s.st.Builds(ctx)
	if err != nil {
		return err
	}
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		recorded := slices.ContainsFunc(known, func(b operator.Build) bool { return b.SHA256 == f.Name() })
		if recorded || !strings.HasPrefix(f.Name(), partial) && !hashed(f.Name()) {
			continue // what is not ours is left alone
		}
		if info, err := f.Info(); s.shared && (err != nil || time.Since(info.ModTime()) < leftAfter) {
			continue
		}
		s.log.Warn("removing what an interrupted publication has left", "file", f.Name())
		if err := os.Remove(filepath.Join(s.dir, f.Name())); err != nil {
			return err
		}
	}
	for _, b := range known {
		if info, err := os.Stat(s.path(b.SHA256)); err != nil || info.Size() != b.Size {
			s.log.Error("a published program's file is missing or cut: remove that version and publish it again", "version", b.Version, "os", b.OS, "arch", b.Arch, "sha256", b.SHA256)
		}
	}
	return nil
}

// hashed reports whether name can be that of a program.
func hashed(name string) bool {
	raw, err := hex.DecodeString(name)
	return err == nil && len(raw) == 32 && name == strings.ToLower(name)
}

func (s *Shelf) path(sha256 string) string { return filepath.Join(s.dir, sha256) }

// Keys are the public release keys, "RW…".
func (s *Shelf) Keys() []string {
	out := make([]string, len(s.keys))
	for i, k := range s.keys {
		out[i] = k.String()
	}
	return out
}

// Check finds out what can be known of b before its program is read, and whether it
// is published already.
func (s *Shelf) Check(ctx context.Context, b wire.Build) (known bool, err error) {
	if len(s.keys) == 0 {
		return false, ErrNoKeys
	}
	if err := release.Check(s.keys, b); err != nil {
		return false, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	all, err := s.st.Builds(ctx)
	if err != nil {
		return false, err
	}
	for _, o := range all {
		if o.Version == b.Version && o.OS == b.OS && o.Arch == b.Arch {
			if o.SHA256 != b.SHA256 {
				return false, fmt.Errorf("%w as %s for %s/%s; give this one a version of its own", ErrTaken, b.Version, b.OS, b.Arch)
			}
			return true, nil
		}
	}
	for _, o := range all {
		if o.SHA256 == b.SHA256 { // it tells one version of itself: as another it would fail each trial
			return false, fmt.Errorf("%w, as %s for %s/%s; build %s anew, so that the program says that it is that version (make agents VERSION=%s), sign and publish what that makes", ErrSameBytes, o.Version, o.OS, o.Arch, b.Version, b.Version)
		}
	}
	return false, nil
}

// Publish reads b's program to its end, checks it and keeps it. by is the operator
// token's name. To publish the same again changes nothing.
func (s *Shelf) Publish(ctx context.Context, b wire.Build, program Program, by string) error {
	known, err := s.Check(ctx, b)
	if err != nil || known {
		return err
	}
	coming, err := s.uploads.take(program)
	if err != nil {
		return err
	}
	defer coming.leave()
	tmp, err := s.take(b, coming)
	if errors.Is(err, ErrGaveWay) {
		return ErrGaveWay
	}
	if err != nil {
		return err
	}
	defer os.Remove(tmp) // renamed, if all is well
	s.change.Lock()
	defer s.change.Unlock()
	if err := atomicfile.Rename(tmp, s.path(b.SHA256)); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(s.dir); err != nil {
		return err
	}
	b.AllowDowngrade, b.GraceMS = false, 0 // an order's, not the program's
	_, err = s.st.CreateBuild(ctx, operator.Build{Build: b, PublishedBy: by, PublishedAt: time.Now().UTC().Truncate(time.Microsecond)})
	if errors.Is(err, store.ErrConflict) { // another publication was faster
		_, why := s.Check(ctx, b)
		return errors.Join(cmp.Or(why, fmt.Errorf("%w just now, as %s for %s/%s", ErrTaken, b.Version, b.OS, b.Arch)), s.drop(ctx, b.SHA256))
	}
	return err
}

// take writes program to a file aside, verified and synced.
func (s *Shelf) take(b wire.Build, program io.Reader) (path string, err error) {
	f, err := os.CreateTemp(s.dir, partial) // 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	// Errors of our own disk must not pass for a program that is not good.
	var broken error
	out := bufio.NewWriterSize(writerFunc(func(p []byte) (int, error) {
		n, err := f.Write(p)
		if err != nil {
			broken = err
		}
		return n, err
	}), 256<<10)
	err = release.Verify(s.keys, io.TeeReader(program, out), b)
	if err == nil {
		err = out.Flush()
	}
	switch {
	case broken != nil:
		return "", broken
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := release.CheckPlatform(f, b); err != nil {
		return "", fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return f.Name(), f.Sync()
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// List gives all builds, the newest version first.
func (s *Shelf) List(ctx context.Context) ([]operator.Build, error) {
	all, err := s.st.Builds(ctx)
	slices.SortStableFunc(all, func(a, b operator.Build) int { return release.Compare(b.Version, a.Version) })
	return all, err
}

// Open opens the program of that hash, for reading anywhere in it. The error is
// store.ErrNotFound if it is not published.
func (s *Shelf) Open(ctx context.Context, sha256 string) (*os.File, operator.Build, error) {
	all, err := s.st.Builds(ctx)
	if err != nil {
		return nil, operator.Build{}, err
	}
	i := slices.IndexFunc(all, func(b operator.Build) bool { return b.SHA256 == sha256 })
	if i < 0 {
		return nil, operator.Build{}, store.ErrNotFound
	}
	f, err := os.Open(s.path(sha256))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, all[i], fmt.Errorf("the file of build %s is gone from %s: remove the version and publish it again", all[i].Version, s.dir)
	}
	return f, all[i], err
}

// Remove forgets all programs of a version. A download that is under way ends well
// where the system lets an open file be removed.
func (s *Shelf) Remove(ctx context.Context, version string) (removed []operator.Build, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	all, err := s.st.Builds(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.st.DeleteBuilds(ctx, version); err != nil {
		return nil, err
	}
	var errs []error
	for _, b := range all {
		if b.Version == version {
			removed = append(removed, b)
			errs = append(errs, s.drop(ctx, b.SHA256))
		}
	}
	return removed, errors.Join(errs...)
}

// drop removes a file unless a row needs it. Call with change held.
func (s *Shelf) drop(ctx context.Context, sha256 string) error {
	all, err := s.st.Builds(ctx)
	if err != nil || slices.ContainsFunc(all, func(b operator.Build) bool { return b.SHA256 == sha256 }) {
		return err
	}
	if err := os.Remove(s.path(sha256)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
