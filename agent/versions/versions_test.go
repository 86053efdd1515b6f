package versions

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"gururmm/release"
	"gururmm/wire"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// rig is a store, a release key, and a program that is one: this very test.
type rig struct {
	*Store
	keys    []release.Key
	priv    release.PrivateKey
	program []byte
}

func newRig(t *testing.T) *rig {
	t.Helper()
	pub, priv, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	return &rig{New(filepath.Join(t.TempDir(), "versions")), []release.Key{pub}, priv, raw}
}

func (r *rig) build(t *testing.T, version string, program []byte) wire.Build {
	t.Helper()
	b, err := release.Sign(r.priv, bytes.NewReader(program), version, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// from gives program from offset on, at most most bytes at a time.
func from(program []byte, most int, calls *[]int64) func(context.Context, int64, io.Writer) error {
	return func(_ context.Context, offset int64, w io.Writer) error {
		*calls = append(*calls, offset)
		piece := program[offset:]
		if len(piece) > most {
			if _, err := w.Write(piece[:most]); err != nil {
				return err
			}
			return io.ErrUnexpectedEOF
		}
		_, err := w.Write(piece)
		return err
	}
}

func TestFetchedInPiecesVerifiedAndKept(t *testing.T) {
	r := newRig(t)
	b := r.build(t, "v1.2.3", r.program)
	var calls []int64
	get := from(r.program, len(r.program)/2+1, &calls)
	if err := r.Fetch(t.Context(), r.keys, b, get); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("half: %v", err)
	}
	if err := r.Verify(r.keys, Entry{Build: b}); err == nil {
		t.Fatal("half a program verifies")
	}
	if err := r.Fetch(t.Context(), r.keys, b, get); err != nil {
		t.Fatal(err)
	}
	if len(calls) != 2 || calls[0] != 0 || calls[1] != int64(len(r.program)/2+1) {
		t.Errorf("fetched from %v", calls)
	}
	info, err := os.Stat(r.Path(Entry{Build: b}))
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
		t.Errorf("program: %v, %v", info, err)
	}
	if err := r.Fetch(t.Context(), r.keys, b, get); err != nil || len(calls) != 2 {
		t.Errorf("fetched again: %v, %v", calls, err)
	}
	// A file that was changed afterwards is fetched anew, never run.
	if err := os.WriteFile(r.Path(Entry{Build: b}), r.program[:len(r.program)-1], 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(r.keys, Entry{Build: b}); !errors.Is(err, release.ErrContent) {
		t.Errorf("a changed program: %v", err)
	}
	if err := r.Fetch(t.Context(), r.keys, b, from(r.program, len(r.program), &calls)); err != nil || len(calls) != 3 {
		t.Errorf("mended: %v, %v", calls, err)
	}
}

func TestWhatDoesNotVerifyIsThrownAway(t *testing.T) {
	r := newRig(t)
	other := bytes.Clone(r.program)
	other[len(other)-1] ^= 1
	script := []byte("#!/bin/sh\n")
	foreign := r.build(t, "v1.0.0", r.program)
	foreign.OS = "plan9"
	for name, tt := range map[string]struct {
		b       wire.Build
		program []byte
		want    error
	}{
		"changed on the way":       {r.build(t, "v1.0.0", r.program), other, release.ErrContent},
		"signed, but no program":   {r.build(t, "v1.0.1", script), script, release.ErrExecutable},
		"for another platform":     {foreign, r.program, release.ErrPlatform},
		"signed by somebody else":  {newRig(t).build(t, "v1.0.2", r.program), r.program, release.ErrSignature},
		"signed for another build": {func() wire.Build { b := r.build(t, "v1.0.3", r.program); b.Version = "v9.0.0"; return b }(), r.program, release.ErrMismatch},
	} {
		var calls []int64
		if err := r.Fetch(t.Context(), r.keys, tt.b, from(tt.program, len(tt.program), &calls)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(r.Path(Entry{Build: tt.b})); err == nil {
			t.Errorf("%s: it lies where it could be run", name)
		}
	}
	left, err := filepath.Glob(filepath.Join(r.dir, "*"+partEnd))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestDiskIsNotFilled(t *testing.T) {
	r := newRig(t)
	b := wire.Build{Size: 10 << 20}
	r.free = func(string) (uint64, error) { return 84<<20 - 1, nil }
	if err := r.Room(b); !errors.Is(err, ErrSpace) {
		t.Errorf("too little: %v", err)
	}
	r.free = func(string) (uint64, error) { return 84 << 20, nil }
	if err := r.Room(b); err != nil {
		t.Errorf("enough: %v", err)
	}
}

// A state of an earlier or later version, damaged ones, none.
func TestStateIsReadOrSetAside(t *testing.T) {
	r := newRig(t)
	if st, err := r.Load(); err != nil || st.Current != nil {
		t.Fatalf("none: %+v, %v", st, err)
	}
	b := r.build(t, "v1.2.3", r.program)
	want := State{}.Fetch(b, Order{ID: "d1", Kind: wire.DirectiveUpdate}).Trial(true).Commit("v1.0.0", now)
	if err := r.Save(want); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(r.StateFile())
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(raw), "{", `{"a_field_of_a_later_version": {"x": 1},`, 1)
	if err := os.WriteFile(r.StateFile(), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := r.Load()
	if err != nil || got.Phase != PhaseHandover || !got.Current.Is(want.Current) || !got.Order.ByDoor {
		t.Fatalf("read back %+v, %v", got, err)
	}
	for name, text := range map[string]string{
		"torn": newer[:len(newer)/2], "empty": "", "path for a version": strings.ReplaceAll(newer, "v1.2.3", "../../evil"),
		"path for a hash": strings.ReplaceAll(newer, b.SHA256, strings.Repeat("/", 64)), "phase without a program": `{"phase":"trial"}`,
		"endless": strings.Repeat(" ", maxState+1),
	} {
		if err := os.WriteFile(r.StateFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := r.Load()
		if err == nil || st.Current != nil || !strings.Contains(err.Error(), ".corrupt-") {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		if _, err := os.Stat(r.StateFile()); err == nil {
			t.Errorf("%s: still in place", name)
		}
	}
}

func TestOnlyNamedProgramsStay(t *testing.T) {
	r := newRig(t)
	var es []*Entry
	for _, v := range []string{"v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0"} {
		b := r.build(t, v, r.program)
		var calls []int64
		if err := r.Fetch(t.Context(), r.keys, b, from(r.program, len(r.program), &calls)); err != nil {
			t.Fatal(err)
		}
		es = append(es, &Entry{Build: b})
	}
	if err := r.Save(State{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Prune(State{Current: es[3], Previous: es[1]}, es[0]); err != nil {
		t.Fatal(err)
	}
	for i, e := range es {
		if _, err := os.Stat(r.Path(*e)); (err == nil) != (i != 2) {
			t.Errorf("%s: %v", e.Version(), err)
		}
	}
	if _, err := os.Stat(r.StateFile()); err != nil {
		t.Error(err)
	}
}

// entry is a program for tests that run none.
func entry(version string) *Entry {
	return &Entry{Build: wire.Build{Version: version, SHA256: strings.Repeat("0", 64)}}
}

func TestWhichProgramStarts(t *testing.T) {
	good := func(Entry) error { return nil }
	bad := func(Entry) error { return errors.New("tampered with") }
	badNew := func(e Entry) error {
		if e.Build.Version == "v2.0.0" {
			return errors.New("tampered with")
		}
		return nil
	}
	order := &Order{ID: "d1", Kind: wire.DirectiveUpdate}
	for _, tt := range []struct {
		name      string
		s         State
		installed string
		check     func(Entry) error
		want      string // "": the installed one
		starts    int
		rolled    bool
		why       string
	}{
		{"nothing but the installed one", State{}, "v1.0.0", bad, "", 0, false, ""},
		{"an update", State{Current: entry("v2.0.0"), Installed: "v1.0.0"}, "v1.0.0", good, "v2.0.0", 1, false, "update to v2.0.0"},
		{"an unconfirmed one", State{Phase: PhaseHandover, Order: order, Current: entry("v2.0.0"), Starts: 2}, "v1.0.0", good, "v2.0.0", 3, false, "update to v2.0.0"},
		{"one that never confirms", State{Phase: PhaseHandover, Order: order, Current: entry("v2.0.0"), Previous: entry("v1.5.0"), Starts: 3}, "v1.0.0", good, "v1.5.0", 1, true, "did not confirm"},
		{"one that dies", State{Current: entry("v2.0.0"), Starts: 3}, "v1.0.0", good, "", 0, true, "died 3 times"},
		{"one that was changed", State{Current: entry("v2.0.0"), Previous: entry("v1.5.0")}, "v1.0.0", badNew, "v1.5.0", 1, true, "tampered"},
		{"both changed", State{Current: entry("v2.0.0"), Previous: entry("v1.5.0")}, "v1.0.0", bad, "", 0, true, "tampered"},
		{"a package upgrade", State{Current: entry("v2.0.0"), Installed: "v1.0.0"}, "v3.0.0", good, "", 0, false, "takes the place"},
		{"a package with the same version", State{Current: entry("v2.0.0"), Installed: "v1.0.0"}, "v2.0.0", bad, "", 0, false, "takes the place"},
		{"an older package", State{Current: entry("v2.0.0"), Installed: "v1.5.0"}, "v1.0.0", good, "v2.0.0", 1, false, ""},
		{"a downgrade that was ordered", State{Current: entry("v2.0.0"), Installed: "v3.0.0"}, "v3.0.0", good, "v2.0.0", 1, false, ""},
		{"a developer's build installed", State{Current: entry("v2.0.0"), Installed: "dev"}, "dev", good, "v2.0.0", 1, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, e, why, _ := Choose(tt.s, tt.installed, tt.check, now)
			if e.Version() != tt.want || s.Starts != tt.starts || !strings.Contains(why, tt.why) {
				t.Errorf("starts %q (%d), because %q", e.Version(), s.Starts, why)
			}
			if rolled := s.Last != nil && s.Last.RolledBack; rolled != tt.rolled {
				t.Errorf("outcome %+v", s.Last)
			}
			if err := s.validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Why a program was left is said of it as it is: neither with a limit that another phase
// has, nor with its version taken for a format.
func TestWhyAProgramWasLeft(t *testing.T) {
	for _, tt := range []struct {
		phase Phase
		want  string
	}{
		{PhaseNone, "v1.0.0-%d died 3 times in a row within 1m0s of its start"},
		{PhaseHandover, "v1.0.0-%d was started 3 times and did not confirm"},
	} {
		s, _, _, _ := Choose(State{Phase: tt.phase, Order: &Order{}, Current: entry("v1.0.0-%d"), Starts: maxStarts}, "dev", func(Entry) error { return nil }, now)
		if s.Last == nil || s.Last.Reason != tt.want {
			t.Errorf("outcome %+v, want %q", s.Last, tt.want)
		}
	}
}

// Whatever the state and whichever programs are damaged: a start is bounded, ends with a
// program that verifies or the installed one, and a program that always dies is
// left at last.
func TestEachStartEndsWithAProgramThatVerifies(t *testing.T) {
	all := []string{"v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0"}
	pick := func() *Entry {
		if i := rand.IntN(len(all) + 1); i < len(all) {
			return entry(all[i])
		}
		return nil
	}
	for range 5000 {
		damaged := map[string]bool{}
		for _, v := range all {
			damaged[v] = rand.IntN(3) == 0
		}
		check := func(e Entry) error {
			if damaged[e.Build.Version] {
				return errors.New("damaged")
			}
			return nil
		}
		s := State{
			Phase: []Phase{PhaseNone, PhaseFetch, PhaseTrial, PhaseHandover}[rand.IntN(4)], Next: entry("v4.0.0"),
			Order: &Order{ID: "d"}, Current: pick(), Previous: pick(), Starts: rand.IntN(6), Installed: all[rand.IntN(4)],
		}
		installed := all[rand.IntN(4)]
		for start := 0; ; start++ {
			var e *Entry
			if s, e, _, _ = Choose(s, installed, check, now); e == nil {
				break
			}
			if damaged[e.Build.Version] {
				t.Fatalf("damaged %s is started", e.Version())
			}
			if start > 2*maxStarts { // it dies each time
				t.Fatalf("%s is started for ever", e.Version())
			}
		}
		if s.Current != nil || s.validate() != nil {
			t.Fatalf("the installed program runs, but %+v", s)
		}
	}
}

func TestOutcomesOfAnOrder(t *testing.T) {
	b := wire.Build{Version: "v2.0.0", SHA256: strings.Repeat("0", 64), GraceMS: 1500}
	s := State{Current: entry("v1.0.0")}.Fetch(b, Order{ID: "d1"})
	if f := s.Fail("no space", now); f.Last.RolledBack || f.Phase != PhaseNone || f.Current.Version() != "v1.0.0" || len(f.Failed) != 0 {
		t.Errorf("refused: %+v", f)
	}
	trial := s.Trial(false)
	r := trial.RollBack("it crashed", now)
	if f, ok := r.FailedOrder("d1"); !ok || f.Reason != "it crashed" || !r.Last.RolledBack || r.Current.Version() != "v1.0.0" {
		t.Errorf("rolled back: %+v", r)
	}
	c := trial.Commit("v1.0.0", now)
	if c.Current.Version() != "v2.0.0" || c.Previous.Version() != "v1.0.0" || trial.Phase != PhaseTrial {
		t.Errorf("committed: %+v", c)
	}
	done := c.Confirm("v2.0.0", now)
	if !done.Last.Done || done.Last.Order.ID != "d1" || done.Phase != PhaseNone {
		t.Errorf("confirmed: %+v", done)
	}
	back := done.GoBack(Order{ID: "d2", Kind: wire.DirectiveRollback})
	if back.Current.Version() != "v1.0.0" || back.Previous != nil || back.Phase != PhaseHandover || back.Order.GraceMS != 1500 {
		t.Errorf("back: %+v", back)
	}
	many := s
	for range 2 * maxFailed {
		many = many.Fetch(b, Order{ID: "d"}).RollBack("again", now)
	}
	if len(many.Failed) != maxFailed {
		t.Errorf("%d failed ones are remembered", len(many.Failed))
	}
	if told := r.Tell(); !told.Last.Told || r.Last.Told {
		t.Error("telling changes what was there before")
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"phase":"handover","current":{"build":{"version":"v1.2.3","sha256":"` + strings.Repeat("0", 64) + `"}},"starts":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := New(filepath.Join(t.TempDir(), "v"))
		if err := s.mkdir(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.StateFile(), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := s.Load()
		if err != nil {
			return
		}
		st, e, _, _ := Choose(st, "v1.0.0", func(e Entry) error {
			if filepath.Dir(filepath.Dir(s.Path(e))) != s.dir {
				t.Fatalf("%q lies outside", s.Path(e))
			}
			return nil
		}, now)
		if e != nil && st.Starts > maxStarts {
			t.Fatalf("start %d", st.Starts)
		}
	})
}

func TestWhatCantBeJudgedIsNotBlamed(t *testing.T) {
	r := newRig(t)
	b := r.build(t, "v2.0.0", r.program)
	var calls []int64
	if err := r.Fetch(t.Context(), r.keys, b, from(r.program, len(r.program), &calls)); err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(nil, Entry{Build: b}); !errors.Is(err, ErrUnjudged) {
		t.Errorf("without keys: %v", err)
	}
	if err := r.Verify(newRig(t).keys, Entry{Build: b}); err == nil || errors.Is(err, ErrUnjudged) {
		t.Errorf("another key: %v", err)
	}
	if err := r.Verify(r.keys, *entry("v3.0.0")); err == nil || errors.Is(err, ErrUnjudged) {
		t.Errorf("a program that is not there: %v", err)
	}
	s := State{Current: &Entry{Build: b}, Previous: entry("v1.5.0"), Starts: 1}
	got, e, _, err := Choose(s, "v1.0.0", func(e Entry) error { return r.Verify(nil, e) }, now)
	if !errors.Is(err, ErrUnjudged) || e != nil || !got.Current.Is(s.Current) || got.Starts != 1 || got.Last != nil {
		t.Errorf("starts %v of %+v: %v", e, got, err)
	}
}

// What an interrupted download left may be damaged: it is fetched anew at once.
func TestDamagedPartIsFetchedAnew(t *testing.T) {
	r := newRig(t)
	b := r.build(t, "v2.0.0", r.program)
	var calls []int64
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, name(b)+partEnd), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Fetch(t.Context(), r.keys, b, from(r.program, len(r.program), &calls)); err != nil {
		t.Fatal(err)
	}
	if len(calls) != 2 || calls[0] != 1000 || calls[1] != 0 || r.Verify(r.keys, Entry{Build: b}) != nil {
		t.Errorf("asked from %v", calls)
	}
}
