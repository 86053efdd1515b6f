package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gururmm/operator"
	"gururmm/wire"
)

// A trace is a column of its command: a line of JSON for each stage, in order of arrival. So
// a step of a command's life is one row written, whatever it tells. Lines are only added.

// maxTrace bounds the trace of one command, in bytes: ten attempts of thirteen stages and
// their notes are well below; an agent that makes up notes fills no disk.
const maxTrace = 128 << 10

// traceLine is a stage as stored.
type traceLine struct {
	Stage   wire.Stage   `json:"s"`
	At      int64        `json:"t"` // microseconds since 1970
	End     string       `json:"e"`
	Attempt int          `json:"a,omitempty"`
	Channel wire.Channel `json:"c,omitempty"`
	Link    string       `json:"l,omitempty"`
	Note    string       `json:"n,omitempty"`
}

func lineOf(s Stage) traceLine {
	return traceLine{s.Stage, micros(s.At), s.End, s.Attempt, s.Channel, s.Link, strings.ToValidUTF8(s.Note, "\ufffd")}
}

// same reports whether both tell of one thing: what is told again keeps the first time.
func (l traceLine) same(o traceLine) bool {
	return l.Stage == o.Stage && l.Attempt == o.Attempt && l.End == o.End && l.Channel == o.Channel && l.Note == o.Note
}

// traced gives the lines of stages, which are all of one command.
func traced(command string, stages []Stage) (string, error) {
	out := make([]byte, 0, 128*len(stages))
	for _, s := range stages {
		if s.Command != command {
			return "", fmt.Errorf("a stage of command %s among those of %s", s.Command, command)
		}
		line, err := json.Marshal(lineOf(s))
		if err != nil {
			return "", err
		}
		out = append(append(out, line...), '\n')
	}
	return string(out), nil
}

// readTrace gives a trace's lines, but for those that repeat one.
func readTrace(trace string) (all []traceLine, err error) {
	lines := json.NewDecoder(strings.NewReader(trace))
	for lines.More() {
		var l traceLine
		if err := lines.Decode(&l); err != nil {
			return nil, fmt.Errorf("%w: a trace: %w", ErrCorrupt, err)
		}
		if !slices.ContainsFunc(all, l.same) {
			all = append(all, l)
		}
	}
	return all, nil
}

func (d *database) AddStages(ctx context.Context, stages ...Stage) error {
	if len(stages) == 0 {
		return nil
	}
	command := stages[0].Command
	if _, err := traced(command, stages); err != nil {
		return err
	}
	return d.group.do(ctx, func(tx *txn) error {
		var trace string
		err := tx.QueryRow(`SELECT trace FROM commands WHERE id = ?`, command).Scan(&trace)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		known, err := readTrace(trace)
		if err != nil {
			return err
		}
		var fresh []Stage
		for _, s := range stages {
			l := lineOf(s)
			if !slices.ContainsFunc(known, l.same) {
				fresh, known = append(fresh, s), append(known, l)
			}
		}
		more, err := traced(command, fresh)
		if err != nil || more == "" || len(trace)+len(more) > maxTrace {
			return err
		}
		_, err = tx.Exec(`UPDATE commands SET trace = trace || ? WHERE id = ?`, more, command)
		return err
	})
}

func (d *database) Stages(ctx context.Context, command string, after int64) ([]Stage, error) {
	trace, err := first(ctx, d, func(r row) (s string, err error) { err = r.Scan(&s); return s, err }, `SELECT trace FROM commands WHERE id = ?`, command)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lines, err := readTrace(trace)
	if err != nil {
		return nil, d.named(err)
	}
	var out []Stage
	for i, l := range lines {
		if n := int64(i + 1); n > after {
			out = append(out, Stage{Command: command, Seq: n, TraceEntry: operator.TraceEntry{
				Stage: l.Stage, At: timeOf(l.At), End: l.End, Attempt: l.Attempt, Channel: l.Channel, Link: l.Link, Note: l.Note,
			}})
		}
	}
	return out, nil
}
