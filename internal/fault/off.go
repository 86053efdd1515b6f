//go:build !faults

package fault

import "time"

// Of names the fault label as it strikes who alone.
func Of(string, string) string { return "" }

// Active reports whether the fault named label is switched on.
func Active(string) bool { return false }

// Stall blocks while the fault named label is switched on.
func Stall(string) {}

// Die ends this process at once, once, if the fault named label is switched on.
func Die(string) {}

// Env gives the value of an environment variable that only fault builds obey.
func Env(string) string { return "" }

// Now is this machine's clock.
func Now() time.Time { return time.Now() }

// Clock is what this machine's clock said at t.
func Clock(t time.Time) time.Time { return t }
