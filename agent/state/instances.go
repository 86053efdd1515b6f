package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"gururmm/internal/atomicfile"
	"gururmm/wire"
)

// instancesFile lists the guardian starts of this state directory, newest first.
const instancesFile = "instances.json"

// maxInstances bounds that file in bytes.
const maxInstances = 4 << 10

// Instances notes that the guardian start called instance serves this state
// directory now, and gives the ones before it, newest first. By that chain the
// server can tell two machines apart whose images are alike. A file that can't be
// used begins anew: nothing hangs on it but that.
func (d *Dir) Instances(instance string) (before []string, err error) {
	var all []string
	raw, err := d.read(instancesFile, maxInstances)
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		all = nil
	}
	if len(all) == 0 || all[0] != instance {
		all = slices.Insert(all, 0, instance)
		all = all[:min(len(all), wire.MaxBefore+1)]
		raw, merr := json.Marshal(all)
		if merr == nil {
			merr = atomicfile.Write(d.Path(instancesFile), raw, 0o600)
		}
		if merr != nil {
			err = fmt.Errorf("%s: %w", d.Path(instancesFile), merr)
		} else {
			err = nil
		}
	}
	return slices.DeleteFunc(all[1:], func(s string) bool { return s == "" || len(s) > 64 }), err
}
