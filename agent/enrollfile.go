package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/agent/local"
	"gururmm/internal/backoff"
	"gururmm/internal/fileerr"
	"gururmm/wire"
)

// A service that is not enrolled carries out an order to enroll that lies in a private file:
// who installs leaves it there, and need not be there when the server can be reached.
//
//	SERVER_URL=https://rmm.example:8443
//	PIN=sha256/…                  # or CA_FILE=/path/to/ca.pem
//	ENROLL_TOKEN=gre_…            # or TOKEN_FILE=/path/to/a/private/file
//
// It is removed, and with it the token's file, once the token was traded, or where the
// endpoint is enrolled already: no token is left behind. One that the server refuses, or that
// can't be understood, stays, for who put it there; it is looked at again when it changes.

// maxEnrollFile bounds the file in bytes.
const maxEnrollFile = 8 << 10

// enrollMin and enrollMax are the wait between two attempts while the server can't be reached.
const enrollMin, enrollMax = 5 * time.Second, 5 * time.Minute

// enrollKeys are what may stand in the file, and where it goes.
var enrollKeys = map[string]func(*EnrollOptions) *string{
	"SERVER_URL":   func(o *EnrollOptions) *string { return &o.Server },
	"PIN":          func(o *EnrollOptions) *string { return &o.Pin },
	"CA_FILE":      func(o *EnrollOptions) *string { return &o.CAFile },
	"ENROLL_TOKEN": func(o *EnrollOptions) *string { return &o.Token },
	"TOKEN_FILE":   func(o *EnrollOptions) *string { return &o.TokenFile },
}

// readEnrollFile reads such an order; the error wraps [fs.ErrNotExist] if there is none. An
// empty file is none either: what could not be removed is emptied. stamp changes with the file.
func readEnrollFile(path string) (o EnrollOptions, stamp string, err error) {
	if path == "" {
		return o, "", fs.ErrNotExist
	}
	info, err := os.Lstat(path)
	if err != nil {
		return o, "", fileerr.Why(err)
	}
	stamp = fmt.Sprint(info.ModTime().UnixNano(), info.Size(), info.Mode())
	if !info.Mode().IsRegular() {
		return o, stamp, fmt.Errorf("%s is no file", path)
	}
	if info.Size() == 0 {
		return o, stamp, fs.ErrNotExist
	}
	if err := onlyOurs(path, info); err != nil {
		return o, stamp, err
	}
	raw, err := readBounded(path, maxEnrollFile)
	if err != nil {
		return o, stamp, err
	}
	if o, err = parseEnrollFile(raw); err != nil {
		return o, stamp, fmt.Errorf("%s: %w", path, err)
	}
	for _, f := range []string{o.TokenFile, o.CAFile} { // no folder of the person's is known here
		if f != "" && !filepath.IsAbs(f) {
			return o, stamp, fmt.Errorf("%s: %q is not the whole path of a file", path, f)
		}
	}
	if o.TokenFile != "" {
		info, err := os.Stat(o.TokenFile)
		if err != nil {
			return o, stamp, fmt.Errorf("%s: TOKEN_FILE: %v", path, fileerr.Why(err)) // not as if there were no order
		}
		stamp += fmt.Sprint(" ", info.ModTime().UnixNano(), info.Size(), info.Mode())
		if err := onlyOurs(o.TokenFile, info); err != nil {
			return o, stamp, err
		}
	}
	return o, stamp, nil
}

// parseEnrollFile understands lines of KEY=VALUE; # begins a comment line. What is wrong is
// named by its line, and never shown: it may be a token.
func parseEnrollFile(raw []byte) (o EnrollOptions, err error) {
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff")) // as editors of Windows begin a file
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		to := enrollKeys[strings.TrimSpace(key)]
		if !found || to == nil {
			return o, fmt.Errorf("line %d is not KEY=VALUE, with a KEY of %s", n, strings.Join(slices.Sorted(maps.Keys(enrollKeys)), ", "))
		}
		value = strings.TrimSpace(value)
		if len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		if *to(&o) != "" {
			return o, fmt.Errorf("line %d: %s stands here twice", n, strings.TrimSpace(key))
		}
		*to(&o) = value
	}
	switch {
	case lines.Err() != nil:
		return o, lines.Err()
	case o.Server == "":
		return o, errors.New("SERVER_URL=https://HOST:8443 is missing")
	case (o.Token == "") == (o.TokenFile == ""):
		return o, errors.New("it takes ENROLL_TOKEN or TOKEN_FILE, one of both")
	}
	return o, nil
}

