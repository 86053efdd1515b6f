//go:build unix

package tree

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

// sh starts a script that writes one line per process it has made, its pid, and
// "ready" last.
func sh(t *testing.T, marker, script string) (tr *Tree, pids []int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", script)
	cmd.Stdout = w
	tr, err = Start(cmd, marker)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Kill(0); err != nil {
			t.Errorf("clean up: %v", err)
		}
		<-tr.Done()
	})
	_ = r.SetReadDeadline(time.Now().Add(patience))
	lines := bufio.NewScanner(r)
	for lines.Scan() && lines.Text() != "ready" {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("line %q", lines.Text())
		}
		pids = append(pids, pid)
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return tr, pids
}

// alive: a zombie is not.
func alive(pid int) bool {
	all, _ := procs()
	return slices.ContainsFunc(all, func(p proc) bool { return p.pid == pid })
}

func survivors(pids []int) (left []int) {
	for _, pid := range pids {
		if alive(pid) {
			left = append(left, pid)
		}
	}
	return left
}

func TestKillReachesTheWholeTree(t *testing.T) {
	for name, script := range map[string]string{
		"root only":          `echo $$; echo ready; sleep 100`,
		"children":           `echo $$; sleep 100 & echo $!; (sleep 100 & echo $!; wait) & echo $!; sleep 0.1; echo ready; wait`,
		"stopped":            `sh -c 'echo $$; kill -STOP $$' & sleep 0.1; echo ready; wait`,
		"deaf to TERM":       `trap '' TERM; echo $$; (trap '' TERM; sleep 100) & echo $!; echo ready; wait`,
		"own session":        `setsid sh -c 'echo $$; sleep 100 & echo $!; echo ready; wait' & wait`,
		"double fork":        `(setsid sh -c 'echo $$; (setsid sleep 100 & echo $!); echo ready; sleep 100' &) ; sleep 100`,
		"deaf and elsewhere": `(setsid sh -c 'trap "" TERM HUP; echo $$; echo ready; while :; do sleep 1; done' &) ; sleep 100`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, pids := sh(t, "test-"+strings.ReplaceAll(name, " ", "-"), script)
			if got := survivors(pids); len(got) != len(pids) || len(pids) == 0 {
				t.Fatalf("of %v only %v live before the kill", pids, got)
			}
			if err := tr.Kill(300 * time.Millisecond); err != nil {
				t.Error(err)
			}
			if left := survivors(pids); len(left) > 0 {
				t.Errorf("%v outlived the kill", left)
			}
			<-tr.Done()
			if tr.ProcessState() == nil || tr.Wait() == nil {
				t.Errorf("the root ended well: %v", tr.ProcessState())
			}
		})
	}
}

func TestKillAsksFirst(t *testing.T) {
	dir := t.TempDir()
	tr, _ := sh(t, "test-asks", fmt.Sprintf(`trap 'echo bye >%s/bye; exit 0' TERM; echo ready; while :; do sleep 0.02; done`, dir))
	began := time.Now()
	if err := tr.Kill(patience); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/bye"); err != nil {
		t.Error("it was killed without being asked")
	}
	if time.Since(began) > patience/2 {
		t.Error("the grace was waited out though nothing was left")
	}
}

// A root that ends by itself leaves its daemons alone; a kill after that finds them still.
func TestDaemonOutlivesItsRoot(t *testing.T) {
	tr, pids := sh(t, "test-daemon", `setsid sleep 100 >/dev/null 2>&1 & echo $!; echo ready`)
	<-tr.Done()
	tr.Release()
	if len(survivors(pids)) != 1 {
		t.Fatal("the daemon ended with its root")
	}
	if err := tr.Kill(0); err != nil {
		t.Error(err)
	}
	if left := survivors(pids); len(left) > 0 {
		t.Errorf("%v outlived the kill", left)
	}
}

