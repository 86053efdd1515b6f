package oob_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gururmm/oob"
	"gururmm/selfcheck"
)

func openSpool(t testing.TB, dir string, maxBytes int64, maxReports int) *oob.Spool {
	t.Helper()
	s, err := oob.OpenSpool(dir, maxBytes, maxReports)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *oob.Spool, id string, severity selfcheck.Severity) {
	t.Helper()
	if err := s.Put(sample(id, severity)); err != nil {
		t.Fatal(err)
	}
}

// drain takes all reports and gives their ids and the drops they told of.
func drain(t testing.TB, s *oob.Spool) (ids []string, dropped int) {
	t.Helper()
	for {
		id, r, ok := s.Next()
		if !ok {
			return ids, dropped
		}
		ids, dropped = append(ids, r.ReportID), dropped+r.Dropped
		if err := s.Done(id); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	ill  = selfcheck.SeverityError
	well = selfcheck.SeverityWell
)

func TestSpoolKeepsOrderAcrossRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	var want []string
	for run := range 3 {
		s := openSpool(t, dir, 0, 0)
		for i := range 5 {
			id := fmt.Sprintf("%d.%d", run, i)
			put(t, s, id, []selfcheck.Severity{ill, well}[i%2])
			want = append(want, id)
		}
	}
	s := openSpool(t, dir, 0, 0)
	if s.Len() != len(want) || s.Dropped() != 0 {
		t.Fatalf("%d kept, %d dropped", s.Len(), s.Dropped())
	}
	// Not done, it comes again.
	for range 2 {
		if _, r, ok := s.Next(); !ok || r.ReportID != want[0] {
			t.Fatalf("next is %q, %v", r.ReportID, ok)
		}
	}
	if got, dropped := drain(t, s); fmt.Sprint(got) != fmt.Sprint(want) || dropped != 0 {
		t.Errorf("got %v (%d dropped), want %v", got, dropped, want)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 || files[0].Name() != "sent" {
		t.Errorf("left behind: %v", files)
	}
}

// What a bundle tells of reports: the last that arrived, and those that wait.
func TestSpoolIsReadFromBeside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	if kept, err := oob.ReadSpool(dir, 4); len(kept) != 0 || err != nil {
		t.Errorf("no spool: %v, %v", kept, err)
	}
	s := openSpool(t, dir, 0, 0)
	for i := range 20 {
		put(t, s, fmt.Sprint("sent.", i), well)
	}
	drain(t, s)
	for i := range 3 {
		put(t, s, fmt.Sprint("waits.", i), ill)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "sent")); err != nil || len(files) != 16 {
		t.Errorf("%d reports that arrived are kept (%v), want 16", len(files), err)
	}
	kept, err := oob.ReadSpool(dir, 4)
	var got []string
	for _, k := range kept {
		if k.Sent != strings.HasPrefix(k.Report.ReportID, "sent") {
			t.Errorf("%s: sent is %v", k.Report.ReportID, k.Sent)
		}
		got = append(got, k.Report.ReportID)
	}
	if want := "[sent.16 sent.17 sent.18 sent.19 waits.0 waits.1 waits.2]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v (%v), want %s", got, err, want)
	}
	// It is read only: the spool goes on as if nobody had looked.
	if again := openSpool(t, dir, 0, 0); again.Len() != 3 || again.Dropped() != 0 {
		t.Errorf("after a look %d wait, %d dropped", again.Len(), again.Dropped())
	}
}

func TestSpoolDropsTheOldestHealthyFirst(t *testing.T) {
	for _, c := range []struct {
		name string
		put  string // w or i each, oldest first
		max  int
		want string // numbers kept
	}{
		{"healthy go first", "iwwi", 3, "[0 2 3]"},
		{"then the next healthy", "iwwii", 3, "[0 3 4]"},
		{"then the oldest", "iiii", 3, "[1 2 3]"},
		{"the newest stays, though healthy", "iiiw", 3, "[1 2 3]"},
		{"and goes at the next", "iiiwi", 3, "[1 2 4]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openSpool(t, t.TempDir(), 0, c.max)
			for i, kind := range c.put {
				put(t, s, fmt.Sprint(i), map[rune]selfcheck.Severity{'w': well, 'i': ill}[kind])
			}
			lost := len(c.put) - c.max
			if s.Dropped() != lost || s.Len() != c.max {
				t.Errorf("%d dropped, %d kept", s.Dropped(), s.Len())
			}
			if got, dropped := drain(t, s); fmt.Sprint(got) != c.want || dropped != lost {
				t.Errorf("kept %v, told of %d dropped; want %s, %d", got, dropped, c.want, lost)
			}
			if s.Dropped() != 0 {
				t.Errorf("still %d dropped after they were told", s.Dropped())
			}
		})
	}
}

