//go:build !linux

package footprint

// dropProgramPages has no counterpart here.
func dropProgramPages() {}