// writeOrder writes an order of KEY=VALUE words as lines; a word without a value is left out.
func writeOrder(words []string) []byte {
	var lines strings.Builder
	for _, word := range words {
		if _, value, _ := strings.Cut(word, "="); value != "" { // a pin ends with =
			lines.WriteString(word + "\r\n")
		}
	}
	return []byte(lines.String())
}

// eraseEnrollFile removes the order at path and the token's file of o. What can't be removed
// (/etc may be read-only to this process) is emptied.
func eraseEnrollFile(path string, o EnrollOptions) error {
	var failed error
	files := []string{path}
	if filepath.IsAbs(o.TokenFile) { // of another, in an order that is no good, nobody knows which file is meant
		files = []string{o.TokenFile, path}
	}
	for _, file := range files {
		err := os.Remove(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			err = os.Truncate(file, 0)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("an enrollment token could not be erased, remove %s: %w", file, fileerr.Why(err)))
		}
	}
	return failed
}

// dropEnrollFile erases an order that an enrolled endpoint has no use for, and tells the log.
func (s *Setup) dropEnrollFile(log *slog.Logger) {
	o, _, err := readEnrollFile(s.EnrollFile)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := eraseEnrollFile(s.EnrollFile, o); err != nil {
		log.Warn("this endpoint is enrolled, and an order to enroll is left", "error", err)
		return
	}
	log.Warn("this endpoint is enrolled already: the order to enroll was removed, and its token not used", "file", s.EnrollFile,
		"do", "gururmm-agent enroll --force takes another identity")
}

// enrolling carries out the order, one attempt at a time. It belongs to the loop of [await],
// which calls turn, and came with what done gives; only an attempt runs beside it.
type enrolling struct {
	file    string
	attempt func(context.Context, EnrollOptions) error // enrolls, then erases
	wg      *sync.WaitGroup                            // of who waits

	done   chan error // an attempt's; nil: none is under way
	stamp  string     // of the order that was last looked at
	failed error      // what came of that one
	final  bool       // another attempt would come to the same
	tries  int        // attempts at it
	next   time.Time  // of the next one
}

// turn looks at the order, and begins an attempt if one is due. why: what came of the last.
func (e *enrolling) turn(ctx context.Context, now time.Time) (how local.Enrollment, why error) {
	if e.done != nil {
		return local.EnrollTrying, e.failed
	}
	order, stamp, err := readEnrollFile(e.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.stamp, e.failed = "", nil
		return local.EnrollNone, nil
	case err != nil:
		e.stamp, e.failed = "", err
		return local.EnrollRefused, err
	case stamp != e.stamp:
		e.stamp, e.failed, e.final, e.tries, e.next = stamp, nil, false, 0, now
	}
	switch {
	case e.final:
		return local.EnrollRefused, e.failed
	case now.Before(e.next):
		return local.EnrollTrying, e.failed
	}
	e.tries++
	done := make(chan error, 1)
	e.done = done
	e.wg.Go(func() { done <- e.attempt(ctx, order) })
	return local.EnrollTrying, e.failed
}

// came takes what an attempt came to.
func (e *enrolling) came(err error, now time.Time) {
	problem, said := errors.AsType[wire.Problem](err)
	e.done, e.failed, e.final = nil, err, said && problem.Code == wire.ProblemToken
	e.next = now.Add(backoff.Full(nil, enrollMin, enrollMax, e.tries-1))
}

// enrollLinger is what an attempt may go on after a stop: a token that the server has taken
// already must not be lost with the answer. It fits into what a service manager lets a stop take.
const enrollLinger = 8 * time.Second

// outlasting is a context that ends so long after ctx; end gives it up.
func outlasting(ctx context.Context, by time.Duration) (longer context.Context, end func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-longer.Done():
		case <-time.After(by):
			cancel()
		}
	})
	return longer, func() { stop(); cancel() }
}

// byFile makes the attempts for [enrolling].
func (s *Setup) byFile(log *slog.Logger) func(context.Context, EnrollOptions) error {
	return func(ctx context.Context, o EnrollOptions) error {
		ctx, end := outlasting(ctx, enrollLinger)
		defer end()
		got, err := Enroll(ctx, s, o)
		if err != nil {
			log.Warn("the order to enroll was not carried out", "file", s.EnrollFile, "error", err)
			return err
		}
		log.Info("enrolled, as was ordered", "file", s.EnrollFile, "agent", got.Agent, "server", got.Server)
		if err := eraseEnrollFile(s.EnrollFile, o); err != nil {
			log.Error("the token is spent and was not erased", "error", err)
		}
		return nil
	}
}
