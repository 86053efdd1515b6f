package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// A trace is a column of its command: a line of JSON for each stage, in order of arrival. So
// a step of a command's life is one row written, whatever it tells. Lines are only added, what
// is told again too: who reads leaves it out.

// maxTrace bounds what is added to the trace of one command beside its changes, in bytes: ten
// attempts of thirteen stages and their notes are well below; an agent that makes up notes
// fills no disk.
const maxTrace = 128 << 10

// traceFull is told of a trace once more was to be added.
const traceFull = "more was told of it than a trace has room for: notes are missing from here on"

// traceLine is a stage as stored.
type traceLine struct {
	Stage   wire.Stage      `json:"s"`
	At      int64           `json:"t"` // microseconds since 1970
	End     string          `json:"e"`
	Attempt int             `json:"a,omitempty"`
	Channel wire.Channel    `json:"c,omitempty"`
	Link    string          `json:"l,omitempty"`
	Note    string          `json:"n,omitempty"`
	Proof   *operator.Proof `json:"p,omitempty"`
}

func lineOf(s Stage) traceLine {
	return traceLine{s.Stage, micros(s.At), s.End, s.Attempt, s.Channel, s.Link, strings.ToValidUTF8(s.Note, "\ufffd"), s.Proof}
}

// told is what l tells of, whenever, over whichever link and with whatever counts.
func (l traceLine) told() traceLine {
	l.At, l.Link, l.Proof = 0, "", nil
	return l
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

// readTrace gives a trace's lines, but for those that repeat one: what is told again keeps the
// first time.
func readTrace(trace string) (all []traceLine, err error) {
	known := map[traceLine]bool{}
	lines := json.NewDecoder(strings.NewReader(trace))
	for lines.More() {
		var l traceLine
		if err := lines.Decode(&l); err != nil {
			return nil, fmt.Errorf("%w: a trace: %w", ErrCorrupt, err)
		}
		if !known[l.told()] {
			known[l.told()] = true
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
	more, err := traced(command, stages)
	if err != nil {
		return err
	}
	full := stages[0]
	full.Stage, full.End, full.Channel, full.Link, full.Note = "note", "server", "", "", traceFull
	instead, err := traced(command, []Stage{full})
	if err != nil {
		return err
	}
	usual := &single{
		query: `UPDATE commands SET trace = ` + longer("CAST(?2 AS TEXT)", "CAST(?3 AS TEXT)") + ` WHERE id = ?1 RETURNING id`,
		args:  []any{command, more, instead},
		many:  `UPDATE commands SET trace = ` + longer("a2", "a3") + ` FROM g WHERE id = a1 RETURNING id, id`,
		key:   command,
		scan:  func(r row) error { return r.Scan(new(string)) },
	}
	return d.group.doSingle(ctx, usual, func(tx *txn) error {
		err := usual.scan(tx.QueryRow(usual.query, usual.args...))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		return err
	})
}

// longer is a trace with more behind it, or, where that exceeds the bound, with what is told
// instead. Nothing of it is read: an agent that makes up notes costs the writer no more than
// one that does not.
func longer(more, instead string) string {
	return fmt.Sprintf(`trace || CASE WHEN octet_length(trace) + octet_length(%[1]s) <= %[3]d THEN %[1]s
		WHEN octet_length(trace) <= %[3]d THEN %[2]s ELSE '' END`, more, instead, maxTrace)
}

func (d *database) Stages(ctx context.Context, command string, after int64) ([]Stage, error) {
	trace, err := first(ctx, d, func(r row) (s string, err error) { err = r.Scan(&s); return s, err }, `SELECT trace FROM commands WHERE id = ?`, command)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := stagesOf(command, trace)
	if err != nil {
		return nil, d.named(err)
	}
	return all[min(max(0, after), int64(len(all))):], nil
}

// headColumns are those of a command with the beginning of its script.
var headColumns = strings.Replace(commandColumns, "c.script", fmt.Sprintf("substr(c.script, 1, %d)", ScriptHead), 1)

func (d *database) Traced(ctx context.Context, agent string, since time.Time, limit int) ([]Traced, error) {
	return list(ctx, d, func(r row) (t Traced, err error) {
		var trace string
		if t.Command, err = scanCommand(with{r, &trace}); err != nil {
			return t, err
		}
		if t.Stages, err = stagesOf(t.ID, trace); err != nil {
			err = d.named(err)
		}
		return t, err
	}, `SELECT `+headColumns+`, c.trace`+fromCommands+`WHERE c.agent = ? AND c.created_at >= ? ORDER BY c.created_at DESC, c.id DESC LIMIT ?`,
		agent, micros(since), limited(limit))
}

// with is a row that has one column more.
type with struct {
	row
	last any
}

func (w with) Scan(dest ...any) error { return w.row.Scan(append(dest, w.last)...) }

// stagesOf reads a trace.
func stagesOf(command, trace string) (out []Stage, err error) {
	lines, err := readTrace(trace)
	if err != nil {
		return nil, err
	}
	for i, l := range lines {
		out = append(out, Stage{Command: command, Seq: int64(i + 1), TraceEntry: operator.TraceEntry{
			Stage: l.Stage, At: timeOf(l.At), End: l.End, Attempt: l.Attempt, Channel: l.Channel, Link: l.Link, Note: l.Note, Proof: l.Proof,
		}})
	}
	return out, nil
}
