package oob

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/selfcheck"
)

// Bounds of the spool.
const (
	// DefaultSpoolBytes and DefaultSpoolReports: over four hours of one report each 30 s.
	DefaultSpoolBytes   = 8 << 20
	DefaultSpoolReports = 500
	// What is kept in memory while the disk takes nothing.
	memoryBytes   = 1 << 20
	memoryReports = 32
	// keptCorrupt is how many files that could not be read are kept for a person to see.
	keptCorrupt = 8
)

// ErrMemoryOnly says that the disk takes no reports: they are kept in memory.
var ErrMemoryOnly = errors.New("reports are kept in memory only")

// Spool keeps reports until they have arrived: a file each, oldest first, named
// by time. When it is full the oldest report of a healthy verdict goes first,
// then the oldest of all; the newest is never dropped for an older one. How many were dropped is
// kept on disk, told in the next report, and forgotten only when that has arrived.
//
// It is safe for concurrent use. Put, Next and Done wait for the disk and for
// each other; Len and Dropped wait for nothing.
type Spool struct {
	dir        string
	maxBytes   int64
	maxReports int
	clock      func() time.Time

	disk    sync.Mutex // one piece of work on the directory at a time; guards what follows
	entries []entry    // oldest first
	bytes   int64
	lastMS  int64
	tally   tally
	unsaved bool // tally differs from the disk

	length, dropped atomic.Int64
}

// entry is one report; data is set while it is only in memory.
type entry struct {
	id   string // "0001767323045123-ill": milliseconds since 1970, then well or ill
	size int64
	data []byte
}

func (e entry) well() bool { return strings.HasSuffix(e.id, "-well") }

// tally is what was dropped, dropped.json. Carrier is the report that was last
// handed out with a count in it, Carried that count: handed out again it must
// say the same, since the server knows a report by its id and reads it once.
type tally struct {
	Dropped int    `json:"dropped"`
	Carrier string `json:"carrier,omitempty"`
	Carried int    `json:"carried,omitempty"`
}

const (
	tallyFile  = "dropped.json"
	reportExt  = ".json.gz"
	corruptTag = ".corrupt-"
	timeDigits = 16
)

// OpenSpool opens the spool in dir; 0 takes the defaults. The Spool can be used
// even when there is an error: that says what could not be read, or
// ([ErrMemoryOnly]) why reports are kept in memory for now.
func OpenSpool(dir string, maxBytes int64, maxReports int) (*Spool, error) {
	if maxBytes <= 0 {
		maxBytes = DefaultSpoolBytes
	}
	if maxReports <= 0 {
		maxReports = DefaultSpoolReports
	}
	s := &Spool{dir: dir, maxBytes: maxBytes, maxReports: maxReports, clock: time.Now}
	s.disk.Lock()
	defer s.disk.Unlock()
	defer s.publish()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, fmt.Errorf("%w: %w", ErrMemoryOnly, err)
	}
	err := s.load()
	s.makeRoom(0, 0)
	return s, errors.Join(err, s.save())
}

// load reads the names in the directory; the reports themselves only in Next.
func (s *Spool) load() error {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMemoryOnly, err)
	}
	for _, f := range list { // sorted by name, hence by time
		name := f.Name()
		if strings.HasPrefix(name, ".") && strings.Contains(name, ".tmp-") {
			os.Remove(filepath.Join(s.dir, name)) // left by a crash in the middle of a write
			continue
		}
		id, ok := strings.CutSuffix(name, reportExt)
		ms, isTime := reportTime(id)
		if !ok || !isTime || !f.Type().IsRegular() {
			continue
		}
		info, err := f.Info()
		if err != nil {
			continue // gone in between
		}
		s.entries = append(s.entries, entry{id: id, size: info.Size()})
		s.bytes += info.Size()
		s.lastMS = max(s.lastMS, ms)
	}
	raw, err := readBounded(s.path(tallyFile), 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &s.tally)
		if err == nil && (s.tally.Dropped < 0 || s.tally.Carried < 0 || s.tally.Carried > s.tally.Dropped) {
			err = errors.New("counts make no sense")
		}
	}
	if err != nil {
		s.tally = tally{}
		kept, qerr := atomicfile.Quarantine(s.path(tallyFile), s.clock())
		return errors.Join(fmt.Errorf("the count of dropped reports is lost (%s kept): %w", filepath.Base(kept), err), qerr)
	}
	return nil
}

