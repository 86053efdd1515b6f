package tree

import (
	"bytes"
	"os"
	"strconv"
)

// procs reads the process table, without zombies. What can't be read has ended.
func procs() []proc {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	out := make([]proc, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readStat(pid); ok {
			out = append(out, p)
		}
	}
	return out
}

// readStat reads /proc/PID/stat (proc_pid_stat(5)); ok is false for a zombie.
func readStat(pid int) (p proc, ok bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false
	}
	// The name, in parentheses, may hold anything: fields count from the last one.
	_, rest, found := cutLast(raw, ')')
	f := bytes.Fields(rest)
	if !found || len(f) < 20 || f[0][0] == 'Z' || f[0][0] == 'X' {
		return p, false
	}
	num := func(i int) int { n, _ := strconv.Atoi(string(f[i])); return n }
	p = proc{pid: pid, ppid: num(1), pgrp: num(2), sid: num(3)}
	p.start, _ = strconv.ParseUint(string(f[19]), 10, 64)
	return p, true
}

func cutLast(b []byte, sep byte) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(b, sep)
	if i < 0 {
		return b, nil, false
	}
	return b[:i], b[i+1:], true
}

// same tells whether p's number is still p's.
func same(p proc) bool {
	now, ok := readStat(p.pid)
	return ok && now.start == p.start
}

// marked looks for the marker in p's environment as it was when p's program was started.
func marked(p proc, marker string) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/environ")
	if err != nil {
		return false
	}
	want := []byte(Env + "=" + marker + "\x00")
	return bytes.HasPrefix(env, want) || bytes.Contains(env, append([]byte{0}, want...))
}

// orphans: on Linux the marker finds them all.
func orphans([]proc, []int) []root { return nil }
