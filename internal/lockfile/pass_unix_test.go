//go:build unix

package lockfile

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// envStage makes the test program the one that takes a lock, and then the one that
// it becomes.
const envStage, envPassed, envFile = "LOCKFILE_TEST_STAGE", "LOCKFILE_TEST_PASSED", "LOCKFILE_TEST_FILE"

func TestMain(m *testing.M) {
	file := os.Getenv(envFile)
	say := func(words string) { os.Stdout.WriteString(words + "\n") }
	line := bufio.NewReader(os.Stdin)
	switch os.Getenv(envStage) {
	case "":
		os.Exit(m.Run())
	case "take":
		l, err := Take(file)
		if err != nil {
			say(err.Error())
			os.Exit(1)
		}
		passed, err := l.Pass()
		if err != nil {
			say(err.Error())
			os.Exit(1)
		}
		say("taken")
		os.Setenv(envStage, "adopt")
		os.Setenv(envPassed, passed)
		err = syscall.Exec(os.Args[0], os.Args, os.Environ())
		say(err.Error())
	case "adopt":
		say("become") // nothing is adopted yet: what is held is what was passed
		line.ReadString('\n')
		l, err := Adopt(os.Getenv(envPassed), file)
		if err != nil {
			say(err.Error())
			os.Exit(1)
		}
		say("adopted")
		line.ReadString('\n')
		if err := l.Release(); err != nil {
			say(err.Error())
		}
		say("released")
		line.ReadString('\n')
	}
	os.Exit(0)
}

func TestLockLivesOnInTheNextProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "held")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envStage+"=take", envFile+"="+file)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	for _, want := range []string{"taken", "become", "adopted", "released"} {
		got, err := said.ReadString('\n')
		if err != nil || strings.TrimSpace(got) != want {
			t.Fatalf("said %q (%v), want %q", got, err, want)
		}
		lock, err := Take(file)
		if want == "released" {
			if err != nil {
				t.Fatalf("after it was released: %v", err)
			}
			lock.Release()
		} else if held, ok := errors.AsType[*InUseError](err); !ok || held.PID != cmd.Process.Pid {
			t.Fatalf("%s: %v, want it held by process %d", want, err, cmd.Process.Pid)
		}
		if want != "taken" {
			if _, err := in.Write([]byte("\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasNotPassedIsNotAdopted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "held")
	other, err := os.Create(filepath.Join(t.TempDir(), "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, text := range []string{"", "x", "-1", "1", "99999", "3"} {
		l, err := Adopt(text, file)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if _, err := Take(file); !errors.Is(err, ErrInUse) {
			t.Errorf("%q: not held: %v", text, err)
		}
		if err := l.Release(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}
