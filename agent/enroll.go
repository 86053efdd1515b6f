package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"gururmm/agent/state"
	"gururmm/internal/fileerr"
	"gururmm/internal/version"
)

// Bounds of files that a person names, in bytes.
const (
	maxTokenFile = 4 << 10
	maxCAFile    = 1 << 20
)

// EnrollOptions is what a person gives to enroll.
type EnrollOptions struct {
	Server    string
	Token     string
	TokenFile string // instead of Token, which a process list would show; "-": standard input
	CAFile    string
	Pin       string
	Force     bool // replace an identity; the old one is kept under another name
}

// Enrolled is what came of it.
type Enrolled struct {
	Agent  string
	Server string
	Links  []string
	Doors  int
	// ReadBy is how the token's file may be read by others here (0644); 0: it may not, or not known.
	ReadBy fs.FileMode
	// Offset is the server's clock minus ours, as seen in passing.
	Offset time.Duration
}

// Enroll trades a token for an identity and stores it.
func Enroll(ctx context.Context, s *Setup, o EnrollOptions) (Enrolled, error) {
	token, err := o.token()
	if err != nil {
		return Enrolled{}, err
	}
	var ca []byte
	if o.CAFile != "" {
		if ca, err = readBounded(o.CAFile, maxCAFile); err != nil {
			return Enrolled{}, fmt.Errorf("--ca: %w", err)
		}
	}
	presence, _ := state.MachinePresence(version.Version) // what is not known is left empty
	id, serverTime, err := s.Dir.Enroll(ctx, state.EnrollOptions{
		ServerURL: o.Server, Token: token, CAPEM: ca, Pin: o.Pin, Presence: presence,
	}, o.Force)
	if err != nil {
		return Enrolled{}, err
	}
	e := Enrolled{Agent: id.Agent, Server: id.Server, Links: id.LinkURLs, Doors: len(id.OOB), ReadBy: readByOthers(o.TokenFile)}
	if !serverTime.IsZero() {
		e.Offset = time.Until(serverTime)
	}
	return e, nil
}

// token reads the token from where it was given.
func (o EnrollOptions) token() (string, error) {
	switch {
	case o.Token != "" && o.TokenFile != "":
		return "", errors.New("give --token or --token-file, not both")
	case o.TokenFile == "":
		return strings.TrimSpace(o.Token), nil
	}
	raw, err := readBounded(o.TokenFile, maxTokenFile)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// readByOthers gives the mode of a file that others than its owner and group may read; 0:
// they may not, or the platform does not say so by a mode.
func readByOthers(path string) fs.FileMode {
	if path == "" || path == "-" || runtime.GOOS == "windows" {
		return 0
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o004 == 0 {
		return 0
	}
	return info.Mode().Perm()
}

// readBounded reads a file ("-": standard input) of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, fileerr.Why(err)
		}
		defer f.Close()
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return raw, fileerr.Why(err)
}
