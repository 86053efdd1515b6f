package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CPU is what the living threads of one process have used of all cores, from
// /proc/PID/task/*/schedstat (nanoseconds; times(2) counts in steps of 10 ms).
func CPU(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d has no threads to weigh: %w", pid, errors.Join(err, os.ErrProcessDone))
	}
	var all time.Duration
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // that thread has just ended
		}
		var used int64
		if err == nil {
			_, err = fmt.Sscan(string(raw), &used)
		}
		if err != nil {
			return 0, fmt.Errorf("weigh process %d: %w", pid, err)
		}
		all += time.Duration(used)
	}
	return all, nil
}

// Memory of processes together, in bytes: RSS from /proc/PID/status, PSS (shared
// pages counted once among their users) from /proc/PID/smaps_rollup; see proc(5).
func Memory(pids ...int) (rss, pss int64, err error) {
	for _, pid := range pids {
		r, err := kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		if err != nil {
			return 0, 0, err
		}
		p, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if err != nil {
			return 0, 0, err
		}
		rss, pss = rss+r, pss+p
	}
	return rss, pss, nil
}

func kilobytes(file, field string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), field); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10, err
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("%s has no %s", file, field)
}
