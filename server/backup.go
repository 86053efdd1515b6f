package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/internal/diskfree"
	"gururmm/internal/fault"
	"gururmm/internal/version"
	"gururmm/server/backup"
	"gururmm/server/bundles"
	"gururmm/server/store"
	"gururmm/wire"
)

// BackupManifest says what is in a backup.
type BackupManifest = backup.Manifest

const (
	// inState and inConfig are where a backup has the state directory's files, and those
	// that the configuration names.
	inState, inConfig = "state/", "config/"
	// dirConfig is where the latter are restored to, below the state directory: their own
	// places are for the operator to fill.
	dirConfig = "restored-config"
	// dirRestoring holds what a restore has not put in its place yet.
	dirRestoring = "restoring"
	// spare is what a snapshot leaves free on its disk, in bytes: a server needs it more.
	spare = 256 << 20
)

// Files of the state directory that a backup has: those that it can't be without, and those
// that are there if the server made them. The lock is nobody's to keep.
var (
	needed   = []string{fileServerID, fileCommandKey, fileOOBKey, "oob.crt"}
	optional = []string{fileStarted, "main.key", "main.crt"}
)

// BackupOptions of [Backup].
type BackupOptions struct {
	// Scratch is a directory for a copy of the database while it runs; needed.
	Scratch        string
	WithoutBundles bool
	// Config are files that the server's configuration names, by what names them.
	Config map[string]string
}

// Backup writes to w what the server of cfg (StateDir, DatabaseURL) must not forget, private
// keys included. The server may be running. With a PostgreSQL the database is not in it: see
// Database of the manifest.
func Backup(ctx context.Context, cfg Config, w io.Writer, o BackupOptions) (m BackupManifest, err error) {
	dir := cfg.StateDir
	m = BackupManifest{Program: version.Version, StateDir: dir, WithoutBundles: o.WithoutBundles}
	m.Host, _ = os.Hostname() // for people
	if m.ServerID, err = known(dir); err != nil {
		return m, err
	}
	if cfg.DatabaseURL != "" {
		if m.Database, err = withoutSecrets(cfg.DatabaseURL); err != nil {
			return m, err
		}
	}
	// A program's row is in the database only while its file is there. Those of today are
	// held open, so that one that is removed meanwhile is in both or in none.
	programs, err := hold(filepath.Join(cfg.filesDir(), dirBuilds), nil)
	defer func() { programs.close() }()
	if err != nil {
		return m, err
	}
	var database string
	if m.Database == "" {
		if database, err = snapshot(ctx, dir, o.Scratch); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, os.Remove(database)) }()
	}
	if programs, err = hold(filepath.Join(cfg.filesDir(), dirBuilds), programs); err != nil { // and what came until now
		return m, err
	}
	a := archiving{ctx: ctx, w: backup.NewWriter(w, time.Now())}
	for _, name := range append(slices.Clone(needed), optional...) {
		if err := a.small(inState+name, "", filepath.Join(dir, name)); err != nil && !(errors.Is(err, fs.ErrNotExist) && slices.Contains(optional, name)) {
			return m, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.Config)) {
		if err := a.small(inConfig+key, o.Config[key], o.Config[key]); err != nil {
			return m, fmt.Errorf("%s: %w", key, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		if err := a.file(inState+dirBuilds+"/"+name, programs[name]); err != nil {
			return m, err
		}
	}
	if !o.WithoutBundles {
		if err := a.bundles(filepath.Join(cfg.filesDir(), dirBundles)); err != nil {
			return m, err
		}
	}
	if database != "" {
		f, err := os.Open(database)
		if err != nil {
			return m, err
		}
		defer f.Close()
		if err := a.file(inState+fileDatabase, f); err != nil {
			return m, err
		}
	}
	return a.w.Close(m)
}

// known gives the id of the server whose state is in dir, or says why there is none to back up.
func known(dir string) (string, error) {
	if err := halfRestored(dir); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, fileServerID)); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: no server has been started here yet", dir)
	}
	return serverID(dir)
}

// snapshot copies the database into a file in scratch.
func snapshot(ctx context.Context, dir, scratch string) (file string, err error) {
	path := filepath.Join(dir, fileDatabase)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not there; if the server runs with a PostgreSQL, name that by --database-url or --database-url-file", path)
	}
	if err := errors.Join(movedAway(dir), knowsItself(dir)); err != nil {
		return "", err
	}
	var size int64
	for _, name := range []string{path, path + "-wal"} {
		if info, err := os.Stat(name); err == nil {
			size += info.Size()
		}
	}
	free, err := diskfree.Free(scratch)
	if err != nil {
		return "", err
	}
	if free < uint64(size)+spare {
		return "", fmt.Errorf("a copy of the database takes up to %d MB meanwhile, and the disk of %s has %d MB free, of which %d stay free; free space, or write the backup to another disk",
			size>>20, scratch, free>>20, spare>>20)
	}
	file = filepath.Join(scratch, fileDatabase)
	if err = store.Snapshot(ctx, path, file); err == nil {
		err = store.Check(file)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		os.Remove(file)
	}
	return file, err
}

// held are open files, by name.
type held map[string]*os.File

func (h held) close() {
	for _, f := range h {
		f.Close() // it was only read
	}
}

// hold opens the files of dir beside those in h; of one that is not whole yet nobody was told.
func hold(dir string, h held) (held, error) {
	if h == nil {
		h = held{}
	}
	names, err := filesIn(dir)
	if err != nil {
		return h, err
	}
	for _, name := range names {
		if h[name] != nil || strings.HasPrefix(name, ".") {
			continue
		}
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			return h, err
		}
		h[name] = f
	}
	return h, nil
}

