package builds

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
	return r.Publish(r.t.Context(), b, whole{bytes.NewReader(r.data)}, "ops")
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
			err := r.Publish(t.Context(), c.b, whole{bytes.NewReader(c.data)}, "ops")
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

// A program says of itself which version it is: the same one can't be another version.
func TestTheSameProgramIsNoOtherVersion(t *testing.T) {
	r := newRig(t)
	if err := r.publish(r.sign("v1.2.3", runtime.GOOS, runtime.GOARCH)); err != nil {
		t.Fatal(err)
	}
	again := r.sign("v1.2.4", runtime.GOOS, runtime.GOARCH)
	said := "published already, as v1.2.3 for " + runtime.GOOS + "/" + runtime.GOARCH + "; build v1.2.4 anew"
	if _, err := r.Check(t.Context(), again); !errors.Is(err, ErrSameBytes) || !strings.Contains(err.Error(), said) {
		t.Errorf("before it is sent: %v", err)
	}
	if err := r.publish(again); !errors.Is(err, ErrSameBytes) {
		t.Errorf("sent: %v", err)
	}
	if list, err := r.List(t.Context()); err != nil || len(list) != 1 || list[0].Version != "v1.2.3" || !slices.Equal(r.files(), []string{again.SHA256}) {
		t.Errorf("kept %+v, %v, %v", list, r.files(), err)
	}
}

// whole is a program that is all there.
type whole struct{ io.Reader }

func (whole) Stop() {}

// line is an upload that brings so many bytes each second, or none, until it is stopped.
type line struct {
	r       io.Reader
	pace    int // bytes a second
	once    sync.Once
	stopped chan struct{}
}

func newLine(data []byte, pace int) *line {
	return &line{r: bytes.NewReader(data), pace: pace, stopped: make(chan struct{})}
}

func (l *line) Stop() { l.once.Do(func() { close(l.stopped) }) }

func (l *line) Read(b []byte) (int, error) {
	var next <-chan time.Time
	b = b[:min(len(b), l.pace)]
	if l.pace > 0 {
		next = time.After(time.Duration(len(b)) * time.Second / time.Duration(l.pace))
	}
	select {
	case <-next:
		return l.r.Read(b)
	case <-l.stopped:
		return 0, io.ErrUnexpectedEOF
	}
}

// Two that are slow keep no third one out, and two that are not do; who is slow is cut
// off only for another one's sake.
func TestASlowUploadGivesWayOnlyWhenItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		// own is a version with bytes of its own.
		own := func(version string) (wire.Build, []byte) {
			data := append(bytes.Clone(r.data), version...)
			b, err := release.Sign(r.key, bytes.NewReader(data), version, runtime.GOOS, runtime.GOARCH)
			if err != nil {
				t.Fatal(err)
			}
			return b, data
		}
		publish := func(version string) error {
			b, data := own(version)
			return r.Publish(t.Context(), b, whole{bytes.NewReader(data)}, "ops")
		}
		ended := func(version string, pace int) <-chan error {
			done := make(chan error, 1)
			b, data := own(version)
			l := newLine(data, pace)
			go func() { done <- r.Publish(t.Context(), b, l, "ops") }()
			t.Cleanup(l.Stop)
			return done
		}
		still := func(what string, done <-chan error) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("%s has ended: %v", what, err)
			default:
			}
		}
		slow, stalled := ended("v1.0.0", minPace/2), ended("v1.1.0", 0)
		time.Sleep(paceWindow / 2)
		if err := publish("v1.2.0"); !errors.Is(err, ErrBusy) || errors.Is(err, ErrGaveWay) {
			t.Errorf("before anything is known of their pace: %v", err)
		}
		time.Sleep(time.Minute)
		still("a slow one, while nobody needs its place,", slow)
		still("a stalled one, while nobody needs its place,", stalled)

		if err := publish("v1.2.0"); err != nil {
			t.Errorf("a third: %v", err)
		}
		if err := <-stalled; !errors.Is(err, ErrGaveWay) {
			t.Errorf("the slowest: %v", err)
		}
		still("the other one", slow)

		good := ended("v1.4.0", 4*minPace)
		time.Sleep(paceWindow + time.Second)
		better := ended("v1.5.0", 8*minPace)
		if err := <-slow; !errors.Is(err, ErrGaveWay) {
			t.Errorf("the slow one: %v", err)
		}
		time.Sleep(paceWindow + time.Second)
		if err := publish("v1.6.0"); !errors.Is(err, ErrBusy) {
			t.Errorf("while two come in well: %v", err)
		}
		for what, done := range map[string]<-chan error{"good": good, "better": better} {
			if err := <-done; err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if left := len(r.uploads.all); left != 0 {
			t.Errorf("%d places stay taken", left)
		}
		for _, file := range r.files() {
			if strings.HasPrefix(file, partial) {
				t.Errorf("%s is left", file)
			}
		}
	})
}
