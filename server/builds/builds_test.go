package builds

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"gururmm/release"
	"gururmm/server/store"
	"gururmm/wire"
)

// program is an executable of this platform: the test itself.
var program = sync.OnceValues(func() ([]byte, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

type rig struct {
	*Shelf
	t    *testing.T
	st   store.Store
	dir  string
	key  release.PrivateKey
	pub  release.Key
	data []byte
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(filepath.Join(dir, "server.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	pub, key, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	data, err := program()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, st: st, dir: filepath.Join(dir, "builds"), key: key, pub: pub, data: data}
	r.open(pub)
	return r
}

func (r *rig) open(keys ...release.Key) {
	r.t.Helper()
	s, err := Open(r.t.Context(), r.dir, r.st, keys, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	r.Shelf = s
}

func (r *rig) sign(version, os, arch string) wire.Build {
	r.t.Helper()
	b, err := release.Sign(r.key, bytes.NewReader(r.data), version, os, arch)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) publish(b wire.Build) error {
	return r.Publish(r.t.Context(), b, bytes.NewReader(r.data), "ops")
}

// files are the names on the shelf.
func (r *rig) files() (names []string) {
	r.t.Helper()
	all, err := os.ReadDir(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range all {
		names = append(names, f.Name())
	}
	return names
}

func TestASignedProgramIsKeptAndGivenBack(t *testing.T) {
	r := newRig(t)
	b := r.sign("v1.2.3", runtime.GOOS, runtime.GOARCH)
	for range 2 { // the second changes nothing
		if err := r.publish(b); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Build != b || list[0].PublishedBy != "ops" || list[0].PublishedAt.IsZero() {
		t.Fatalf("%+v, %v", list, err)
	}
	f, got, err := r.Open(t.Context(), b.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if info, _ := f.Stat(); err != nil || !bytes.Equal(raw, r.data) || got.Build != b || info.Mode().Perm() != 0o600 {
		t.Errorf("%d bytes, %+v, %v", len(raw), got, err)
	}
	f.Close()
	if _, err := r.Remove(t.Context(), "v9.9.9"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a version that never was: %v", err)
	}
	if removed, err := r.Remove(t.Context(), "v1.2.3"); err != nil || len(removed) != 1 || len(r.files()) != 0 {
		t.Errorf("removed %v, %v; left %v", removed, err, r.files())
	}
	if _, _, err := r.Open(t.Context(), b.SHA256); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after its removal: %v", err)
	}
}

func TestWhatIsNotSignedForItIsRefusedAndLeavesNothing(t *testing.T) {
	r := newRig(t)
	good := r.sign("v1.2.3", runtime.GOOS, runtime.GOARCH)
	_, stranger, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := release.Sign(stranger, bytes.NewReader(r.data), "v1.2.3", runtime.GOOS, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	renamed := good
	renamed.Version = "v9.0.0"
	elsewhere := r.sign("v1.2.3", "plan9", "amd64")
	script, err := release.Sign(r.key, strings.NewReader("#!/bin/sh\n"), "v1.2.3", runtime.GOOS, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.Clone(r.data)
	altered[len(altered)/2] ^= 1
	for name, c := range map[string]struct {
		b    wire.Build
		data []byte
		says error
	}{
		"another key":                 {foreign, r.data, release.ErrSignature},
		"another version than signed": {renamed, r.data, release.ErrMismatch},
		"another platform's headers":  {elsewhere, r.data, release.ErrMismatch},
		"no program at all":           {script, []byte("#!/bin/sh\n"), release.ErrExecutable},
		"one bit is altered":          {good, altered, release.ErrContent},
		"cut short":                   {good, r.data[:len(r.data)-1], release.ErrContent},
		"too long":                    {good, append(bytes.Clone(r.data), 0), release.ErrContent},
	} {
		t.Run(name, func(t *testing.T) {
			err := r.Publish(t.Context(), c.b, bytes.NewReader(c.data), "ops")
			if !errors.Is(err, ErrRefused) || !errors.Is(err, c.says) {
				t.Errorf("%v", err)
			}
			if left := r.files(); len(left) != 0 {
				t.Errorf("left %v", left)
			}
		})
	}
	r.open() // no keys
	if err := r.publish(good); !errors.Is(err, ErrNoKeys) {
		t.Errorf("without a key: %v", err)
	}
}

func TestOneVersionIsOneProgram(t *testing.T) {
	r := newRig(t)
	if err := r.publish(r.sign("v1.2.3", runtime.GOOS, runtime.GOARCH)); err != nil {
		t.Fatal(err)
	}
	r.data = append(bytes.Clone(r.data), 0) // still an executable
	if err := r.publish(r.sign("v1.2.3", runtime.GOOS, runtime.GOARCH)); !errors.Is(err, ErrTaken) {
		t.Errorf("another program of that version: %v", err)
	}
	if err := r.publish(r.sign("v1.2.4", runtime.GOOS, runtime.GOARCH)); err != nil {
		t.Error(err)
	}
	if list, err := r.List(t.Context()); err != nil || len(list) != 2 || list[0].Version != "v1.2.4" {
		t.Errorf("newest first: %+v, %v", list, err)
	}
}

func TestAnInterruptedPublicationIsCleared(t *testing.T) {
	r := newRig(t)
	b := r.sign("v1.2.3", runtime.GOOS, runtime.GOARCH)
	if err := r.publish(b); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{partial + "123", strings.Repeat("ab", 32), "notes.txt"} {
		if err := os.WriteFile(filepath.Join(r.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.open(r.pub)
	if left := strings.Join(r.files(), " "); !strings.Contains(left, b.SHA256) || !strings.Contains(left, "notes.txt") || strings.Count(left, " ") != 1 {
		t.Errorf("left %s", left)
	}
}

// stalled is an upload that has begun and does not go on.
type stalled struct {
	begun chan struct{}
	once  sync.Once
	ctx   context.Context
}

func (s *stalled) Read([]byte) (int, error) {
	s.once.Do(func() { close(s.begun) })
	<-s.ctx.Done()
	return 0, io.ErrUnexpectedEOF
}

func TestUploadsAtOnceAreBounded(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	b := r.sign("v1.2.3", runtime.GOOS, runtime.GOARCH)
	for range maxUploads {
		slow := &stalled{begun: make(chan struct{}), ctx: ctx}
		all.Go(func() {
			if err := r.Publish(t.Context(), b, slow, "ops"); !errors.Is(err, ErrRefused) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
		})
		<-slow.begun
	}
	if err := r.publish(b); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	all.Wait()
	if err := r.publish(b); err != nil {
		t.Errorf("after they have ended: %v", err)
	}
}
