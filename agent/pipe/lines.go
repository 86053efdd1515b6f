package pipe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrTooLong says that a line exceeds [MaxLine]: the stream can't be followed any further.
var ErrTooLong = errors.New("line of the pipe exceeds the size limit")

// ErrGarbled says that one line was not what belongs on the pipe; the next may be.
var ErrGarbled = errors.New("line of the pipe is not valid")

// lineBuffer is what a reader starts with; it grows up to [MaxLine] only for a line that needs it.
const lineBuffer = 16 << 10

// Write writes v, an [Order] or a [Fact], as one line with one call of w.Write,
// so that two writers can never tear each other's line.
func Write(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	if len(raw) >= MaxLine {
		return ErrTooLong
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

// Reader reads the lines of one end, each as a T.
type Reader[T any] struct{ lines *bufio.Scanner }

// NewReader reads from r.
func NewReader[T any](r io.Reader) *Reader[T] {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, lineBuffer), MaxLine)
	return &Reader[T]{lines: s}
}

// Read gives the next line. The error is io.EOF when the other end has closed,
// [ErrGarbled] for one bad line (the next call goes on behind it), else it is final.
func (r *Reader[T]) Read() (T, error) {
	var v T
	for r.lines.Scan() {
		line := bytes.TrimSpace(r.lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if err := json.Unmarshal(line, &v); err != nil {
			var none T
			return none, fmt.Errorf("%w: %w", ErrGarbled, err)
		}
		return v, nil
	}
	switch err := r.lines.Err(); {
	case err == nil:
		return v, io.EOF
	case errors.Is(err, bufio.ErrTooLong):
		return v, ErrTooLong
	default:
		return v, err
	}
}
