//go:build unix

package tree

import (
	"os"
	"slices"
	"syscall"

	"gururmm/internal/footprint"
)

// handle is what to look for in the kernel's process table.
type handle struct {
	marker string
	table  func() (all []proc, ok bool)
}

func (t *Tree) start(marker string) error {
	t.marker, t.table = marker, procs
	// A new session: no terminal to read a password from, and a group of its own.
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return footprint.Punctual(t.cmd.Start)
}

// Release leaves what is left of an ended root's tree alone.
func (t *Tree) Release() {}

// ask sends SIGTERM; a stopped process is woken to take it.
func (t *Tree) ask() bool {
	t.signal(syscall.SIGTERM)
	t.signal(syscall.SIGCONT)
	return true
}

func (t *Tree) kill() { t.signal(syscall.SIGKILL) }

func (t *Tree) left() int { return counted(t.members()) }

// counted is how many processes are left; ok is false if that is not known.
func counted(members []proc, ok bool) int {
	if !ok {
		return 1 // not known: not gone
	}
	return len(members)
}

// signal reaches the group first, whatever becomes of the look at the process table.
func (t *Tree) signal(sig syscall.Signal) {
	if !t.reaped() {
		_ = syscall.Kill(-t.PID(), sig)
	}
	members, _ := t.members()
	signalAll(members, sig)
}

func (t *Tree) reaped() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// members are the tree's processes; ok is false if they are not known.
func (t *Tree) members() (ps []proc, ok bool) {
	all, ok := t.table()
	if !ok {
		return nil, false
	}
	return members(all, []root{{pid: t.PID(), reaped: t.reaped()}}, func(p proc) bool { return marked(p, t.marker) }), true
}

// KillMarked kills at once what is left of trees started with marker by a
// process that is gone. Linux finds all of them by the marker and ignores pids;
// elsewhere pids name the roots, and one counts only while it
// leads its group and has lost its parent, so that a reused number is not hit.
func KillMarked(marker string, pids ...int) error { return killMarked(procs, marker, pids) }

func killMarked(table func() (all []proc, ok bool), marker string, pids []int) error {
	find := func() ([]proc, bool) {
		all, ok := table()
		return members(all, orphans(all, pids), func(p proc) bool { return marked(p, marker) }), ok
	}
	return finish(func() int { return counted(find()) }, func() {
		found, _ := find()
		signalAll(found, syscall.SIGKILL)
	})
}

// whole says that all is a process table: this process, at least, is in it.
func whole(all []proc) bool {
	self := os.Getpid()
	return slices.ContainsFunc(all, func(p proc) bool { return p.pid == self })
}

// proc is one line of the process table. Zombies are not in it.
type proc struct {
	pid, ppid, pgrp int
	sid             int    // 0: not known
	start           uint64 // tells a reused pid; 0: not known
}

// root is the first process of a tree.
type root struct {
	pid    int
	reaped bool // its number may belong to another by now
}

// members picks the processes of trees from a process table.
func members(all []proc, roots []root, marked func(proc) bool) []proc {
	in := make(map[int]bool, 8)
	var out []proc
	self := os.Getpid()
	add := func(p proc) bool {
		if p.pid <= 1 || p.pid == self || in[p.pid] {
			return false
		}
		in[p.pid] = true
		out = append(out, p)
		return true
	}
	for _, r := range roots {
		if r.pid <= 1 {
			continue
		}
		if r.reaped && slices.ContainsFunc(all, func(p proc) bool { return p.pid == r.pid }) {
			continue // the number was given to a stranger: group and session of it are not ours
		}
		for _, p := range all {
			if p.pid == r.pid || p.pgrp == r.pid || p.sid == r.pid {
				add(p)
			}
		}
	}
	for _, p := range all {
		if !in[p.pid] && marked(p) {
			add(p)
		}
	}
	for grown := true; grown; { // descendants of any member
		grown = false
		for _, p := range all {
			if in[p.ppid] && add(p) {
				grown = true
			}
		}
	}
	return out
}

func signalAll(ps []proc, sig syscall.Signal) {
	for _, p := range ps {
		h, err := os.FindProcess(p.pid) // a pidfd on Linux: from here on the number can't be reused
		if err != nil {
			continue
		}
		if same(p) {
			_ = h.Signal(sig) // it may have ended: the next look tells
		}
		_ = h.Release()
	}
}
