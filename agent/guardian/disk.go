package guardian

import (
	"path/filepath"
	"slices"
	"time"

	"gururmm/internal/diskfree"
	"gururmm/selfcheck"
)

// diskEvery is how often the disk below the state directory is looked at, at the turn
// of the loop that comes then: it is worth no wake of its own.
const diskEvery = 30 * time.Second

// diskState is what the loop knows of that disk.
type diskState struct {
	facts *selfcheck.DiskFacts // nil: not known
	next  time.Time            // when to look again
}

// diskDue lets the keeper look at the disk: the look may hang with it.
func (g *Guardian) diskDue(now time.Time) {
	if g.cfg.StateDir == "" || now.Before(g.disk.next) {
		return
	}
	g.disk.next = now.Add(diskEvery)
	var found selfcheck.DiskFacts
	look := func() error {
		room, err := diskfree.Of(g.cfg.StateDir)
		found = selfcheck.DiskFacts{Free: room.Free, Total: room.Total, SetAside: setAside(g.cfg.StateDir)}
		return err
	}
	g.keep(job{what: jobDisk, do: look, then: func(err error) {
		if g.disk.facts = nil; err == nil {
			g.disk.facts = &found
		}
	}})
}

// maxSetAside bounds the files that are named.
const maxSetAside = 5

// setAside names the damaged files that were kept aside in dir and just below it.
func setAside(dir string) []string {
	var names []string
	for _, pattern := range []string{"*.corrupt-*", filepath.Join("*", "*.corrupt-*")} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is good
		for _, path := range found {
			if name, err := filepath.Rel(dir, path); err == nil {
				names = append(names, filepath.ToSlash(name))
			}
		}
	}
	slices.Sort(names)
	return names[:min(len(names), maxSetAside)]
}
