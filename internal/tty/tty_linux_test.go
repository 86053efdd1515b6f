package tty

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pair opens a pseudoterminal (ptmx(4)): the person's end and the program's.
func pair(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func TestOnlyATerminalIsOne(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	_, program := pair(t)
	if Is(null) || Is(r) || Is(w) || !Is(program) {
		t.Errorf("null %v, pipe %v and %v, terminal %v", Is(null), Is(r), Is(w), Is(program))
	}
	if _, err := HideInput(null); err == nil {
		t.Error("nothing can be hidden where nobody types")
	}
}

func TestWhatIsTypedIsNotShown(t *testing.T) {
	person, program := pair(t)
	restore, err := HideInput(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := person.WriteString("secret\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 64)
	n, err := program.Read(got)
	if err != nil || string(got[:n]) != "secret\n" {
		t.Fatalf("read %q, %v", got[:n], err)
	}
	restore()
	restore()
	if _, err := person.WriteString("shown\n"); err != nil {
		t.Fatal(err)
	}
	// All that the person sees: the line's end, then what is typed after restore.
	var seen string
	for len(seen) < len("\r\nshown\r\n") {
		n, err := person.Read(got)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(got[:n])
	}
	if seen != "\r\nshown\r\n" {
		t.Errorf("the person saw %q", seen)
	}
}
