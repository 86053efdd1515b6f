package history

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gururmm/internal/atomicfile"
)

// Filter chooses events. The zero value takes all.
type Filter struct {
	Since time.Time // last happened at this time or later
	// Codes: one of these, or below one: link takes link.silent too.
	Codes []string
	Kinds []Kind
	Last  int // at most so many, the newest; 0: all
}

// takes reports whether e passes all but Last.
func (f Filter) takes(e Event) bool {
	last := e.At
	for _, t := range []time.Time{e.Last, e.OutcomeAt} {
		if t.After(last) {
			last = t
		}
	}
	if !f.Since.IsZero() && last.Before(f.Since) {
		return false
	}
	if len(f.Kinds) > 0 && !slices.Contains(f.Kinds, e.Kind) {
		return false
	}
	return len(f.Codes) == 0 || slices.ContainsFunc(f.Codes, func(code string) bool {
		return below(e.Code, code) || below(string(e.Verdict), code)
	})
}

// below reports whether code is of, or of a family that of names.
func below(code, of string) bool {
	rest, ok := strings.CutPrefix(code, of)
	return ok && (rest == "" || rest[0] == '.')
}

// List is what was read.
type List struct {
	// Events, oldest first, with their outcomes and counts.
	Events []Event `json:"events"`
	// Garbled counts lines that could not be understood.
	Garbled int `json:"garbled,omitempty"`
	// From is the time of the oldest event kept, whatever was asked for; zero: there is none.
	From time.Time `json:"from,omitzero"`
}

// Read gives the events kept in dir that f takes. No history is an empty one.
func Read(dir string, f Filter) (List, error) {
	files, err := openBoth(dir)
	if err != nil {
		return List{}, fmt.Errorf("history: %w", err)
	}
	var list List
	var all []Event
	for _, file := range files {
		defer file.Close()
		lines := &lineReader{r: bufio.NewReaderSize(io.LimitReader(file, stopFile+maxLine), 32<<10)}
		for {
			e, err := lines.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return List{}, fmt.Errorf("history: %w", err)
			}
			all = append(all, e)
		}
		list.Garbled += lines.garbled
	}
	if len(all) > 0 {
		list.From = all[0].At
	}
	for _, e := range join(all) {
		if f.takes(e) {
			list.Events = append(list.Events, e)
		}
	}
	if f.Last > 0 && len(list.Events) > f.Last {
		list.Events = list.Events[len(list.Events)-f.Last:]
	}
	return list, nil
}

// openBoth opens what there is, oldest first. The current file comes first: if it
// is rotated meanwhile, both names lead to one file, and it is tried again.
func openBoth(dir string) ([]*os.File, error) {
	for range 3 {
		current, err := openMaybe(filepath.Join(dir, File))
		if err != nil {
			return nil, err
		}
		previous, err := openMaybe(filepath.Join(dir, Previous))
		if err != nil {
			return nil, errors.Join(err, closeMaybe(current))
		}
		if current == nil || previous == nil || !same(current, previous) {
			return slices.DeleteFunc([]*os.File{previous, current}, func(f *os.File) bool { return f == nil }), nil
		}
		current.Close()
		previous.Close()
	}
	return nil, errors.New("the files are rotated faster than they can be read: try again")
}

func openMaybe(path string) (*os.File, error) {
	f, err := atomicfile.Open(path) // the log is rotated meanwhile
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func closeMaybe(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func same(a, b *os.File) bool {
	x, xerr := a.Stat()
	y, yerr := b.Stat()
	return xerr == nil && yerr == nil && os.SameFile(x, y)
}

// join puts outcomes and counts into the events that they name. One whose event
// is not kept any more stands by itself. An event that was written twice, since the
// first writer could not know whether it was kept, is shown once.
func join(all []Event) []Event {
	at := map[string]int{}
	var out []Event
	for _, e := range all {
		i, known := at[e.Of]
		switch {
		case e.Kind == KindOutcome && known:
			out[i].Outcome, out[i].OutcomeAt = e.Outcome, e.At
		case e.Kind == KindRepeat && known:
			out[i].Count, out[i].Last = e.Count, e.Last
		case e.Kind == KindRepeat:
		case twice(at, e):
		default:
			at[e.ID] = len(out)
			out = append(out, e)
		}
	}
	return out
}

func twice(at map[string]int, e Event) bool {
	_, seen := at[e.ID]
	return seen && e.ID != "" && e.Kind != KindOutcome
}

// lineReader gives event after event and steps over what is none.
type lineReader struct {
	r       *bufio.Reader
	line    []byte // begun and not ended
	garbled int
}

// next gives io.EOF when there is no further whole line yet; it may be called
// again once the file has grown.
func (l *lineReader) next() (Event, error) {
	for {
		piece, err := l.r.ReadSlice('\n')
		if len(l.line) <= maxLine { // of a longer one its being too long is all that counts
			l.line = append(l.line, piece...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return Event{}, err // a last line without its end is being written, or was torn
		}
		line := bytes.TrimSpace(l.line)
		l.line = l.line[:0]
		if len(line) == 0 {
			continue
		}
		var e Event
		if len(line) > maxLine || json.Unmarshal(line, &e) != nil || e.Kind == "" {
			l.garbled++
			continue
		}
		return e, nil
	}
}

// followEvery is how often a followed history is looked at: a person watches.
const followEvery = 250 * time.Millisecond

// Follow hands each event that is written from now on to each, as it is written:
// outcomes and repeats by themselves. It returns when ctx ends (nil) or each fails.
// Of f, Since and Last mean nothing here, and outcomes and repeats always pass.
func Follow(ctx context.Context, dir string, f Filter, each func(Event) error) error {
	f.Since = time.Time{}
	t := tail{path: filepath.Join(dir, File)}
	defer t.close()
	if err := t.open(io.SeekEnd); err != nil {
		return err
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		if err := t.drain(func(e Event) error {
			if e.Kind == KindOutcome || e.Kind == KindRepeat || f.takes(e) {
				return each(e)
			}
			return nil
		}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tail reads a file as it grows, and its successor once it was rotated.
type tail struct {
	path  string
	file  *os.File
	lines *lineReader
}

// open takes up the file of the moment, if there is one.
func (t *tail) open(whence int) error {
	f, err := openMaybe(t.path)
	if err != nil || f == nil {
		return err
	}
	if _, err := f.Seek(0, whence); err != nil {
		return errors.Join(err, f.Close())
	}
	t.file, t.lines = f, &lineReader{r: bufio.NewReaderSize(f, 32<<10)}
	return nil
}

// drain hands over all that is there by now.
func (t *tail) drain(each func(Event) error) error {
	for {
		if t.file == nil {
			if err := t.open(io.SeekStart); err != nil || t.file == nil {
				return err
			}
		}
		rotated := t.rotated() // asked first: what is read after it is then complete
		for {
			e, err := t.lines.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = each(e)
			}
			if err != nil {
				return err
			}
		}
		if !rotated {
			return nil
		}
		t.close()
	}
}

// rotated reports whether the name leads to another file by now.
func (t *tail) rotated() bool {
	mine, err := t.file.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(t.path)
	return err == nil && !os.SameFile(mine, now)
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}
