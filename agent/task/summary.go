package task

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/wire"
)

// JobSummary is what the journal knows of one command, without what it ran or
// printed.
type JobSummary struct {
	ID string `json:"id"`
	// Phase is accepted, running, owed (ended, not stored by the server) or stored.
	Phase   string     `json:"phase"`
	State   wire.State `json:"state,omitempty"` // once ended
	Exit    *int       `json:"exit_code,omitempty"`
	At      time.Time  `json:"accepted_at"` // server-corrected clock, as all times here
	Started time.Time  `json:"started_at,omitzero"`
	Ended   time.Time  `json:"finished_at,omitzero"`
	Expires time.Time  `json:"expires_at,omitzero"`
	PID     int        `json:"pid,omitempty"`
	// Bytes of output that the server has not stored yet.
	StdoutBytes int64 `json:"stdout_bytes,omitempty"`
	StderrBytes int64 `json:"stderr_bytes,omitempty"`
}

// JournalSummary is a journal as somebody beside its executor reads it.
type JournalSummary struct {
	Born     time.Time    `json:"born"`
	Horizon  time.Time    `json:"horizon,omitzero"` // of commands from before it, records may be missing
	Bytes    int64        `json:"bytes"`
	BadLines int          `json:"bad_lines"`
	Stored   int          `json:"stored"`             // commands that the server has stored
	Probes   int          `json:"probes"`             // remembered
	Jobs     []JobSummary `json:"jobs"`               // newest first
	LeftOut  int          `json:"left_out,omitempty"` // older ones beyond the bound
}

// Summarize reads the journal in dir, and tells the newest max commands. It
// takes no lock and writes nothing: an executor may be at work there, and a line
// it is writing is not counted as bad. The error wraps [fs.ErrNotExist] if there is no journal.
func Summarize(dir string, max int) (JournalSummary, error) {
	var s JournalSummary
	f, err := atomicfile.Open(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("no command has come yet (%w)", fs.ErrNotExist)
	}
	if err != nil {
		return s, fmt.Errorf("task journal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, fmt.Errorf("task journal: %w", err)
	}
	b := newBook()
	if s.BadLines, err = scan(f, b.take); err != nil {
		return s, fmt.Errorf("task journal: %w", err)
	}
	s.Jobs = []JobSummary{}
	s.Bytes, s.Born, s.Horizon, s.Stored, s.Probes = info.Size(), b.born, b.horizon, len(b.stored), len(b.probes)
	for _, en := range b.live {
		en.cancel(nil)
		s.Jobs = append(s.Jobs, en.summary())
	}
	for id, m := range b.stored {
		j := JobSummary{ID: id, Phase: "stored", State: m.state, At: time.UnixMilli(m.at).UTC(), Expires: time.UnixMilli(m.expires).UTC()}
		if m.exited {
			code := int(m.exit)
			j.Exit = &code
		}
		s.Jobs = append(s.Jobs, j)
	}
	slices.SortFunc(s.Jobs, func(x, y JobSummary) int { return y.At.Compare(x.At) })
	if len(s.Jobs) > max {
		s.LeftOut = len(s.Jobs) - max
		s.Jobs = s.Jobs[:max]
	}
	return s, nil
}

// summary leaves out the script, and whatever an end says in words.
func (en *entry) summary() JobSummary {
	j := JobSummary{ID: en.cmd.ID, At: en.at.UTC(), Expires: en.cmd.ExpiresAt, PID: en.pid, Phase: "accepted"}
	stages := en.stages
	switch en.phase {
	case phaseRunning:
		j.Phase = "running"
	case phaseOwed:
		j.Phase = "owed"
		r := en.result
		j.State, j.Exit, j.StdoutBytes, j.StderrBytes = intern(r.State), r.ExitCode, r.StdoutBytes, r.StderrBytes
		stages = r.Stages
	}
	j.Started, j.Ended = stages[wire.StageStarted], stages[wire.StageFinished]
	return j
}
