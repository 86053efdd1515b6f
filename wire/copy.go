package wire

import "slices"

// Copy tells which copy of an identity speaks: an image of a machine carries the
// key along. It rides in the claims of each token, so that both doors know who calls.
type Copy struct {
	Instance    string `json:"ins,omitempty"` // fresh id of each guardian start
	BootID      string `json:"bid,omitempty"`
	Fingerprint string `json:"fpr,omitempty"`
	Hostname    string `json:"hst,omitempty"`
	// Before are the instances that the same state directory served before, newest
	// first, at most [MaxBefore]: copies share those from before the image was taken.
	Before []string `json:"bef,omitempty"`
}

// MaxBefore bounds Copy.Before.
const MaxBefore = 4

// maxCopyField bounds each field of a Copy in bytes.
const maxCopyField = 256

// CopyOf gives the copy that p speaks of.
func CopyOf(p Presence) Copy {
	return Copy{Instance: p.Instance, BootID: p.BootID, Fingerprint: p.Fingerprint, Hostname: p.Platform.Hostname}
}

// Valid reports whether c names an instance and keeps its bounds.
func (c Copy) Valid() bool {
	long := func(s string) bool { return len(s) > maxCopyField }
	return c.Instance != "" && !long(c.Instance) && !long(c.BootID) && !long(c.Fingerprint) && !long(c.Hostname) &&
		len(c.Before) <= MaxBefore && !slices.ContainsFunc(c.Before, long)
}

// SameBoot reports whether both speak from one boot of one machine, as far as that can be told.
func (c Copy) SameBoot(o Copy) bool {
	return c.BootID != "" && c.BootID == o.BootID && c.Fingerprint == o.Fingerprint
}

// Which tells to which of two copies c belongs, that is: whose it is or became by
// restarts; 0: it can't be told. A fingerprint decides where they differ, then the
// boot, then the chain of instances.
func (c Copy) Which(a, b Copy) int {
	pick := func(isA, isB bool) int {
		switch {
		case isA && !isB:
			return 1
		case isB && !isA:
			return 2
		}
		return 0
	}
	if n := pick(c.Instance == a.Instance, c.Instance == b.Instance); n != 0 {
		return n
	}
	if a.Fingerprint != b.Fingerprint {
		return pick(c.Fingerprint == a.Fingerprint && a.Fingerprint != "", c.Fingerprint == b.Fingerprint && b.Fingerprint != "")
	}
	if n := pick(c.SameBoot(a), c.SameBoot(b)); n != 0 {
		return n
	}
	for _, before := range c.Before { // the nearest decides: the copy has the first one's in its past
		if n := pick(before == a.Instance, before == b.Instance); n != 0 {
			return n
		}
	}
	return 0
}
