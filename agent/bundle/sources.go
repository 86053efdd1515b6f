package bundle

import (
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

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/task"
	"gururmm/oob"
)

// Bounds of single sources.
const (
	maxReports  = 24      // of those sent and of those that wait, each
	maxJobs     = 2000    // of the journal
	maxEvents   = 2000    // of the history
	maxFiles    = 5000    // of the state directory's list
	maxLogs     = 8 << 20 // bytes of all log files, the newest first
	maxLogFile  = 4 << 20 // bytes of one
	maxKept     = 8       // dumps of stacks
	maxKeptFile = 512 << 10
)

// Names in the state directory; they are made elsewhere, and only read here.
const (
	spoolDir  = "spool"
	jobsDir   = "jobs"
	logDir    = "log"
	stacksDir = "stacks"
)

// guardian asks the running one, and says how it was.
func (m *maker) guardian(ctx context.Context) string {
	const from = "the guardian's socket"
	names := []string{"status.json", "frames.json", "stacks/guardian.txt", "stacks/worker.txt", "trace/guardian.trace", "trace/worker.trace"}
	p, status, err := jsonFrom(ctx, m, names[0], from+", /status", sourceWait, m.o.Guardian.Status)
	m.add(p)
	if err != nil {
		for _, name := range names[1:] {
			m.add(m.missing(name, from, errors.New("the guardian did not answer"), 0))
		}
		return "did not answer: " + m.filter.word(err.Error())
	}
	m.status = &status
	// Stacks first: what hangs may be killed while the rest is asked for.
	stacks, took, err := within(ctx, sourceWait, m.o.Guardian.Stacks)
	m.add(m.shown(names[2], from+", /stacks", []byte(stacks.Guardian), "", err, took, false))
	m.add(m.shown(names[3], from+", /stacks", []byte(stacks.Worker), stacks.WorkerWhy, err, took, false))
	p, _, _ = jsonFrom(ctx, m, names[1], from+", /frames", sourceWait, m.o.Guardian.Frames)
	m.add(p)
	traces, took, err := within(ctx, sourceWait, func(ctx context.Context) (local.Traces, error) {
		return m.o.Guardian.Traces(ctx, TraceLength)
	})
	m.add(m.shown(names[4], from+", /trace", traces.Guardian, traces.GuardianWhy, err, took, true))
	m.add(m.shown(names[5], from+", /trace", traces.Worker, traces.WorkerWhy, err, took, true))
	return "answered"
}

// shown makes a part of what a process showed of itself, or of why it did not. A
// trace holds names of functions and times, no text of the process's memory: it is
// binary, and left as it is.
func (m *maker) shown(name, from string, data []byte, why string, err error, took time.Duration, binary bool) part {
	if err == nil && len(data) == 0 {
		err = errors.New(why)
		if why == "" {
			err = errors.New("it gave none")
		}
	}
	if err != nil {
		return m.missing(name, from, err, took)
	}
	p := part{data: data, Member: Member{Name: name, From: from, TookMS: took.Milliseconds()}}
	if !binary {
		p = m.text(name, from, data, took)
	}
	if p.Missing == "" {
		p.Cut = m.filter.word(why)
	}
	return p
}

// nobody is a guardian that can't be asked.
type nobody struct{}

var errNobody = fmt.Errorf("%w: its socket is not known", local.ErrNotRunning)

func (nobody) Status(context.Context) (local.Status, error) { return local.Status{}, errNobody }
func (nobody) Frames(context.Context) (local.Frames, error) { return local.Frames{}, errNobody }
func (nobody) Stacks(context.Context) (local.Stacks, error) { return local.Stacks{}, errNobody }
func (nobody) Traces(context.Context, time.Duration) (local.Traces, error) {
	return local.Traces{}, errNobody
}

// visit is what came of the doctor's.
type visit struct {
	report []byte
	took   time.Duration
	err    error
}