// reportTime reads an entry's id.
func reportTime(id string) (ms int64, ok bool) {
	digits, kind, _ := strings.Cut(id, "-")
	if len(digits) != timeDigits || (kind != "well" && kind != "ill") {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 53)
	return int64(n), err == nil
}

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Spool) publish() {
	s.length.Store(int64(len(s.entries)))
	s.dropped.Store(int64(s.tally.Dropped))
}

// Put keeps r. With [ErrMemoryOnly] it is kept all the same, and goes to the
// disk as soon as that takes it; with any other error it could not be encoded and is lost.
func (s *Spool) Put(r Report) error {
	data, err := encodeReport(r)
	if err != nil {
		return err
	}
	s.disk.Lock()
	defer s.disk.Unlock()
	defer s.publish()
	// Names go up even when the clock steps back.
	s.lastMS = max(s.clock().UnixMilli(), s.lastMS+1)
	kind := "ill"
	if r.Verdict.Severity == selfcheck.SeverityWell {
		kind = "well"
	}
	e := entry{id: fmt.Sprintf("%0*d-%s", timeDigits, s.lastMS, kind), size: int64(len(data)), data: data}
	s.makeRoom(1, e.size)
	s.entries = append(s.entries, e)
	s.bytes += e.size
	if err := s.flush(); err != nil {
		s.boundMemory()
		return fmt.Errorf("%w: %w", ErrMemoryOnly, err)
	}
	return s.save()
}

// makeRoom drops reports until count more of size bytes fit.
func (s *Spool) makeRoom(count int, size int64) {
	for len(s.entries) > 0 && (len(s.entries)+count > s.maxReports || s.bytes+size > s.maxBytes) {
		i := slices.IndexFunc(s.entries, entry.well)
		s.drop(max(i, 0))
	}
}

// boundMemory drops reports that are only in memory until the rest is within bounds.
func (s *Spool) boundMemory() {
	for {
		count, bytes, oldest, healthy := 0, int64(0), -1, -1
		for i, e := range s.entries[:len(s.entries)-1] { // never the newest
			if e.data == nil {
				continue
			}
			count, bytes = count+1, bytes+e.size
			if oldest < 0 {
				oldest = i
			}
			if healthy < 0 && e.well() {
				healthy = i
			}
		}
		newest := s.entries[len(s.entries)-1]
		if oldest < 0 || (count+1 <= memoryReports && bytes+newest.size <= memoryBytes) {
			return
		}
		if healthy >= 0 {
			oldest = healthy
		}
		s.drop(oldest)
	}
}

// drop counts entry i as lost, then forgets it: after a crash in between it is
// counted and sent, never lost and not counted.
func (s *Spool) drop(i int) {
	e := s.entries[i]
	s.count(e.id)
	if e.data == nil {
		s.save() // best effort: what is unsaved is tried again
		os.Remove(s.path(e.id + reportExt))
	}
	s.remove(i)
}

// count takes in that the report called id will never arrive.
func (s *Spool) count(id string) {
	s.tally.Dropped++
	if s.tally.Carrier == id {
		s.tally.Carrier, s.tally.Carried = "", 0
	}
	s.unsaved = true
}

func (s *Spool) remove(i int) {
	s.bytes -= s.entries[i].size
	s.entries = slices.Delete(s.entries, i, i+1)
}