func TestSpoolIsBoundedInBytes(t *testing.T) {
	dir := t.TempDir()
	const limit = 20 << 10
	s := openSpool(t, dir, limit, 0)
	for i := range 20 {
		r := sample(fmt.Sprint(i), ill)
		r.Verdict.Sentence = noise(t, 4<<10)
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	var total int64
	files, err := filepath.Glob(filepath.Join(dir, "*.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		total += fi.Size()
	}
	if total > limit || s.Len() != len(files) || s.Len()+s.Dropped() != 20 || s.Len() < 4 {
		t.Errorf("%d bytes in %d files, %d kept, %d dropped", total, len(files), s.Len(), s.Dropped())
	}
	// A smaller bound at the next start holds at once.
	if s = openSpool(t, dir, limit/2, 0); s.Len()+s.Dropped() != 20 || s.Len() > 3 {
		t.Errorf("%d kept, %d dropped", s.Len(), s.Dropped())
	}
}

// The count of what was dropped survives a restart, is told by one report until that
// has arrived, and what is dropped meanwhile is told by the next.
func TestSpoolTellsEachDropOnce(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, 0, 2)
	for i := range 5 {
		put(t, s, fmt.Sprint(i), ill) // 3 and 4 stay
	}
	s = openSpool(t, dir, 0, 2)
	if s.Dropped() != 3 {
		t.Fatalf("%d dropped after a restart", s.Dropped())
	}
	id, r, _ := s.Next()
	if r.ReportID != "3" || r.Dropped != 3 {
		t.Fatalf("next is %s with %d", r.ReportID, r.Dropped)
	}
	// It was sent, and the process died before it knew: told again, it must say the
	// same, since the server reads a report once.
	s = openSpool(t, dir, 0, 3)
	put(t, s, "5", ill)
	if again, r, _ := s.Next(); again != id || r.Dropped != 3 {
		t.Fatalf("told again as %s with %d", again, r.Dropped)
	}
	if err := s.Done(id); err != nil {
		t.Fatal(err)
	}
	if got, dropped := drain(t, s); fmt.Sprint(got) != "[4 5]" || dropped != 0 {
		t.Errorf("%v, %d", got, dropped)
	}

	// The very report that was to tell is dropped: the count stays, and one more.
	s = openSpool(t, dir, 0, 1)
	put(t, s, "6", ill)
	put(t, s, "7", ill)
	id, r, _ = s.Next()
	if r.Dropped != 1 {
		t.Fatalf("told %d", r.Dropped)
	}
	put(t, s, "8", ill)
	if err := s.Done(id); err != nil { // too late: it is counted as dropped
		t.Fatal(err)
	}
	if got, dropped := drain(t, s); fmt.Sprint(got) != "[8]" || dropped != 2 {
		t.Errorf("%v, %d", got, dropped)
	}
}

func TestSpoolSetsCorruptFilesAside(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, 0, 0)
	for i := range 14 {
		put(t, s, fmt.Sprint(i), ill)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		var err error
		switch {
		case i == 0:
			err = os.Remove(f)
		case i == 1:
			err = os.Truncate(f, 20)
		case i == 2:
			err = os.WriteFile(f, make([]byte, oob.MaxReport+1), 0o600)
		case i < 13:
			err = os.WriteFile(f, []byte("not gzip"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, dropped := drain(t, s); fmt.Sprint(got) != "[13]" || dropped != 13 {
		t.Errorf("read %v, told of %d", got, dropped)
	}
	kept, _ := filepath.Glob(filepath.Join(dir, "*.corrupt-*"))
	if len(kept) != 8 {
		t.Errorf("%d corrupt files kept, want 8", len(kept))
	}

	if err := os.WriteFile(filepath.Join(dir, "dropped.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{".0000-ill.json.gz.tmp-1": "half", "README": "a person's", "0000000000000001-ill.json.gz/": ""} {
		path := filepath.Join(dir, name)
		if body == "" {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, []byte(body), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err = oob.OpenSpool(dir, 0, 0)
	if err == nil || errors.Is(err, oob.ErrMemoryOnly) || !strings.Contains(err.Error(), "dropped.json.corrupt-") {
		t.Errorf("open says %v", err)
	}
	put(t, s, "after", ill)
	if got, _ := drain(t, s); fmt.Sprint(got) != "[after]" {
		t.Errorf("read %v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "README")); err != nil {
		t.Error("a file that is not the spool's was touched")
	}
	if tmp, _ := filepath.Glob(filepath.Join(dir, ".*tmp*")); len(tmp) != 0 {
		t.Errorf("left behind: %v", tmp)
	}
}

// A directory that can't be had (full, read-only, in the way) must not cost the reports.
func TestSpoolFallsBackToMemory(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "spool")
	if err := os.WriteFile(dir, []byte("in the way"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := oob.OpenSpool(dir, 0, 0)
	if !errors.Is(err, oob.ErrMemoryOnly) || s == nil {
		t.Fatalf("open: %v", err)
	}
	for i := range 40 {
		if err := s.Put(sample(fmt.Sprint(i), ill)); !errors.Is(err, oob.ErrMemoryOnly) {
			t.Fatalf("put: %v", err)
		}
	}
	if s.Len() != 32 || s.Dropped() != 8 {
		t.Fatalf("%d kept, %d dropped", s.Len(), s.Dropped())
	}
	id, r, ok := s.Next()
	if !ok || r.ReportID != "8" || r.Dropped != 8 {
		t.Fatalf("next %+v, %v", r.ReportID, ok)
	}
	s.Done(id) // the count can't be saved, and that is said; it holds in memory
	if s.Len() != 31 || s.Dropped() != 0 {
		t.Fatalf("%d kept, %d dropped", s.Len(), s.Dropped())
	}
	// The disk is back: all of it goes there.
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	put(t, s, "last", ill)
	s = openSpool(t, dir, 0, 0)
	if got, _ := drain(t, s); len(got) != 32 || got[0] != "9" || got[31] != "last" {
		t.Errorf("on disk are %v", got)
	}
}

func TestSpoolIsSafeForConcurrentUse(t *testing.T) {
	s := openSpool(t, t.TempDir(), 0, 50)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for w := range 3 {
		wg.Go(func() {
			for i := range 20 {
				if err := s.Put(sample(fmt.Sprintf("%d.%d", w, i), ill)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	told := 0
	wg.Go(func() {
		for range 30 {
			if id, r, ok := s.Next(); ok {
				mu.Lock()
				seen[r.ReportID]++
				mu.Unlock()
				if err := s.Done(id); err != nil {
					t.Error(err)
				}
				told += r.Dropped
			}
			s.Len()
		}
	})
	wg.Wait()
	ids, dropped := drain(t, s)
	for _, id := range ids {
		seen[id]++
	}
	if lost := 60 - len(seen); lost > told+dropped {
		t.Errorf("%d reports vanished, %d were told of", lost, told+dropped)
	}
	for id, n := range seen {
		if n > 1 {
			t.Errorf("report %s came out %d times", id, n)
		}
	}
}

func FuzzSpool(f *testing.F) {
	f.Add("0001767323045123-ill.json.gz", []byte("x"), []byte(`{"dropped":1}`))
	f.Add("0001767323045123-well.json.gz", []byte{0x1f, 0x8b}, []byte(`{"dropped":-1}`))
	f.Add("9999999999999999-ill.json.gz", []byte{}, []byte(`null`))
	f.Fuzz(func(t *testing.T, name string, body, tally []byte) {
		if !filepath.IsLocal(name) || strings.ContainsAny(name, "/\\\x00:") || len(name) > 100 {
			return
		}
		dir := t.TempDir()
		if os.WriteFile(filepath.Join(dir, name), body, 0o600) != nil || os.WriteFile(filepath.Join(dir, "dropped.json"), tally, 0o600) != nil {
			return
		}
		s, err := oob.OpenSpool(dir, 0, 0)
		if s == nil || errors.Is(err, oob.ErrMemoryOnly) {
			t.Fatalf("open: %v", err)
		}
		put(t, s, "mine", ill)
		if got, dropped := drain(t, s); len(got) == 0 || got[len(got)-1] != "mine" || dropped < 0 {
			t.Fatalf("read %v, %d dropped", got, dropped)
		}
	})
}
