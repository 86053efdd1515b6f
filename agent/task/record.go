package task

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"gururmm/wire"
)

// The journal is an append-only file of our own, one record a line, and not a
// database: that a command never runs twice is what this project exists for, so
// the rule must be readable in the file itself, and damage must cost the
// lines it hit and no other. A line is
//
//	8 hex digits of CRC-32C, a space, JSON of a record, a newline
//
// The checksum covers the JSON. A last line without newline was being written when
// the process died: nobody had been told of it, so it is cut off. Any other line
// that does not check is damage.

// maxLine bounds a line in bytes: a script of only control characters grows sixfold as JSON.
const maxLine = 6*wire.MaxScript + 64<<10

// kind of a record.
type kind string

// The kinds, in the order of a command's life.
const (
	kindBorn     kind = "born"     // first line of each journal
	kindProbe    kind = "probe"    // proves the disk path; dropped at compaction
	kindAccepted kind = "accepted" // with the command
	kindStarted  kind = "started"  // synced before the process is made
	kindEnded    kind = "ended"    // with the result
	kindStored   kind = "stored"   // the server has it: result and output are forgotten
	kindKnown    kind = "known"    // all that compaction leaves of a stored command
)

// record is one line of the journal.
type record struct {
	Kind kind      `json:"k"`
	ID   string    `json:"id,omitempty"`
	At   time.Time `json:"at"`
	// Expires of the command: before that a repeat may still come.
	Expires time.Time           `json:"expires,omitzero"`
	Command *wire.Command       `json:"cmd,omitempty"`    // of accepted
	Stages  wire.StageTimes     `json:"stages,omitempty"` // of accepted
	Result  *wire.CommandResult `json:"result,omitempty"` // of ended
	State   wire.State          `json:"state,omitempty"`  // of known
	Exit    *int                `json:"exit,omitempty"`   // of known
	PID     int                 `json:"pid,omitempty"`    // of a second, unsynced, started
	// Horizon, of born: records of commands issued before it may be missing.
	Horizon time.Time `json:"horizon,omitzero"`
}

// appendLine appends r as a line to b.
func appendLine(b []byte, r record) ([]byte, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return b, fmt.Errorf("encode journal record: %w", err)
	}
	b = fmt.Appendf(b, "%08x ", wire.Chain(0, raw))
	b = append(b, raw...)
	return append(b, '\n'), nil
}

// appendLines appends all of rs.
func appendLines(b []byte, rs []record) (_ []byte, err error) {
	for _, r := range rs {
		if b, err = appendLine(b, r); err != nil {
			return nil, err
		}
	}
	return b, nil
}

var errBadLine = errors.New("not a journal record")

// parseLine reads a line, given without its newline.
func parseLine(line []byte) (record, error) {
	var r record
	if len(line) < 10 || line[8] != ' ' {
		return r, errBadLine
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[:8]); err != nil {
		return r, errBadLine
	}
	raw := line[9:]
	if wire.Chain(0, raw) != binary.BigEndian.Uint32(sum[:]) {
		return r, errBadLine
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, errBadLine
	}
	switch r.Kind {
	case kindBorn:
		return r, nil
	case kindProbe, kindAccepted, kindStarted, kindEnded, kindStored, kindKnown:
		if !validID(r.ID) || r.Kind == kindAccepted && r.Command == nil || r.Kind == kindEnded && r.Result == nil {
			return r, errBadLine
		}
		return r, nil
	}
	return r, errBadLine // of a newer version: to skip it could run a command twice
}

// scan reads lines until the end of in and hands the good records to take. It
// counts the lines that are damaged; a torn last line is not one.
func scan(in io.Reader, take func(record)) (bad int, err error) {
	r := bufio.NewReaderSize(in, 64<<10)
	var line []byte
	for first := true; ; first = false {
		var long bool
		line, long, err = readLine(r, line[:0])
		switch {
		case errors.Is(err, io.EOF) && first:
			// A journal is put in place with its first line in it: an empty one has lost it.
			return bad + 1, nil
		case errors.Is(err, io.EOF):
			return bad, nil
		case err != nil:
			return bad, err
		case long:
			bad++
			continue
		}
		rec, err := parseLine(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			bad++
			continue
		}
		if first != (rec.Kind == kindBorn) {
			bad++ // lines before or between are lost, this one is good
		}
		take(rec)
	}
}

// readLine appends the next line, with its newline, to buf. A line of more than
// maxLine bytes is skipped (long). The error is io.EOF also for a last line without newline.
func readLine(r *bufio.Reader, buf []byte) (line []byte, long bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if long = long || len(buf)+len(part) > maxLine; !long {
			buf = append(buf, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return buf, long, err
		}
	}
}
