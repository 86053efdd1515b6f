package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/server/backup"
	"gururmm/server/store"
	"gururmm/server/store/pgtest"
)

// A backup that was made while the server was written to is one moment of it, and is a
// server again: with its keys, its tokens, its programs and bundles. Nothing of the state
// directory is forgotten but what is nobody's to keep.
func TestABackupIsTheServer(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	n := start(t, false, nil)
	first, dir := n.Info(), n.cfg.StateDir
	program := []byte("a program")
	sum := sha256.Sum256(program)
	for path, content := range map[string][]byte{
		filepath.Join(dirBuilds, hex.EncodeToString(sum[:])): program,
		filepath.Join(dirBundles, "agent", "b1"):             []byte("a bundle"),
		filepath.Join(dirBundles, "agent", "b2.part"):        []byte("the half of one"),
		filepath.Join(dirBuilds, ".partial-1"):               []byte("nobody was told of this"),
	} {
		file := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	b := operator.Build{}
	b.Version, b.OS, b.Arch, b.SHA256, b.Size = "v1.0.0", "linux", "amd64", hex.EncodeToString(sum[:]), int64(len(program))
	if _, err := n.store.CreateBuild(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "gururmm.yaml")
	if err := os.WriteFile(config, []byte("listen: :1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	writing, stop := context.WithCancel(t.Context())
	wrote := make(chan int, 1)
	began := make(chan struct{})
	go func() {
		i := 0
		for ; writing.Err() == nil; i++ {
			if err := n.store.CreateOperatorToken(t.Context(), fmt.Sprint("t", i), store.HashToken(fmt.Sprint(i)), time.Now()); err != nil {
				t.Error(err)
			}
			if i == 10 {
				close(began)
			}
		}
		wrote <- i
	}()
	<-began
	var archive bytes.Buffer
	scratch := t.TempDir()
	m, err := Backup(t.Context(), Config{StateDir: dir}, &archive, BackupOptions{Scratch: scratch, Config: map[string]string{"config": config}})
	stop()
	if total := <-wrote; err != nil || total < 11 {
		t.Fatalf("%d writes: %v", total, err)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch directory: %v, %v", left, err)
	}
	if v, err := VerifyBackup(t.Context(), bytes.NewReader(archive.Bytes())); err != nil || v.ServerID != m.ServerID || len(v.Files) != len(m.Files) {
		t.Errorf("verified: %+v, %v", v, err)
	}
	forgotten(t, dir, m)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "made", "anew")
	if _, err := Restore(t.Context(), bytes.NewReader(archive.Bytes()), again); err != nil {
		t.Fatal(err)
	}
	private(t, again)
	if raw, err := os.ReadFile(filepath.Join(again, RestoredConfig("config/config"))); err != nil || string(raw) != "listen: :1\n" {
		t.Errorf("the configuration: %q, %v", raw, err)
	}
	for path, content := range map[string]string{"builds/" + b.SHA256: "a program", "bundles/agent/b1": "a bundle", "bundles/agent/b2.part": "the half of one"} {
		if raw, err := os.ReadFile(filepath.Join(again, path)); err != nil || string(raw) != content {
			t.Errorf("%s: %q, %v", path, raw, err)
		}
	}
	n = start(t, false, func(c *Config) { c.StateDir = again })
	if n.Info().OperatorToken != "" || n.Info().Pin != first.Pin || n.Info().OOBPin != first.OOBPin {
		t.Errorf("it began anew: %+v", n.Info())
	}
	if status, _, raw := n.request("GET", n.Info().URL+"/v1/agents", first.OperatorToken, nil); status != 200 {
		t.Errorf("the first token: %d %s", status, raw)
	}
	tokens, err := OperatorTokens(t.Context(), n.cfg, log)
	if err != nil || len(tokens) < 11 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
	for i := range len(tokens) - 1 { // up to one moment, and without a gap
		if !slices.ContainsFunc(tokens, func(o store.OperatorToken) bool { return o.Name == fmt.Sprint("t", i) }) {
			t.Errorf("token %d of %d is missing", i, len(tokens))
		}
	}
}

// forgotten fails for what is in dir and not in the backup.
func forgotten(t *testing.T, dir string, m BackupManifest) {
	t.Helper()
	except := []string{fileLock, fileDatabase + "-wal", fileDatabase + "-shm", "builds/.partial-1"}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		name = filepath.ToSlash(name)
		in := slices.ContainsFunc(m.Files, func(f backup.File) bool { return f.Name == inState+name })
		if in == slices.Contains(except, name) {
			t.Errorf("%s: in the backup %v", name, in)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// private fails for what others may read below dir.
func private(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil || runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestARestoreOverwritesNothing(t *testing.T) {
	n := start(t, false, nil)
	dir := n.cfg.StateDir
	var archive bytes.Buffer
	if _, err := Backup(t.Context(), Config{StateDir: dir}, &archive, BackupOptions{Scratch: t.TempDir(), WithoutBundles: true}); err != nil {
		t.Fatal(err)
	}
	restore := func(raw []byte, dir, says string) {
		t.Helper()
		if _, err := Restore(t.Context(), bytes.NewReader(raw), dir); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
	}
	whole := archive.Bytes()
	restore(whole, dir, "is not empty")
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	restore(whole, dir, "is not empty")

	// Nothing of what is not right is there afterwards.
	free := t.TempDir()
	turned := bytes.Clone(whole)
	turned[len(turned)/2] ^= 0xff
	restore(turned, free, "damaged")
	restore(whole[:len(whole)-1], free, "its end is missing")
	restore([]byte("no archive"), free, "not a backup")
	var foreign bytes.Buffer
	w := backup.NewWriter(&foreign, time.Now())
	if err := w.Add("state/server.id", "", 0, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(backup.Manifest{}); err != nil {
		t.Fatal(err)
	}
	restore(foreign.Bytes(), free, "command.key is not in it")
	if left, err := os.ReadDir(free); err != nil || len(left) != 1 || left[0].Name() != fileLock {
		t.Errorf("left: %v, %v", left, err)
	}
	release, err := ownState(free)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), bytes.NewReader(whole), free); !errors.Is(err, errInUse) {
		t.Errorf("in use: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	// Cut off while it unpacked: it begins anew. While it put things in their places: nobody
	// takes what is there for all of it.
	if err := os.MkdirAll(filepath.Join(free, dirRestoring, dirBuilds), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), bytes.NewReader(whole), free); err != nil {
		t.Errorf("behind one that was cut off: %v", err)
	}
	if err := os.Mkdir(filepath.Join(free, dirRestoring), 0o700); err != nil {
		t.Fatal(err)
	}
	const half = "a restore has not come to its end here"
	restore(whole, free, half)
	cfg := Config{ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0", StateDir: free}
	if s, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), half) {
		if err == nil {
			s.Close()
		}
		t.Errorf("started on the half of one: %v", err)
	}
	if _, err := Backup(t.Context(), cfg, io.Discard, BackupOptions{Scratch: t.TempDir()}); err == nil || !strings.Contains(err.Error(), half) {
		t.Errorf("a backup of the half of one: %v", err)
	}
	if _, err := Backup(t.Context(), Config{StateDir: t.TempDir()}, io.Discard, BackupOptions{Scratch: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no server has been started") {
		t.Errorf("of nothing: %v", err)
	}
}

// With a PostgreSQL the archive has all but the database, and names that without a secret.
func TestABackupBesidePostgres(t *testing.T) {
	db := pgtest.Shared(t)
	url := db.Database(t)
	n := start(t, false, func(c *Config) { c.DatabaseURL = url })
	secret := strings.Replace(url, "gururmm@", "gururmm:secret@", 1) + "&pool_max_conns=3&sslpassword=secret2"
	cfg := Config{StateDir: n.cfg.StateDir}
	if _, err := Backup(t.Context(), cfg, io.Discard, BackupOptions{Scratch: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "--database-url") {
		t.Errorf("without its URL: %v", err)
	}
	cfg.DatabaseURL = secret
	var archive bytes.Buffer
	m, err := Backup(t.Context(), cfg, &archive, BackupOptions{Scratch: t.TempDir()})
	if err != nil || m.Database != url {
		t.Fatalf("database %q, want %q: %v", m.Database, url, err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	again := t.TempDir()
	if _, err := Restore(t.Context(), bytes.NewReader(archive.Bytes()), again); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(again, fileDatabase)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a database: %v", err)
	}
	if err := start(t, false, func(c *Config) { c.StateDir, c.DatabaseURL = again, url }).stop(); err != nil {
		t.Error(err)
	}
}
