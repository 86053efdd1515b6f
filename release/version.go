package release

import (
	"errors"
	"fmt"

	"golang.org/x/mod/semver"

	"gururmm/wire"
)

// Errors of [Allow].
var (
	// ErrSame: this version runs already.
	ErrSame = errors.New("this version runs already")
	// ErrDowngrade: it is older than the one that runs, and nobody allowed that.
	ErrDowngrade = errors.New("older than the version that runs")
	// ErrPlatform: it is for another operating system or architecture.
	ErrPlatform = errors.New("for another platform")
)

// maxVersion bounds a version in bytes: it becomes part of a directory's name.
const maxVersion = 64

// CheckVersion refuses what is not a whole semantic version with its v: "v1.2.3",
// "v1.2.3-rc.1" (semver.org 2.0.0). Build metadata ("+…") is refused: versions that
// differ only in it have no order.
func CheckVersion(v string) error {
	if len(v) > maxVersion || !semver.IsValid(v) || semver.Canonical(v) != v {
		return fmt.Errorf("version %.80q is not like v1.2.3 or v1.2.3-rc.1, of at most %d bytes", v, maxVersion)
	}
	return nil
}

// Compare is negative if a is older than b, 0 if they are equal, positive if newer. What is
// no semantic version (a developer's build) is older than any that is one.
func Compare(a, b string) int { return semver.Compare(a, b) }

// Allow decides whether b may take the place of the version that runs on
// os/arch. The error wraps [ErrPlatform], [ErrSame] or [ErrDowngrade].
func Allow(b wire.Build, running, os, arch string) error {
	if b.OS != os || b.Arch != arch {
		return fmt.Errorf("%w: it is for %s/%s, this is %s/%s", ErrPlatform, b.OS, b.Arch, os, arch)
	}
	if b.Version == running {
		return fmt.Errorf("%w: %s", ErrSame, running)
	}
	if Compare(b.Version, running) < 0 && !b.AllowDowngrade {
		return fmt.Errorf("%w: %s after %s; order it with the downgrade allowed, if that is meant", ErrDowngrade, b.Version, running)
	}
	return nil
}
