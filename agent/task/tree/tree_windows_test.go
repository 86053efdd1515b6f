package tree

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

const (
	patience = 20 * time.Second
	envRole  = "TREE_TEST_ROLE"
)

// TestMain lets this program play the processes of its own trees. Each prints its
// pid and those below it, a line each, then "ready".
func TestMain(m *testing.M) {
	role := os.Getenv(envRole)
	if role == "" {
		os.Exit(m.Run())
	}
	fmt.Println(os.Getpid())
	switch role {
	case "sleeper":
	case "parent", "daemon": // with a plain child
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envRole+"=sleeper")
		passOn(cmd, cmd.Start)
	case "holder": // with a tree of its own, as a worker has jobs
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envRole+"=parent")
		passOn(cmd, func() error { _, err := Start(cmd, "inner"); return err })
	}
	fmt.Println("ready")
	if role == "daemon" {
		os.Exit(0)
	}
	time.Sleep(10 * patience)
	os.Exit(0)
}

// passOn starts a child and prints the pids it prints.
func passOn(cmd *exec.Cmd, start func() error) {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	if err := start(); err != nil {
		panic(err)
	}
	w.Close()
	for lines := bufio.NewScanner(r); lines.Scan() && lines.Text() != "ready"; {
		fmt.Println(lines.Text())
	}
}

// play starts a tree whose root plays role, and gives the pids of all in it.
func play(t *testing.T, role string, want int) (tr *Tree, pids []int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envRole+"="+role)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	tr, err = Start(cmd, "outer")
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Kill(0); err != nil {
			t.Errorf("clean up: %v", err)
		}
		<-tr.Done()
		tr.Release()
	})
	for lines := bufio.NewScanner(r); lines.Scan() && lines.Text() != "ready"; {
		pid, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
		if err != nil {
			t.Fatalf("line %q", lines.Text())
		}
		pids = append(pids, pid)
	}
	if len(pids) != want {
		t.Fatalf("%d processes, want %d", len(pids), want)
	}
	return tr, pids
}

// left counts those of pids that still run after up to wait.
func left(pids []int, wait time.Duration) (n int) {
	for _, pid := range pids {
		h, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid))
		if err != nil {
			continue
		}
		if e, err := windows.WaitForSingleObject(h, uint32(wait.Milliseconds())); err != nil || e == uint32(windows.WAIT_TIMEOUT) {
			n++
		}
		windows.CloseHandle(h)
	}
	return n
}

func TestKillReachesAll(t *testing.T) {
	for role, size := range map[string]int{"sleeper": 1, "parent": 2, "holder": 3} {
		t.Run(role, func(t *testing.T) {
			tr, pids := play(t, role, size)
			if n := left(pids, 0); n != size {
				t.Fatalf("%d of %d run before the kill", n, size)
			}
			if err := tr.Kill(0); err != nil {
				t.Error(err)
			}
			if n := left(pids, patience); n != 0 {
				t.Errorf("%d of %d outlived the kill", n, size)
			}
		})
	}
}

// A daemon is left alone when its root has ended and the tree is released.
func TestDaemonOutlivesItsRoot(t *testing.T) {
	tr, pids := play(t, "daemon", 2)
	<-tr.Done()
	tr.Release()
	daemon := pids[1:]
	if left(daemon, time.Second) != 1 {
		t.Fatal("the daemon ended with its root")
	}
	p, err := os.FindProcess(daemon[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
}

// What the holder of a tree started goes with it, however it ends: a killed
// worker leaves no job behind.
func TestTreeEndsWithItsHolder(t *testing.T) {
	tr, pids := play(t, "holder", 3)
	if err := tr.cmd.Process.Kill(); err != nil { // the root alone, not its tree
		t.Fatal(err)
	}
	<-tr.Done()
	if n := left(pids[1:], patience); n != 0 {
		t.Errorf("%d of the holder's processes outlived it", n)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := Start(exec.Command(`C:\nonexistent\program.exe`), "none"); err == nil {
		t.Error("started")
	}
}