// startDoctor lets the doctor look while the rest is gathered.
func (m *maker) startDoctor(ctx context.Context) <-chan visit {
	done := make(chan visit, 1)
	if m.o.Doctor == nil {
		done <- visit{err: errors.New("no doctor was asked: gururmm-agent doctor, or gururmm doctor AGENT")}
		return done
	}
	look := m.o.Doctor
	go func() {
		report, took, err := within(ctx, doctorWait, look)
		done <- visit{report, took, err}
	}()
	return done
}

// doctor makes a member of the doctor's report.
func (m *maker) doctor(v visit) part {
	const name, from = "doctor.json", "gururmm-agent doctor --json"
	if v.err == nil && !json.Valid(v.report) {
		v.err = errors.New("its report is no JSON")
	}
	if v.err != nil {
		return m.missing(name, from, v.err, v.took)
	}
	return m.json(name, from, json.RawMessage(v.report), v.took)
}

// history tells of verdicts with their evidence, steps and what came of them.
func (m *maker) history(ctx context.Context) {
	p, list, err := jsonFrom(ctx, m, "history.json", "files events*.jsonl", sourceWait, func(context.Context) (history.List, error) {
		list, err := history.Read(m.o.StateDir, history.Filter{Last: maxEvents})
		if err == nil && len(list.Events) == 0 && list.Garbled == 0 {
			err = errors.New("nothing has happened yet that is kept")
		}
		return list, err
	})
	if err == nil && len(list.Events) == maxEvents && list.From.Before(list.Events[0].At) {
		p.Cut = "events before " + list.Events[0].At.UTC().Format(time.RFC3339)
	}
	m.add(p)
}

// beacons are the reports that wait in the spool, and the last ones that arrived.
func (m *maker) beacons(ctx context.Context) {
	p, _, _ := jsonFrom(ctx, m, "beacons.json", "files of "+spoolDir, sourceWait, func(context.Context) ([]oob.Kept, error) {
		kept, err := oob.ReadSpool(filepath.Join(m.o.StateDir, spoolDir), maxReports)
		if err == nil && len(kept) == 0 {
			err = errors.New("there is no report")
		}
		return kept, err
	})
	m.add(p)
}

// journal tells of the jobs, never what they ran or printed.
func (m *maker) journal(ctx context.Context) {
	p, s, _ := jsonFrom(ctx, m, "journal.json", "journal of "+jobsDir, sourceWait, func(context.Context) (task.JournalSummary, error) {
		return task.Summarize(filepath.Join(m.o.StateDir, jobsDir), maxJobs)
	})
	if s.LeftOut > 0 {
		p.Cut = fmt.Sprintf("the oldest %d jobs", s.LeftOut)
	}
	m.add(p)
}

// logs are the ends of the rotated log files, the newest file first.
func (m *maker) logs(ctx context.Context) {
	room := int64(maxLogs)
	names := []string{"agent.log", "agent.log.1", "agent.log.2", "agent.log.3", "agent.log.4"}
	found := false
	for _, name := range names {
		member, from := "log/"+name, "file "+logDir+"/"+name
		limit := min(room, maxLogFile)
		tail, took, err := m.tailOf(ctx, logDir, name, limit)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			m.add(m.missing(member, from, err, took))
			if errors.Is(err, errLate) { // the others lie beside it
				return
			}
		case limit == 0:
			m.add(m.missing(member, from, fmt.Errorf("left out: newer logs fill the %d bytes for all", maxLogs), took))
		default:
			p := m.text(member, from, tail.data, took)
			p.skipped(tail)
			room -= int64(len(tail.data))
			m.add(p)
		}
		found = true
	}
	if !found {
		m.add(m.missing("log/agent.log", "file log/agent.log", errors.New("there is no log file: only an agent that runs as a service keeps one"), 0))
	}
}