func TestKillMarked(t *testing.T) {
	_, mine := sh(t, "test-marked-1", `(setsid sleep 100 >/dev/null & echo $!); echo $$; echo ready; sleep 100`)
	_, other := sh(t, "test-marked-2", `echo $$; echo ready; sleep 100`)
	if err := KillMarked("test-marked-1", 0, 1, -1); err != nil {
		t.Error(err)
	}
	if left := survivors(mine); len(left) > 0 || len(mine) != 2 {
		t.Errorf("%v of %v outlived the kill", left, mine)
	}
	if len(survivors(other)) != len(other) {
		t.Error("another tree was killed")
	}
}

func TestNoTerminalAndOwnGroup(t *testing.T) {
	tr, _ := sh(t, "test-session", `echo ready; sleep 100`)
	pgid, err := syscall.Getpgid(tr.PID())
	if err != nil || pgid != tr.PID() {
		t.Errorf("group %d of %d: %v", pgid, tr.PID(), err)
	}
}

func TestStartFails(t *testing.T) {
	_, err := Start(exec.Command("/nonexistent/program"), "test-none")
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// With no descriptor left the process table can't be read. What is not seen is not gone.
func TestWhatCantBeSeenIsNotGone(t *testing.T) {
	for name, kill := range map[string]func(tr *Tree) error{
		"tree":   func(tr *Tree) error { return tr.Kill(0) },
		"marked": func(tr *Tree) error { return killMarked(tr.table, tr.marker, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			tr, pids := sh(t, "test-unseen-"+name, `setsid sleep 100 & echo $!; echo ready`)
			<-tr.Done() // only the daemon is left
			looks := 0
			tr.table = func() ([]proc, bool) {
				if looks++; looks < 6 {
					return nil, false
				}
				return procs()
			}
			if n := tr.left(); n == 0 {
				t.Error("it is taken for gone")
			}
			if err := kill(tr); err != nil {
				t.Error(err)
			}
			if left := survivors(pids); len(left) != 0 {
				t.Errorf("%v outlived it", left)
			}
		})
	}
	if whole(nil) || whole([]proc{{pid: 1}}) {
		t.Error("a table without this process is taken for one")
	}
}

func TestMembers(t *testing.T) {
	self := os.Getpid()
	all := []proc{
		{pid: 1}, {pid: self, ppid: 1, pgrp: self, sid: self},
		{pid: 100001, ppid: self, pgrp: 100001, sid: 100001},   // the root
		{pid: 100002, ppid: 100001, pgrp: 100001, sid: 100001}, // child
		{pid: 100003, ppid: 100002, pgrp: 100003, sid: 100003}, // setsid, parent lives
		{pid: 100004, ppid: 1, pgrp: 100001, sid: 100001},      // orphan in the group
		{pid: 100005, ppid: 1, pgrp: 100005, sid: 100005},      // daemon, has the marker
		{pid: 100006, ppid: 100005, pgrp: 100005, sid: 100005}, // its child, without
		{pid: 100007, ppid: 1, pgrp: 100007, sid: 100007},      // a stranger
	}
	marker := func(p proc) bool { return p.pid == 100005 || p.pid == self || p.pid == 1 }
	pick := func(all []proc, roots ...root) (pids []int) {
		for _, p := range members(all, roots, marker) {
			pids = append(pids, p.pid)
		}
		slices.Sort(pids)
		return pids
	}
	if got, want := pick(all, root{pid: 100001}), []int{100001, 100002, 100003, 100004, 100005, 100006}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// The root was reaped and its number given away: only the marker counts.
	if got, want := pick(all, root{pid: 100001, reaped: true}), []int{100005, 100006}; !slices.Equal(got, want) {
		t.Errorf("reused number: %v, want %v", got, want)
	}
	gone := slices.DeleteFunc(slices.Clone(all), func(p proc) bool { return p.pid == 100001 })
	if got, want := pick(gone, root{pid: 100001, reaped: true}), []int{100002, 100003, 100004, 100005, 100006}; !slices.Equal(got, want) {
		t.Errorf("reaped root: %v, want %v", got, want)
	}
	if got := pick(all, root{pid: 0}, root{pid: 1}); !slices.Equal(got, []int{100005, 100006}) {
		t.Errorf("pids 0 and 1: %v", got)
	}
}
