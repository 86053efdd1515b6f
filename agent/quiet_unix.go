//go:build unix

package agent

import "syscall"

// quietNice is how much a process that nobody waits for gives way (nice(1)).
const quietNice = 10

// prioGroup is PRIO_PGRP of <sys/resource.h>: all threads of all processes of a group.
const prioGroup = 1

// giveWay lets the process group that pid leads run after others.
func giveWay(pid int) error { return syscall.Setpriority(prioGroup, pid, quietNice) }
