package tree

import (
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// handle is the job object. KILL_ON_JOB_CLOSE ends the tree also when the
// process that holds the only handle of it dies.
type handle struct {
	mu  sync.Mutex
	job windows.Handle // 0: released
}

// start creates the root suspended, so that it can't start anything before it is in the job.
func (t *Tree) start(string) error {
	job, err := newJob()
	if err != nil {
		return err
	}
	t.cmd.SysProcAttr = &syscall.SysProcAttr{
		HideWindow: true,
		CreationFlags: windows.CREATE_SUSPENDED | windows.CREATE_NEW_PROCESS_GROUP |
			windows.CREATE_NO_WINDOW,
	}
	if err := t.cmd.Start(); err != nil {
		return errors.Join(err, windows.CloseHandle(job))
	}
	if err := adopt(job, t.cmd.Process.Pid); err != nil {
		// It never ran a single instruction of its own.
		return errors.Join(err, t.cmd.Process.Kill(), ignoreExit(t.cmd.Wait()), windows.CloseHandle(job))
	}
	t.job = job
	return nil
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

func newJob() (windows.Handle, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return 0, fmt.Errorf("create job object: %w", err)
	}
	if err := limit(job, windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE); err != nil {
		return 0, errors.Join(err, windows.CloseHandle(job))
	}
	return job, nil
}

func limit(job windows.Handle, flags uint32) error {
	info := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: flags},
	}
	_, err := windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err != nil {
		return fmt.Errorf("limit job object: %w", err)
	}
	return nil
}

// adopt puts the suspended process pid into job and lets it run.
func adopt(job windows.Handle, pid int) error {
	p, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(pid))
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer windows.CloseHandle(p)
	if err := windows.AssignProcessToJobObject(job, p); err != nil {
		return fmt.Errorf("assign process %d to its job object: %w", pid, err)
	}
	return resume(pid)
}

// resume wakes the one thread of a process created suspended. os/exec has closed
// the handle CreateProcess gave, so it is looked up.
func resume(pid int) error {
	snap, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPTHREAD, 0)
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	defer windows.CloseHandle(snap)
	entry := windows.ThreadEntry32{Size: uint32(unsafe.Sizeof(windows.ThreadEntry32{}))}
	for err = windows.Thread32First(snap, &entry); err == nil; err = windows.Thread32Next(snap, &entry) {
		if entry.OwnerProcessID != uint32(pid) {
			continue
		}
		thread, err := windows.OpenThread(windows.THREAD_SUSPEND_RESUME, false, entry.ThreadID)
		if err != nil {
			return fmt.Errorf("open thread of process %d: %w", pid, err)
		}
		_, err = windows.ResumeThread(thread)
		return errors.Join(err, windows.CloseHandle(thread))
	}
	return fmt.Errorf("process %d has no thread to resume", pid)
}

// Release leaves what is left of an ended root's tree alone.
func (t *Tree) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.job == 0 {
		return
	}
	_ = limit(t.job, 0) // without KILL_ON_JOB_CLOSE; if that fails closing kills, which is the safer end
	_ = windows.CloseHandle(t.job)
	t.job = 0
}

// ask: a process without a window or console can't be asked.
func (t *Tree) ask() bool { return false }

func (t *Tree) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.job != 0 {
		_ = windows.TerminateJobObject(t.job, 1) // left tells whether it worked
	}
}

// accounting is JOBOBJECT_BASIC_ACCOUNTING_INFORMATION of <winnt.h>.
type accounting struct {
	TotalUserTime, TotalKernelTime, ThisPeriodTotalUserTime, ThisPeriodTotalKernelTime int64
	TotalPageFaultCount, TotalProcesses, ActiveProcesses, TotalTerminatedProcesses     uint32
}

const basicAccounting = 1 // JobObjectBasicAccountingInformation

func (t *Tree) left() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.job == 0 {
		return 0
	}
	var info accounting
	err := windows.QueryInformationJobObject(t.job, basicAccounting,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)), nil)
	if err != nil {
		return 1 // not known: not gone
	}
	return int(info.ActiveProcesses)
}

// KillMarked has nothing to do here: the trees of a process that is gone ended
// with its job handles. marker and pids are not looked at.
func KillMarked(marker string, pids ...int) error { return nil }
