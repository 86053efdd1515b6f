package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gururmm/agent/state"
	"gururmm/checkup"
	"gururmm/internal/diskfree"
	"gururmm/internal/lockfile"
)

// adviseStart says how to start the agent.
const adviseStart = "Start it: gururmm-agent start, or with a package: systemctl start gururmm-agent."

// state looks at the state directory, and changes nothing in it.
func (r *run) state(res *checkup.Result) {
	dir := r.subject.StateDir
	res.Target = dir
	d, exposed, err := state.Look(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		warn(res, dir+" is not there: nothing is enrolled here", "Enroll this endpoint, or name its directory with --state-dir.")
		return
	case errors.Is(err, fs.ErrPermission):
		fail(res, "it can't be entered by this account", "Run the doctor as the account that the agent runs as (root, administrator).")
		return
	case err != nil:
		fail(res, err.Error(), "Name the agent's own directory with --state-dir.")
		return
	}
	if err := d.Trial(); err != nil {
		fail(res, "it can't be written: "+err.Error(), "Make room or the file system writable: without it no command is accepted, for none could be journaled.")
		return
	}
	switch {
	case exposed != nil:
		fail(res, exposed.Error(), "The endpoint's key lies in it: mend what is said here ("+state.PrivateBy(dir)+" makes it private), and enroll anew if others may have read it.")
	case r.subject.Broken != "":
		fail(res, r.subject.Broken, "Mend the file, or put back a copy of it: the agent does not start with it as it is.")
	case r.subject.NotEnrolled != "":
		warn(res, dir+" is private and writable; "+r.subject.NotEnrolled, "Enroll this endpoint: gururmm-agent enroll --server URL --token-file FILE.")
	default:
		pass(res, dir+" is private and writable")
	}
}

const (
	// diskFail is less than one command's output and its journal take; diskWarn leaves
	// an operator a while.
	diskFail, diskWarn = 16 << 20, 256 << 20 // bytes
	// filesFail and filesWarn are files (inodes) that can still be made.
	filesFail, filesWarn = 100, 2000
)

// disk tells what is free where the state is kept.
func (r *run) disk(res *checkup.Result) {
	dir := r.subject.StateDir
	for { // before enrollment the directory is not there: the file system is
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	res.Target = dir
	of := r.subject.Room
	if of == nil {
		of = diskfree.Of
	}
	room, err := of(dir)
	if err != nil {
		fail(res, err.Error(), "See that the disk of that directory is mounted and answers, and that this account may enter it.")
		return
	}
	seen := fmt.Sprintf("%s free of %s", sizeOf(room.Free), sizeOf(room.Total))
	res.Figures = map[string]any{"free_bytes": room.Free, "total_bytes": room.Total}
	files := int64(-1)
	if room.Files > 0 {
		files = int64(room.FreeFiles)
		seen += fmt.Sprintf(", %d more files can be made", room.FreeFiles)
		res.Figures["free_files"] = room.FreeFiles
	}
	const do = "Free space on the file system of the state directory: commands are refused when their journal can't be written."
	switch {
	case room.Free < diskFail || files >= 0 && files < filesFail:
		fail(res, seen, do)
	case room.Free < diskWarn || files >= 0 && files < filesWarn:
		warn(res, seen, do)
	default:
		pass(res, seen)
	}
}

func sizeOf(n uint64) string {
	switch {
	case n < 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n < 10<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}

// instance tells who holds the state directory, and whether the guardian that
// answers is the same.
func (r *run) instance(ctx context.Context, res *checkup.Result) {
	res.Target = r.subject.LockFile
	holder, held, err := lockfile.Holder(r.subject.LockFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // no such file: nobody ever held it
		fail(res, err.Error(), "Run the doctor as the account that the agent runs as (root, administrator).")
		return
	}
	running, err := r.running(ctx)
	answers := err == nil
	silent, hangs := errors.AsType[*SilentError](err)
	res.Figures = map[string]any{"lock_held": held}
	if held {
		res.Figures["lock_pid"] = holder
	}
	if answers {
		res.Figures["status_pid"] = running.PID
	}
	switch {
	case held && answers && (holder == running.PID || holder == 0):
		pass(res, fmt.Sprintf("one guardian: process %d holds the lock and answers", running.PID))
	case held && answers:
		fail(res, fmt.Sprintf("process %d holds the lock, but process %d answers at %s", holder, running.PID, running.Socket),
			"Two guardians run with different state directories: stop the one that should not be, or give it a status socket of its own.")
	case held && hangs:
		fail(res, fmt.Sprintf("process %d holds the lock, and does not answer", holder), silent.Do)
	case held && errors.Is(err, ErrNotRunning):
		fail(res, fmt.Sprintf("process %d holds the lock, and nobody answers at the status socket", holder),
			"Look what that process is; a guardian that does not answer is restarted with: gururmm-agent restart.")
	case held:
		warn(res, fmt.Sprintf("process %d holds the lock; its status is not to be had: %v", holder, err),
			"Run the doctor as the account that the agent runs as (root, administrator).")
	case answers:
		fail(res, fmt.Sprintf("process %d answers at %s, but does not hold the lock of this state directory", running.PID, running.Socket),
			"Another agent runs beside this one: name its directory with --state-dir, or stop it.")
	case r.subject.NotEnrolled != "":
		res.Status, res.Seen = checkup.Skip, "no guardian runs: "+r.subject.NotEnrolled
	default:
		warn(res, "no guardian runs with this state directory", cmp.Or(r.subject.Start, adviseStart))
	}
}

// guardian gives the running agent's own word.
func (r *run) guardian(ctx context.Context, res *checkup.Result) {
	running, err := r.running(ctx)
	silent, hangs := errors.AsType[*SilentError](err)
	switch {
	case hangs:
		fail(res, silent.Seen, silent.Do)
	case errors.Is(err, ErrNotRunning):
		res.Status, res.Seen = checkup.Skip, "no guardian runs"
	case err != nil:
		warn(res, err.Error(), "Run the doctor as the account that the agent runs as (root, administrator).")
	default:
		res.Target = running.Socket
		take(res, running.Verdict)
	}
}

func (r *run) running(ctx context.Context) (Running, error) {
	if r.subject.Guardian == nil {
		return Running{}, ErrNotRunning
	}
	return r.subject.Guardian(ctx)
}
