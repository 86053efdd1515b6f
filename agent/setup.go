// Package agent puts the endpoint's parts together: state, second door, guardian
// and worker, the service manager, and the words that people read.
//
// Rules that hold here:
//   - everything that can fail is done before the guardian starts;
//   - an endpoint that is not enrolled is not an error under a service manager: it waits;
//   - flags outrank the environment, which outranks agent.yaml.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/agent/versions"
	"gururmm/internal/lockfile"
)

// Options are what the command line and the environment say; empty fields are left to
// agent.yaml, then to the defaults.
type Options struct {
	StateDir     string
	StatusSocket string
	StatusGroup  string
	LogLevel     string
	// EnrollFile is where an order to enroll may lie, for a service: see [Setup].
	EnrollFile string
	Service    bool // run by a service manager
}

// Setup is Options made definite.
type Setup struct {
	Dir     *state.Dir
	Path    string // of Dir, absolute
	Config  state.Config
	Socket  string
	Group   string
	Level   string // debug, info, warn or error
	Service bool
	// EnrollFile may hold an order to enroll, and is then removed; "": no such file is looked for.
	EnrollFile string
	// FlushLogs, if set, is called before this process becomes another program. It must be bounded in time.
	FlushLogs func()

	events chan guardian.Event // from the service manager

	own      *versions.Entry        // the program of this process, once launched; nil: the installed one
	doubts   int                    // launches in a row that did not know, or could not note, what shall run
	exit     func(code int)         // ends this process; a test's own
	becomes  becomer                // become; a test's own
	isolated atomic.Pointer[string] // of a quarantine in force, as last read from disk; the guardian's loop reads it, its keeper sets it
}

// becomer makes this process the program at path, as [Setup.become] does.
type becomer func(ctx context.Context, path string, env []string, lock *lockfile.Lock, log *slog.Logger) error

// maxPending is how many events of the platform may wait for the guardian.
const maxPending = 8

// Prepare opens the state directory and reads agent.yaml.
func Prepare(o Options) (*Setup, error) {
	path, isDefault, err := stateDir(o.StateDir)
	if err != nil {
		return nil, err
	}
	dir, err := state.Open(path)
	if err != nil {
		return nil, err
	}
	config, err := dir.Config()
	if err != nil {
		return nil, err
	}
	s := &Setup{Dir: dir, Path: path, Config: config, Service: o.Service, events: make(chan guardian.Event, maxPending), exit: os.Exit}
	s.becomes = s.become
	s.Socket = cmp.Or(o.StatusSocket, config.StatusSocket, local.SocketPath(path, isDefault))
	s.Group = cmp.Or(o.StatusGroup, config.StatusGroup, local.StatusGroup)
	s.Level = cmp.Or(o.LogLevel, config.LogLevel, "info")
	if s.Service {
		s.EnrollFile = o.EnrollFile
		if s.EnrollFile == "" && isDefault {
			s.EnrollFile = enrollFile(path)
		}
	}
	return s, nil
}

// FindSocket gives where to ask for the status. Unlike Prepare it does not need the right
// to read the state directory: that is the point of the socket's group.
func FindSocket(o Options) (string, error) {
	if o.StatusSocket != "" {
		return o.StatusSocket, nil
	}
	path, isDefault, err := stateDir(o.StateDir)
	if err != nil {
		return "", err
	}
	if dir, _, err := state.Look(path); err == nil {
		config, err := dir.Config()
		if err != nil {
			return "", err
		}
		if config.StatusSocket != "" {
			return config.StatusSocket, nil
		}
	}
	own := local.SocketPath(path, isDefault)
	if o.StateDir == "" && own != local.SystemSocket && !exists(own) && exists(local.SystemSocket) {
		return local.SystemSocket, nil // not root, but perhaps in the group
	}
	return own, nil
}

// NoIdentity reports whether the state directory can be seen to hold no identity.
func NoIdentity(o Options) (dir string, none bool) {
	dir, _, err := stateDir(o.StateDir)
	if err != nil {
		return "", false
	}
	return dir, !state.HasIdentity(dir)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// stateDir makes given absolute; isDefault: it is the platform's own.
func stateDir(given string) (path string, isDefault bool, err error) {
	def, err := state.DefaultDir()
	if given == "" {
		return def, true, err
	}
	path, aerr := filepath.Abs(given)
	if aerr != nil {
		return "", false, fmt.Errorf("state directory: %w", aerr)
	}
	return path, err == nil && path == def, nil
}

// ClockNote is the clock offset from which a person is told of it.
const ClockNote = time.Second

// Absolute is o for whoever will run in another directory; what is "" stays "".
func (o Options) Absolute() (Options, error) {
	var err error
	if o.StateDir != "" {
		if o.StateDir, _, err = stateDir(o.StateDir); err != nil {
			return o, err
		}
	}
	if o.StatusSocket != "" {
		if o.StatusSocket, err = filepath.Abs(o.StatusSocket); err != nil {
			return o, fmt.Errorf("status socket: %w", err)
		}
	}
	if o.EnrollFile != "" {
		if o.EnrollFile, err = filepath.Abs(o.EnrollFile); err != nil {
			return o, fmt.Errorf("enroll file: %w", err)
		}
	}
	return o, nil
}

// StatePath gives the state directory without opening it.
func StatePath(o Options) (string, error) {
	path, _, err := stateDir(o.StateDir)
	return path, err
}

// BadIdentity says why the identity can't be used, if one is there and may be read.
func BadIdentity(o Options) error {
	path, _, err := stateDir(o.StateDir)
	if err != nil {
		return nil
	}
	dir, _, err := state.Look(path)
	if err != nil {
		return nil
	}
	_, err = dir.Identity()
	if _, corrupt := errors.AsType[*state.CorruptError](err); corrupt {
		return err
	}
	return nil
}
