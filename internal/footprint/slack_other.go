//go:build !linux

package footprint

import "time"

// Slack does nothing: this platform has no such setting for a process.
func Slack(time.Duration) {}

// Punctual runs start.
func Punctual(start func() error) error { return start() }
