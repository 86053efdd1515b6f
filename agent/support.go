package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gururmm/agent/bundle"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/internal/atomicfile"
	"gururmm/internal/fileerr"
	"gururmm/internal/version"
)

// maxDoctor bounds the doctor's report in bytes.
const maxDoctor = 1 << 20

// BundleOrder says which support bundle to make.
type BundleOrder struct {
	// File to write, which must not be there; "": a name of its own in the working directory.
	File   string
	Reason string
	ID     string // "": a fresh one
	// NoDoctor leaves out the doctor's visit, which dials and takes up to a minute.
	NoDoctor bool
}

// MakeBundle gathers a support bundle and writes it, 0600: whole and read back, or
// not at all. It works with what there is: a guardian that does not run, a worker that
// is frozen or a configuration that is refused costs only what they would have told.
func MakeBundle(ctx context.Context, o Options, order BundleOrder) (file string, m bundle.Manifest, err error) {
	dir, err := bundleState(o)
	if err != nil {
		return "", m, err
	}
	if file = order.File; file == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "endpoint"
		}
		file = fmt.Sprintf("gururmm-bundle-%s-%s.tar.gz", filepath.Base(host), time.Now().UTC().Format("20060102T150405Z"))
	}
	// Made before what is slow: a place that can't be written is said at once.
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", m, fmt.Errorf("%s is there already, and is left as it is: choose another name with --output", file)
	}
	if err != nil {
		return "", m, fmt.Errorf("no file %s can be made: %w; choose another place with --output", file, fileerr.Why(err))
	}
	m, err = writeBundle(ctx, o, order, dir, out)
	if err = errors.Join(err, out.Close()); err == nil {
		err = checkBundle(file)
	}
	if err != nil { // a cut one must not pass for a bundle
		return "", m, errors.Join(err, os.Remove(file))
	}
	return file, m, nil
}

// writeBundle fills file.
func writeBundle(ctx context.Context, o Options, order BundleOrder, dir string, file *os.File) (bundle.Manifest, error) {
	packed, m, err := packBundle(ctx, o, order, dir)
	if err != nil {
		return m, err
	}
	if _, err = file.Write(packed); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(file.Name()))
	}
	if err != nil {
		return m, fmt.Errorf("the bundle of %d bytes is not written: %w; nothing of it is left: free space, or choose another place with --output", len(packed), err)
	}
	return m, nil
}

// StreamBundle gathers a support bundle and writes it to w.
func StreamBundle(ctx context.Context, o Options, order BundleOrder, w io.Writer) (m bundle.Manifest, bytes int, err error) {
	dir, err := bundleState(o)
	if err != nil {
		return m, 0, err
	}
	packed, m, err := packBundle(ctx, o, order, dir)
	if err != nil {
		return m, 0, err
	}
	if _, err := w.Write(packed); err != nil {
		return m, 0, fmt.Errorf("the bundle of %d bytes is not written: %w", len(packed), err)
	}
	return m, len(packed), nil
}

// bundleState is the state directory that a bundle is made of.
func bundleState(o Options) (string, error) {
	dir, _, err := stateDir(o.StateDir)
	if err != nil {
		return "", err
	}
	if _, err := os.ReadDir(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no agent's state in %s (another one? --state-dir)", dir)
	} else if err != nil {
		return "", fmt.Errorf("the state directory %s can't be read: %w; %s", dir, fileerr.Why(err), state.ElseRoot(err, "name the agent's own with --state-dir"))
	}
	return dir, nil
}

// packBundle gathers what order says.
func packBundle(ctx context.Context, o Options, order BundleOrder, dir string) ([]byte, bundle.Manifest, error) {
	options := bundle.Options{ID: order.ID, Reason: order.Reason, StateDir: dir, Version: version.Version}
	socket, err := FindSocket(o)
	if err == nil {
		options.Guardian = local.NewClient(socket)
	}
	own := &Setup{Path: dir}
	visit := func(ctx context.Context) ([]byte, error) {
		raw, err := own.process(ctx, false, maxDoctor, visitArgs(socket)...)
		if len(bytes.TrimSpace(raw)) > 0 {
			return raw, nil // it found a fault: that is no error here
		}
		return nil, err
	}
	if !order.NoDoctor {
		options.Doctor = visit
	}
	return bundle.Make(ctx, options)
}

// visitArgs are the arguments of the doctor that visits for a bundle: it asks the guardian
// that the bundle asks. socket is "" if none was found.
func visitArgs(socket string) []string {
	args := []string{"doctor", "--json"}
	if socket != "" {
		args = append(args, "--status-socket", socket)
	}
	return args
}

// checkBundle reads back what was written: a bundle that can't be read is none.
func checkBundle(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = bundle.Read(f)
	return err
}