// flush brings to the disk what is only in memory.
func (s *Spool) flush() error {
	for i := range s.entries {
		e := &s.entries[i]
		if e.data == nil {
			continue
		}
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return err
		}
		if err := atomicfile.Write(s.path(e.id+reportExt), e.data, 0o600); err != nil {
			return err
		}
		e.data = nil
	}
	return nil
}

func (s *Spool) save() error {
	if !s.unsaved {
		return nil
	}
	raw, err := json.Marshal(s.tally)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.path(tallyFile), raw, 0o600); err != nil {
		return fmt.Errorf("the count of dropped reports is in memory only: %w", err)
	}
	s.unsaved = false
	return nil
}

// Next gives the oldest report, and the id to call [Spool.Done] with; ok is false if there
// is none. Its Dropped is filled in. A file that can't be understood is set aside, counted as
// dropped, and passed over; one that can't be read for now is only passed over.
func (s *Spool) Next() (id string, r Report, ok bool) {
	s.disk.Lock()
	defer s.disk.Unlock()
	defer s.publish()
	for i := 0; i < len(s.entries); {
		e := s.entries[i]
		data, err := e.data, error(nil)
		if data == nil {
			data, err = readBounded(s.path(e.id+reportExt), MaxReport)
			if err != nil && !errors.Is(err, errNotAReport) && !errors.Is(err, fs.ErrNotExist) {
				i++ // out of file descriptors, say: nothing is wrong with the report
				continue
			}
		}
		if err == nil {
			r, err = DecodeReport(data)
		}
		if err != nil {
			s.count(e.id)
			s.save()
			s.quarantine(e.id + reportExt)
			s.remove(i)
			continue
		}
		r.Dropped = s.carry(e.id)
		return e.id, r, true
	}
	return "", Report{}, false
}

// carry gives the count that the report called id tells of.
func (s *Spool) carry(id string) int {
	if s.tally.Carrier != id {
		if s.tally.Dropped == 0 {
			return 0
		}
		s.tally.Carrier, s.tally.Carried = id, s.tally.Dropped
		s.unsaved = true
		s.save() // best effort: unsaved, a crash before Done could tell a later count
	}
	return s.tally.Carried
}

// Done forgets the report that [Spool.Next] called id: it has arrived. An error says that
// its file could not be removed: it will be sent again after a restart.
func (s *Spool) Done(id string) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	defer s.publish()
	i := slices.IndexFunc(s.entries, func(e entry) bool { return e.id == id })
	if i < 0 {
		return nil // dropped in the meantime, and counted so
	}
	var err error
	if s.entries[i].data == nil {
		if err = s.archive(id + reportExt); err != nil {
			err = os.Remove(s.path(id + reportExt))
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	s.remove(i)
	if s.tally.Carrier == id {
		s.tally.Dropped -= s.tally.Carried
		s.tally.Carrier, s.tally.Carried = "", 0
		s.unsaved = true
	}
	return errors.Join(err, s.save())
}

// Len counts the reports kept.
func (s *Spool) Len() int { return int(s.length.Load()) }

// Dropped counts the reports lost of which no report that arrived has told yet.
func (s *Spool) Dropped() int { return int(s.dropped.Load()) }

// quarantine sets the file called name aside, and keeps no more than the last few such.
func (s *Spool) quarantine(name string) {
	if _, err := atomicfile.Quarantine(s.path(name), s.clock()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return // read-only: it is passed over by this process, and seen again by the next
	}
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	var kept []string
	for _, f := range list {
		if strings.Contains(f.Name(), reportExt+corruptTag) {
			kept = append(kept, f.Name())
		}
	}
	for len(kept) > keptCorrupt {
		os.Remove(s.path(kept[0])) // oldest by its report's time
		kept = kept[1:]
	}
}

var errNotAReport = errors.New("not one of the spool's files")

func readBounded(path string, limit int64) ([]byte, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > limit {
		return nil, fmt.Errorf("%w: %s is not a file of at most %d bytes", errNotAReport, filepath.Base(path), limit)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
