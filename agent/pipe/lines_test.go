package pipe_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"gururmm/agent/pipe"
)

func TestLinesGoThroughWhole(t *testing.T) {
	var b bytes.Buffer
	for _, o := range []pipe.Order{{Ping: true}, {Reconnect: &pipe.ReconnectOrder{Reason: "two\nlines"}}} {
		if err := pipe.Write(&b, o); err != nil {
			t.Fatal(err)
		}
	}
	r := pipe.NewReader[pipe.Order](&b)
	first, err := r.Read()
	if err != nil || !first.Ping {
		t.Fatalf("first line: %+v, %v", first, err)
	}
	second, err := r.Read()
	if err != nil || second.Ping || second.Reconnect == nil || second.Reconnect.Reason != "two\nlines" {
		t.Fatalf("second line: %+v, %v", second, err)
	}
	if _, err := r.Read(); err != io.EOF {
		t.Fatalf("after the last line: %v, want EOF", err)
	}
}

func TestOneBadLineDoesNotEndThePipe(t *testing.T) {
	r := pipe.NewReader[pipe.Order](strings.NewReader("panic: oops\n\n{\"ping\":true}\n"))
	if _, err := r.Read(); !errors.Is(err, pipe.ErrGarbled) {
		t.Fatalf("bad line: %v, want ErrGarbled", err)
	}
	if o, err := r.Read(); err != nil || !o.Ping {
		t.Fatalf("line behind the bad one: %+v, %v", o, err)
	}
}

func TestTooLongLineIsRefused(t *testing.T) {
	r := pipe.NewReader[pipe.Order](io.MultiReader(
		strings.NewReader(`{"ping":`), strings.NewReader(strings.Repeat(" ", pipe.MaxLine)), strings.NewReader("true}\n")))
	if _, err := r.Read(); !errors.Is(err, pipe.ErrTooLong) {
		t.Fatalf("got %v, want ErrTooLong", err)
	}
	if err := pipe.Write(io.Discard, pipe.Fact{Stacks: strings.Repeat("x", pipe.MaxLine)}); !errors.Is(err, pipe.ErrTooLong) {
		t.Fatalf("writing: %v, want ErrTooLong", err)
	}
}
