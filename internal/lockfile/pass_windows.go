package lockfile

import "errors"

// Pass can't be: a process does not become another here.
func (l *Lock) Pass() (text string, err error) { return "", errors.ErrUnsupported }

// Keep has nothing to take back.
func (l *Lock) Keep() error { return nil }

// Adopt takes file as [Take] does.
func Adopt(_, file string) (*Lock, error) { return Take(file) }
