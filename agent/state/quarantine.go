package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"gururmm/internal/atomicfile"
)

// quarantineFile is there while an operator wants no command run here. That it is
// there is enough, whatever is in it.
const quarantineFile = "quarantine.json"

// Quarantine is why, and since when.
type Quarantine struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
}

// Quarantined reports whether no command may run here. It asks the disk each time, and
// so does the worker at each command; the guardian tells what it last put there or found.
// Where the disk can't tell, none may run.
func (d *Dir) Quarantined() bool {
	_, err := os.Lstat(d.Path(quarantineFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// QuarantineReason tells why; the zero value if there is none, or it can't be read.
func (d *Dir) QuarantineReason() (q Quarantine) {
	if raw, err := d.read(quarantineFile, maxConfig); err == nil {
		_ = json.Unmarshal(raw, &q) // that the file is there is what counts
	}
	return q
}

// SetQuarantine begins (or goes on with) a quarantine; nil ends it. It is on disk when it returns.
func (d *Dir) SetQuarantine(q *Quarantine) error {
	var err error
	if q == nil {
		if err = os.Remove(d.Path(quarantineFile)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		err = errors.Join(err, atomicfile.SyncDir(d.Path("")))
	} else {
		var raw []byte
		if raw, err = json.Marshal(q); err == nil {
			err = atomicfile.Write(d.Path(quarantineFile), raw, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	return nil
}
