package tree

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// procs reads the process table, without zombies; ok is false if it can't be read: no
// descriptor is left, say.
func procs() (out []proc, ok bool) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, false
	}
	out = make([]proc, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, lives, err := readStat(pid)
		switch {
		case lives:
			out = append(out, p)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH): // it has ended
		case errors.Is(err, fs.ErrPermission): // hidden from us: none of ours
		case err != nil:
			return nil, false
		}
	}
	return out, whole(out)
}

// readStat reads /proc/PID/stat (proc_pid_stat(5)); a zombie does not live.
func readStat(pid int) (p proc, lives bool, err error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false, err
	}
	// The name, in parentheses, may hold anything: fields count from the last one.
	_, rest, found := cutLast(raw, ')')
	f := bytes.Fields(rest)
	if !found || len(f) < 20 || f[0][0] == 'Z' || f[0][0] == 'X' {
		return p, false, nil
	}
	num := func(i int) int { n, _ := strconv.Atoi(string(f[i])); return n }
	p = proc{pid: pid, ppid: num(1), pgrp: num(2), sid: num(3)}
	p.start, _ = strconv.ParseUint(string(f[19]), 10, 64)
	return p, true, nil
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
	now, lives, _ := readStat(p.pid)
	return lives && now.start == p.start
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