// keptStacks are the dumps that the guardian kept of workers it had to end.
func (m *maker) keptStacks(ctx context.Context) {
	const name = "stacks/kept/"
	names, took, err := within(ctx, sourceWait, func(context.Context) ([]string, error) {
		list, err := os.ReadDir(filepath.Join(m.o.StateDir, stacksDir))
		var names []string
		for _, e := range list {
			if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
				names = append(names, e.Name())
			}
		}
		slices.Sort(names) // named by time
		return names, err
	})
	if err == nil && len(names) == 0 || errors.Is(err, fs.ErrNotExist) {
		return // no worker had to be ended: nothing is missing
	}
	if err != nil {
		m.add(m.missing(name, "files of "+stacksDir, err, took))
		return
	}
	for _, file := range names[max(0, len(names)-maxKept):] {
		from := "file " + stacksDir + "/" + file
		tail, took, err := m.tailOf(ctx, stacksDir, file, maxKeptFile)
		if err != nil {
			m.add(m.missing(name+file, from, err, took))
			if errors.Is(err, errLate) { // the others lie beside it
				return
			}
			continue
		}
		p := m.text(name+file, from, tail.data, took)
		p.skipped(tail)
		m.add(p)
	}
}

// tailOf gives the last limit bytes of a file in the state directory's folder dir.
func (m *maker) tailOf(ctx context.Context, dir, name string, limit int64) (tail, time.Duration, error) {
	path := filepath.Join(m.o.StateDir, dir, name)
	return within(ctx, sourceWait, func(context.Context) (tail, error) { return readTail(path, limit) })
}

// skipped says what of a file's beginning is not in its part.
func (p *part) skipped(t tail) {
	if t.skipped > 0 && p.Missing == "" {
		p.Cut = fmt.Sprintf("the first %d bytes", t.skipped)
	}
}

// tail is the end of a file.
type tail struct {
	data    []byte
	skipped int64
}

// readTail gives the last limit bytes of a regular file, from the beginning of a line.
func readTail(path string, limit int64) (tail, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return tail{}, err
	}
	defer f.Close()
	skip := max(0, size-limit)
	if _, err := f.Seek(skip, io.SeekStart); err != nil {
		return tail{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return tail{}, err
	}
	if skip > 0 {
		if i := slices.Index(data, '\n'); i >= 0 {
			data, skip = data[i+1:], skip+int64(i)+1
		}
	}
	return tail{data, skip}, nil
}

// openRegular opens a file that is neither a link nor a pipe: opening the latter
// could block for ever.
func openRegular(path string) (*os.File, int64, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", filepath.Base(path))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// readFile gives a whole regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", filepath.Base(path), size, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// stateFile is one entry of the state directory.
type stateFile struct {
	Name     string    `json:"name"` // from the state directory on
	Bytes    int64     `json:"bytes"`
	Mode     string    `json:"mode"`
	Modified time.Time `json:"modified"`
}

// files lists the state directory, by name, size and mode.
func (m *maker) files(ctx context.Context) {
	const name, from = "files.json", "list of the state directory"
	found, took, err := within(ctx, sourceWait, func(ctx context.Context) (listing, error) { return listFiles(ctx, m.o.StateDir) })
	if err != nil {
		m.add(m.missing(name, from, err, took))
		return
	}
	p := m.json(name, from, found.list, took)
	if found.more > 0 {
		p.Cut = fmt.Sprintf("%d more files", found.more)
	}
	m.add(p)
}

// listing is what was found in a directory, and how many more files there are.
type listing struct {
	list []stateFile
	more int
}

func listFiles(ctx context.Context, dir string) (l listing, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil // what can't be listed is not there for us
		}
		if len(l.list) >= maxFiles {
			l.more++
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil // gone in between
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		l.list = append(l.list, stateFile{filepath.ToSlash(rel), info.Size(), info.Mode().String(), info.ModTime().UTC()})
		return nil
	})
	return l, err
}
