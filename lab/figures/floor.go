package figures

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"gururmm/lab/harness"
	"gururmm/selfcheck"
)

// FloorWord as the first argument makes the measuring program one end of the floor.
const FloorWord = "floor"

// Floor is what an idle endpoint is measured beside, for what it costs to wake a process
// differs a hundredfold between machines: two processes, one of which sends the other the
// shortest report as often as a worker sends one to its guardian, and nothing else.
//
// It is the sending end with send, else the reading one, until the pipe ends.
func Floor(send bool, in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1) // as the agent does
	if !send {
		_, err := io.Copy(io.Discard, in)
		return err
	}
	tick := time.NewTicker(selfcheck.ReportEvery)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(out, `{"same":true}`+"\n"); err != nil {
			return nil // nobody reads any more
		}
	}
	return nil
}

// floor runs both ends for as long as do takes.
func floor(ctx context.Context, do func(pids []int) error) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	sender, reader := exec.CommandContext(ctx, self, FloorWord, "--send"), exec.CommandContext(ctx, self, FloorWord)
	if reader.Stdin, err = sender.StdoutPipe(); err != nil {
		end()
		return err
	}
	var pids []int
	for _, p := range []*exec.Cmd{reader, sender} {
		if err = p.Start(); err != nil {
			err = fmt.Errorf("start one end of the floor: %w", err)
			break
		}
		pids = append(pids, p.Process.Pid)
	}
	if err == nil {
		err = do(pids)
	}
	end()
	for _, p := range []*exec.Cmd{reader, sender}[:len(pids)] {
		_ = p.Wait() // killed: how it ended says nothing
	}
	return err
}

// spent gives what processes use of all cores in a minute, each group by itself, watched
// side by side for a time.
func spent(ctx context.Context, watch time.Duration, groups ...[]int) ([]time.Duration, error) {
	used := func() ([]time.Duration, error) {
		all := make([]time.Duration, len(groups))
		for i, pids := range groups {
			for _, pid := range pids {
				cpu, err := harness.CPU(pid)
				if err != nil {
					return nil, err
				}
				all[i] += cpu
			}
		}
		return all, nil
	}
	before, err := used()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := harness.Pause(ctx, watch); err != nil {
		return nil, err
	}
	minutes, err := used()
	if err != nil {
		return nil, err
	}
	for i := range minutes {
		minutes[i] = time.Duration(float64(minutes[i]-before[i]) * float64(time.Minute) / float64(time.Since(began)))
	}
	return minutes, nil
}
