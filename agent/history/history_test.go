package history

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/selfcheck"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func add(t *testing.T, l *Log, events ...Event) {
	t.Helper()
	for _, e := range events {
		if err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, dir string, f Filter) List {
	t.Helper()
	list, err := Read(dir, f)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func verdict(code string, at time.Time) Event {
	return Event{Kind: KindVerdict, Code: code, At: at, Sentence: "It is so.",
		Evidence: []selfcheck.Evidence{{Fact: "link.in", Seen: "3", Expected: "4"}}}
}

func TestWhatIsWrittenIsReadOldestFirst(t *testing.T) {
	dir := t.TempDir()
	if list := read(t, dir, Filter{}); len(list.Events) != 0 || !list.From.IsZero() {
		t.Fatalf("no history is %+v", list)
	}
	l := open(t, dir)
	add(t, l, verdict("ok", noon), verdict("link.silent", noon.Add(time.Hour)),
		Event{Kind: KindWorker, Code: "ended", At: noon.Add(2 * time.Hour), Sentence: "signal: killed"})
	for _, tt := range []struct {
		name string
		f    Filter
		want []string
	}{
		{"all", Filter{}, []string{"ok", "link.silent", "ended"}},
		{"newest", Filter{Last: 2}, []string{"link.silent", "ended"}},
		{"since", Filter{Since: noon.Add(time.Minute)}, []string{"link.silent", "ended"}},
		{"a code", Filter{Codes: []string{"link.silent"}}, []string{"link.silent"}},
		{"a family", Filter{Codes: []string{"link"}}, []string{"link.silent"}},
		{"not half a word", Filter{Codes: []string{"link.sil"}}, nil},
		{"a kind", Filter{Kinds: []Kind{KindWorker}}, []string{"ended"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, e := range read(t, dir, tt.f).Events {
				if e.ID == "" {
					t.Error("an event without an id")
				}
				got = append(got, e.Code)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	got := read(t, dir, Filter{Codes: []string{"ok"}}).Events[0]
	if !got.At.Equal(noon) || len(got.Evidence) != 1 || got.Evidence[0].Seen != "3" {
		t.Errorf("read back as %+v", got)
	}
}

func TestAnOutcomeIsFoundInItsStep(t *testing.T) {
	dir := t.TempDir()
	step := selfcheck.StepRecord{At: noon, Kind: selfcheck.StepReconnect, Verdict: selfcheck.CodeLinkTextLost}
	l := open(t, dir)
	add(t, l, Event{ID: StepID(step), At: noon, Kind: KindStep, Code: "reconnect", Verdict: selfcheck.CodeLinkTextLost})
	l.Close()
	// A restart between the two: the step as the state file gives it back.
	raw, err := json.Marshal(step)
	if err != nil {
		t.Fatal(err)
	}
	var again selfcheck.StepRecord
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	add(t, l, Event{Kind: KindOutcome, Of: StepID(again), At: noon.Add(time.Minute), Outcome: "helped: text went both ways"})
	list := read(t, dir, Filter{Codes: []string{"link.text"}, Since: noon.Add(30 * time.Second)})
	if len(list.Events) != 1 || list.Events[0].Outcome != "helped: text went both ways" || !list.Events[0].OutcomeAt.Equal(noon.Add(time.Minute)) {
		t.Fatalf("got %+v", list.Events)
	}
}

func TestAnOutcomeWhoseStepIsGoneStandsAlone(t *testing.T) {
	dir := t.TempDir()
	add(t, open(t, dir), Event{Kind: KindOutcome, Of: "gone", Outcome: "no better: silent"})
	if list := read(t, dir, Filter{}); len(list.Events) != 1 || list.Events[0].Kind != KindOutcome {
		t.Fatalf("got %+v", list)
	}
}

func TestAnEventWrittenTwiceIsShownOnce(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for range 2 {
		add(t, l, Event{ID: "same", Kind: KindUpdate, Code: "rolled_back"})
		add(t, l, Event{Kind: KindUpdate, Code: "ordered"})
	}
	if list := read(t, dir, Filter{}); len(list.Events) != 3 || list.Events[0].ID != "same" {
		t.Fatalf("got %+v", list.Events)
	}
}

func TestFlappingIsCountedNotWritten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	const times = 5000 // over three hours and a half
	for i := range times {
		at := noon.Add(time.Duration(i) * 2500 * time.Millisecond)
		add(t, l, verdict("ok", at), verdict("link.silent", at.Add(time.Second)))
	}
	last := noon.Add((times-1)*2500*time.Millisecond + time.Second)
	info, err := os.Stat(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 32<<10 {
		t.Errorf("%d events took %d bytes", 2*times, info.Size())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	list := read(t, dir, Filter{Codes: []string{"link.silent"}})
	if len(list.Events) != burst {
		t.Fatalf("%d events in the list, want %d", len(list.Events), burst)
	}
	got := list.Events[burst-1]
	if got.Count != times-burst+1 || !got.Last.Equal(last) {
		t.Errorf("counted %d, last %v; want %d, %v", got.Count, got.Last, times-burst+1, last)
	}
	// The count is what Since goes by, too.
	if n := len(read(t, dir, Filter{Since: last, Codes: []string{"link.silent"}}).Events); n != 1 {
		t.Errorf("%d events happened at the end, want 1", n)
	}
}

func TestASeriesEndsWithAQuietWhile(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for i := range burst + 3 {
		add(t, l, verdict("link.silent", noon.Add(time.Duration(i)*time.Second)))
	}
	later := noon.Add(quiet + time.Minute)
	add(t, l, verdict("link.silent", later))
	list := read(t, dir, Filter{})
	if n := len(list.Events); n != burst+1 {
		t.Fatalf("%d events, want %d", n, burst+1)
	}
	if got := list.Events[burst-1].Count; got != 4 {
		t.Errorf("the series counts %d when it has ended, want 4", got)
	}
	if got := list.Events[burst]; got.Count > 1 || !got.At.Equal(later) {
		t.Errorf("what came after it is %+v", got)
	}
}

// What a full disk did not take is handed in again: it is neither kept nor counted before.
func TestWhatWasNotWrittenIsNotCounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	fails := func(l *Log, e Event) {
		t.Helper()
		if err := l.Add(e); err == nil {
			t.Fatalf("%s %s is kept by a directory that is not there", e.Kind, e.Code)
		}
	}
	away := func(l *Log) { // as a rotation that failed half way leaves it
		t.Helper()
		if err := l.file.Close(); err != nil {
			t.Fatal(err)
		}
		l.file = nil
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
	}
	back := func() {
		t.Helper()
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir)
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) }
	away(l)
	for range burst + 2 {
		fails(l, verdict("link.silent", at(0)))
	}
	back()
	for i := range burst + 1 { // the last is the first to be counted, and a power of two at that
		if i == burst {
			away(l)
			fails(l, verdict("link.silent", at(i)))
			back()
		}
		add(t, l, verdict("link.silent", at(i)))
	}
	add(t, l, verdict("link.silent", at(burst+1)))
	away(l)
	fails(l, verdict("ok", at(3600))) // with it the series is to end
	back()
	add(t, l, verdict("ok", at(3600)))
	list := read(t, dir, Filter{})
	if n := len(list.Events); n != burst+1 || list.Events[burst-1].Count != 3 || list.Events[burst].Code != "ok" {
		t.Errorf("%d events: %+v", n, list.Events)
	}
}

func TestTheFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	long := strings.Repeat("ä", 4000)
	for i := range 4000 {
		add(t, l, Event{Kind: KindWorker, Code: fmt.Sprint("end", i), At: noon.Add(time.Duration(i) * time.Minute), Sentence: long})
	}
	var sum int64
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
		if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if len(entries) != 2 || sum > 2*maxFile || sum < maxFile {
		t.Errorf("%d files of together %d bytes", len(entries), sum)
	}
	list := read(t, dir, Filter{})
	n := len(list.Events)
	if list.Garbled > 0 || n == 0 || list.Events[n-1].Code != "end3999" || !list.From.Equal(list.Events[0].At) {
		t.Errorf("%d events, %d garbled", n, list.Garbled)
	}
	for i := 1; i < n; i++ {
		if list.Events[i].At.Sub(list.Events[i-1].At) != time.Minute {
			t.Fatalf("between %v and %v something is missing", list.Events[i-1].Code, list.Events[i].Code)
		}
	}
	if got := list.Events[n-1].Sentence; len(got) > maxText || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("a long sentence became %d bytes", len(got))
	}
}

func TestATornLineCostsItselfOnly(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	add(t, l, verdict("ok", noon))
	l.Close()
	f, err := os.OpenFile(filepath.Join(dir, File), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"id":"x","kind":"verd`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if list := read(t, dir, Filter{}); len(list.Events) != 1 || list.Garbled != 0 {
		t.Errorf("before the next start: %+v", list)
	}
	add(t, open(t, dir), verdict("link.silent", noon.Add(time.Second)))
	if list := read(t, dir, Filter{}); len(list.Events) != 2 || list.Garbled != 1 {
		t.Errorf("after it: %+v", list)
	}
}

func TestGarbageIsSteppedOver(t *testing.T) {
	dir := t.TempDir()
	garbage := strings.Repeat("x", 3*maxLine) + "\n[1,2]\n\x00\xff\n{}\nnull\n" + `{"id":"a","kind":"clock","at":"2026-03-01T12:00:00Z"}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, File), []byte(garbage), 0o600); err != nil {
		t.Fatal(err)
	}
	if list := read(t, dir, Filter{}); len(list.Events) != 1 || list.Garbled != 5 {
		t.Errorf("got %+v", list)
	}
}

func TestFollowSeesEachEventOnceAcrossARotation(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	add(t, l, verdict("before", noon))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const events = 60
	var got []string
	var follower sync.WaitGroup
	var failed error
	ready := make(chan struct{})
	follower.Go(func() {
		failed = Follow(ctx, dir, Filter{Kinds: []Kind{KindWorker}}, func(e Event) error {
			if e.Kind == KindOutcome { // passes any filter: its step may have been shown
				select {
				case <-ready:
				default:
					close(ready)
				}
				return nil
			}
			got = append(got, e.Code)
			if len(got) == events {
				cancel()
			}
			return nil
		})
	})
	for on := false; !on; { // until the follower is seen to follow
		add(t, l, Event{Kind: KindOutcome, Of: "none", Outcome: "none"})
		select {
		case <-ready:
			on = true
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("never followed")
		}
	}
	for i := range events {
		if i == events/2 {
			l.mu.Lock()
			err := l.rotate()
			l.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
		}
		add(t, l, Event{Kind: KindWorker, Code: fmt.Sprint(i)}, verdict(fmt.Sprint("other", i), time.Now()))
	}
	follower.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	for i, code := range got {
		if code != fmt.Sprint(i) {
			t.Fatalf("event %d is %q", i, code)
		}
	}
	if len(got) != events {
		t.Errorf("%d events, want %d", len(got), events)
	}
}

func TestADirectoryThatIsNotThereIsSaid(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "history") {
		t.Errorf("error %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"id":"a","kind":"step"}` + "\n" + `{"kind":"outcome","of":"a","outcome":"x"}` + "\n{"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, File), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := Read(dir, Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if most := strings.Count(string(raw), "\n"); len(list.Events)+list.Garbled > most {
			t.Errorf("%d events and %d garbled lines out of %d", len(list.Events), list.Garbled, most)
		}
		add(t, open(t, dir), verdict("ok", noon))
		if got := read(t, dir, Filter{}); got.Events[len(got.Events)-1].Code != "ok" {
			t.Error("what was added is not the last")
		}
	})
}
