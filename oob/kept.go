package oob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gururmm/internal/atomicfile"
)

// sentDir is where in the spool the last reports that arrived are kept, for a
// support bundle: on disk, so that an idle endpoint pays no memory for them.
const sentDir = "sent"

// keepSent bounds those; each is some kilobytes.
const keepSent = 16

// Kept is a report found in a spool's directory.
type Kept struct {
	File   string `json:"file"`
	Sent   bool   `json:"sent"` // it has arrived; else it waits
	Report Report `json:"report"`
}

// ReadSpool reads the spool in dir from beside whoever uses it, and changes nothing: the
// newest most reports that wait, and the newest most of those kept that have arrived,
// oldest first. What can't be read is passed over; if all of it can't, the error says why.
func ReadSpool(dir string, most int) ([]Kept, error) {
	var all []Kept
	var failed error
	for _, sent := range []bool{true, false} {
		from := dir
		if sent {
			from = filepath.Join(dir, sentDir)
		}
		list, err := os.ReadDir(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		var names []string
		for _, f := range list { // sorted by name, hence by time
			id, ok := strings.CutSuffix(f.Name(), reportExt)
			if _, isTime := reportTime(id); ok && isTime {
				names = append(names, f.Name())
			}
		}
		for _, name := range names[max(0, len(names)-most):] {
			data, err := readBounded(filepath.Join(from, name), MaxReport)
			if err == nil {
				var r Report
				if r, err = DecodeReport(data); err == nil {
					all = append(all, Kept{File: name, Sent: sent, Report: r})
				}
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // sent in between
				failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Kept) int { return strings.Compare(a.File, b.File) })
	if len(all) > 0 {
		failed = nil
	}
	return all, failed
}

// archive moves the file of a report that has arrived to those kept, and drops the oldest of them.
func (s *Spool) archive(name string) error {
	to := s.path(sentDir)
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Rename(s.path(name), filepath.Join(to, name)); err != nil {
		return err
	}
	list, err := os.ReadDir(to)
	if err != nil {
		return nil // it has left the spool: that is what matters
	}
	for i := 0; i < len(list)-keepSent; i++ {
		os.Remove(filepath.Join(to, list[i].Name()))
	}
	return nil
}
