package tree

import (
	"bytes"

	"golang.org/x/sys/unix"
)

const stateZombie = 5 // SZOMB of <sys/proc.h>

// procs reads the process table, without zombies; ok is false if it can't be read.
func procs() (out []proc, ok bool) {
	list, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil, false
	}
	out = make([]proc, 0, len(list))
	for _, k := range list {
		if k.Proc.P_stat == stateZombie {
			continue
		}
		out = append(out, fromKinfo(&k))
	}
	return out, whole(out)
}

func fromKinfo(k *unix.KinfoProc) proc {
	return proc{
		pid: int(k.Proc.P_pid), ppid: int(k.Eproc.Ppid), pgrp: int(k.Eproc.Pgid),
		start: uint64(k.Proc.P_starttime.Sec)*1e6 + uint64(k.Proc.P_starttime.Usec),
	}
}

// same tells whether p's number is still p's.
func same(p proc) bool {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", p.pid)
	return err == nil && fromKinfo(k).start == p.start
}

// marked looks for the marker in p's environment. The system hides that of
// its own protected programs, so a marked process may be missed, never a
// stranger taken.
func marked(p proc, marker string) bool {
	raw, err := unix.SysctlRaw("kern.procargs2", p.pid)
	return err == nil && bytes.Contains(raw, []byte("\x00"+Env+"="+marker+"\x00"))
}

// orphans are those of pids that lead their group and have lost their parent.
func orphans(all []proc, pids []int) []root {
	var out []root
	for _, pid := range pids {
		for _, p := range all {
			if p.pid == pid && p.pgrp == pid && p.ppid == 1 {
				out = append(out, root{pid: pid})
			}
		}
	}
	return out
}
