package harness

import (
	"slices"

	"github.com/shirou/gopsutil/v4/process"
)

// descendants finds the processes below pid, in whatever group or session.
func descendants(pid int) []int {
	all, err := process.Pids() // no more is asked of each than its parent
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, id := range all {
		if parent, err := (&process.Process{Pid: id}).Ppid(); err == nil {
			children[int(parent)] = append(children[int(parent)], int(id))
		}
	}
	var below []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, child := range children[queue[0]] {
			if !slices.Contains(below, child) {
				below = append(below, child)
				queue = append(queue, child)
			}
		}
	}
	return below
}

// below finds the children of pid whose command line has word as one of its words.
// Children only: a job that was forked and has not begun its own program yet still
// has the worker's command line.
func below(pid int, word string) (found []int) {
	for _, child := range descendants(pid) {
		p := &process.Process{Pid: int32(child)}
		if parent, err := p.Ppid(); err != nil || int(parent) != pid {
			continue
		}
		if words, err := p.CmdlineSlice(); err == nil && slices.Contains(words, word) {
			found = append(found, child)
		}
	}
	return found
}