// filesIn lists the regular files of dir that the server may have made; none, if it is not there.
func filesIn(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if e.Type().IsRegular() && backup.Usable(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// archiving writes files to an archive, until ctx ends.
type archiving struct {
	ctx context.Context
	w   *backup.Writer
}

// small adds a file that may be written to meanwhile: it is read at once.
func (a archiving) small(name, from, path string) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, wire.MaxBundle+1))
	if err == nil && len(raw) > wire.MaxBundle {
		err = fmt.Errorf("%s is larger than %d bytes", path, wire.MaxBundle)
	}
	if err != nil {
		return err
	}
	return a.w.Add(name, from, int64(len(raw)), bytes.NewReader(raw))
}

// file adds one that stays as it is, from its beginning.
func (a archiving) file(name string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return a.w.Add(name, "", info.Size(), until{a.ctx, f})
}

// bundles adds those of endpoints, which have a directory each. The database was copied before them: of each they hold as
// much as it counts, or more, which the server cuts.
func (a archiving) bundles(dir string) error {
	agents, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, agent := range agents {
		if !agent.IsDir() || !backup.Usable(agent.Name()) {
			continue
		}
		names, err := filesIn(filepath.Join(dir, agent.Name()))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := a.bundle(dir, agent.Name(), name); err != nil {
				return err
			}
		}
	}
	return nil
}

// bundle adds one, also if it has become complete just now.
func (a archiving) bundle(dir, agent, name string) error {
	err := a.small(inState+dirBundles+"/"+agent+"/"+name, "", filepath.Join(dir, agent, name))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if whole, part := strings.CutSuffix(name, bundles.Partial); part {
		return a.bundle(dir, agent, whole)
	}
	return nil // removed, as older ones are
}

// until reads until ctx ends.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// withoutSecrets is a database's URL as pg_dump takes it, without passwords and without what
// means something to this program's driver only.
func withoutSecrets(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("database_url: want postgres://user@host:port/database")
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	query := u.Query()
	for key := range query {
		if key == "password" || key == "sslpassword" || strings.HasPrefix(key, "pool_") || slices.Contains([]string{"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity"}, key) {
			query.Del(key)
		}
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// VerifyBackup reads a backup to its end, and says whether it is whole.
func VerifyBackup(ctx context.Context, r io.Reader) (BackupManifest, error) {
	m, err := backup.Read(until{ctx, r}, func(string, io.Reader) error { return nil })
	return m, cmp.Or(ctx.Err(), err)
}

// halfRestored refuses a directory that a restore was cut off in.
func halfRestored(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, dirRestoring)); err == nil {
		return fmt.Errorf("%s: a restore has not come to its end here: if none is running, remove all that is in it, and restore again", dir)
	}
	return nil
}

// Restore unpacks a backup into the state directory dir, which must be empty or not there.
// Nothing is put in its place before all of the backup was read and found right.
func Restore(ctx context.Context, r io.Reader, dir string) (m BackupManifest, err error) {
	if err := empty(dir); err != nil {
		return m, err
	}
	if err := openState(dir); err != nil {
		return m, err
	}
	release, err := ownState(dir)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := empty(dir); err != nil { // meanwhile
		return m, err
	}
	aside := filepath.Join(dir, dirRestoring)
	if err := errors.Join(os.RemoveAll(aside), os.Mkdir(aside, 0o700)); err != nil {
		return m, err
	}
	if m, err = unpack(ctx, r, aside); err != nil {
		return m, errors.Join(err, os.RemoveAll(aside))
	}
	fault.Die("restore.unpacked")
	return m, put(aside, dir)
}

// empty refuses a directory with anything in it but a lock and what a restore, cut off before
// it put anything in its place, has left.
func empty(dir string) error {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	for _, e := range all {
		if e.Name() != fileLock && e.Name() != dirRestoring {
			if err := halfRestored(dir); err != nil {
				return err
			}
			return fmt.Errorf("%s is not empty (%s): a backup is restored to a directory of its own; name another, or move that away", dir, e.Name())
		}
	}
	return nil
}

// unpack writes the files of a backup below aside, synced, and checks them.
func unpack(ctx context.Context, r io.Reader, aside string) (m BackupManifest, err error) {
	root, err := os.OpenRoot(aside)
	if err != nil {
		return m, err
	}
	defer root.Close()
	m, err = backup.Read(until{ctx, r}, func(name string, content io.Reader) error {
		to, ok := strings.CutPrefix(name, inState)
		if !ok {
			if to, ok = strings.CutPrefix(name, inConfig); !ok {
				return nil // of a later version, which says so in its manifest's format if it matters
			}
			to = dirConfig + "/" + to
		}
		return write(root, to, content)
	})
	if err != nil {
		return m, cmp.Or(ctx.Err(), err)
	}
	for _, name := range needed {
		if _, err := root.Stat(name); err != nil {
			return m, fmt.Errorf("%w: %s is not in it", backup.ErrForeign, name)
		}
	}
	if m.Database == "" {
		return m, store.Check(filepath.Join(aside, fileDatabase))
	}
	return m, nil
}

func write(root *os.Root, name string, content io.Reader) (err error) {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	return f.Sync()
}

// put moves all that is in aside to dir. As long as aside is there no server starts.
func put(aside, dir string) error {
	all, err := os.ReadDir(aside)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(aside, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = atomicfile.SyncDir(path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := atomicfile.Rename(filepath.Join(aside, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
		fault.Die("restore.put")
	}
	if err := errors.Join(atomicfile.SyncDir(dir), os.Remove(aside)); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// RestoredConfig is where [Restore] has put a file of the configuration that has this name in
// the backup, below the state directory.
func RestoredConfig(name string) string {
	return filepath.Join(dirConfig, filepath.FromSlash(strings.TrimPrefix(name, inConfig)))
}
