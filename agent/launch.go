package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/task/tree"
	"gururmm/agent/versions"
	"gururmm/internal/backoff"
	"gururmm/internal/fault"
	"gururmm/internal/fileerr"
	"gururmm/internal/lockfile"
	"gururmm/internal/version"
	"gururmm/oob"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// What the installed program tells the one that it becomes.
const (
	envInstalled = "GURURMM_AGENT_INSTALLED" // "VERSION PATH"
	envLock      = "GURURMM_AGENT_LOCK"
	envWhy       = "GURURMM_AGENT_WHY"
)

// program is the program of this process: which one, and why.
type program struct {
	path  string
	entry *versions.Entry // nil: the installed one
	why   string

	installed     string // version; "": not known
	installedPath string

	store *versions.Store
	state versions.State
	keys  []release.Key
	// unsure: what shall run is not known, or can't be noted. Then state is not what is
	// on disk, or not to be acted on: nothing is written, removed or exchanged.
	unsure error
	// findings are what was found wrong on the way.
	findings []selfcheck.Finding
}

// ExitHandover is the code of a child that wants another version in its place (EX_TEMPFAIL of <sysexits.h>).
const ExitHandover = 75

// errEnded says that a program started in this one's place has ended (on Windows).
type errEnded struct{ how error }

func (e *errEnded) Error() string { return "the agent's process ended: " + e.how.Error() }
func (e *errEnded) Unwrap() error { return e.how }

// inherited is what the program before left in the environment. It is taken out
// of it: workers and jobs are no guardians.
type inherited struct{ installed, lock, why string }

func inherit() inherited {
	take := func(name string) string {
		value := os.Getenv(name)
		os.Unsetenv(name) // it can't fail for such a name
		return value
	}
	return inherited{take(envInstalled), take(envLock), take(envWhy)}
}

// launch decides which program guards here. If it is another than this one, this
// process becomes that (or, on Windows, waits for it): then launch does not return well.
func (s *Setup) launch(ctx context.Context, from inherited, lock *lockfile.Lock, log *slog.Logger) (program, error) {
	p, err := s.self(from)
	if err != nil {
		return p, err
	}
	st, err := p.store.Load()
	if err != nil && !errors.Is(err, versions.ErrSetAside) {
		p.doubt("which version shall run is not known", err)
		p.keys = s.releaseKeys(&p)
		s.stay(&p)
		return p, nil // another start of another program would know no more
	}
	if err != nil {
		p.found(selfcheck.FindQuarantined, "Which version shall run is not known, so the installed one does: "+err.Error())
	}
	p.keys = s.releaseKeys(&p)
	p.state = st
	if c := st.Current; c != nil && sameFile(p.path, p.store.Path(*c)) {
		p.entry, p.why = c, from.why // chosen by the program that became this one
		s.own = c
		return p, nil
	}
	for {
		next, entry, why, err := versions.Choose(p.state, p.installed, func(e versions.Entry) error { return p.store.Verify(p.keys, e) }, time.Now().UTC())
		if err != nil {
			p.doubt("the update to "+p.state.Current.Version()+" can't be verified", err)
		}
		path := p.installedPath
		if entry != nil {
			path = p.store.Path(*entry)
		}
		if entry != nil || !sameState(next, p.state) {
			if err := p.store.Save(next); err != nil {
				// What can't be counted is not started.
				p.doubt("which version is started can't be noted", err)
				entry, path, next, why = nil, p.installedPath, p.state, ""
			}
			p.state = next
		}
		p.why = why
		if sameFile(path, p.path) {
			p.entry = entry
			return p, nil
		}
		log.Warn("another version of this program takes over", "path", path, "why", why)
		fault.Die("update.launch")
		err = persist(ctx, func() error {
			return s.becomes(ctx, path, []string{
				envInstalled + "=" + p.installed + " " + p.installedPath, envWhy + "=" + why,
			}, lock, log)
		})
		if ended, ok := errors.AsType[*errEnded](err); ok {
			return p, ended
		}
		log.Error("it could not be started", "path", path, "error", err)
		if versions.Passing(err) {
			p.notNow(path, entry, err)
			s.stay(&p)
			return p, nil
		}
		if entry == nil { // no installed program to go back to: this one does it
			if own := s.own; own != nil && p.unsure == nil && sameFile(p.path, p.store.Path(*own)) {
				p.goOn(own, err)
			}
			p.found(selfcheck.FindUpdateRolledBack, "The installed program could not be started: "+err.Error())
			return p, nil
		}
		p.state = p.state.FallBack(entry.Version()+" can't be started: "+err.Error(), time.Now().UTC())
	}
}

const (
	// execTries bounds the starts of a program that only the moment is against, execMin and
	// execMax the wait between them: some seconds in all, as the old guardian has ended.
	execTries        = 6
	execMin, execMax = 100 * time.Millisecond, 2 * time.Second
)

// persist starts a program by become, again while only the moment is against it.
func persist(ctx context.Context, become func() error) error {
	for try := 0; ; try++ {
		err := become()
		if _, ran := errors.AsType[*errEnded](err); ran || !versions.Passing(err) || try == execTries-1 {
			return err
		}
		wait := time.NewTimer(backoff.Full(nil, execMin, execMax, try))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return err
		}
	}
}

// notNow leaves a program that only the moment is against for a later start: it is
// neither blamed nor counted as started.
func (p *program) notNow(path string, entry *versions.Entry, err error) {
	if entry != nil {
		p.state.Starts--
		if serr := p.store.Save(p.state); serr != nil {
			err = errors.Join(err, serr)
		}
	}
	p.doubt(path+" can't be started now", err)
}

// stay makes the program of this process what runs, where the state has no say.
func (s *Setup) stay(p *program) {
	if own := s.own; own != nil && sameFile(p.path, p.store.Path(*own)) {
		p.entry = own
	}
}

// reconsider looks whether what made p unsure is over. If it is, and this process would
// be chosen again, st is the state to go on with; again: a launch decides otherwise.
func (s *Setup) reconsider(p program) (st versions.State, again bool, err error) {
	unsure := func(what string, err error) (versions.State, bool, error) {
		return versions.State{}, false, fmt.Errorf("%s: %w", what, err)
	}
	st, err = p.store.Load()
	if err != nil && !errors.Is(err, versions.ErrSetAside) {
		return unsure("which version shall run is not known", err)
	}
	p.findings = nil // told at the next start
	p.keys = s.releaseKeys(&p)
	next, entry, path := st, st.Current, p.path
	if st.Current == nil || !sameFile(p.path, p.store.Path(*st.Current)) {
		next, entry, _, err = versions.Choose(st, p.installed, func(e versions.Entry) error { return p.store.Verify(p.keys, e) }, time.Now().UTC())
		if err != nil {
			return unsure("the update to "+st.Current.Version()+" can't be verified", err)
		}
		path = p.installedPath
		if entry != nil {
			path = p.store.Path(*entry)
		}
	}
	if st.Current != nil || st.Phase != versions.PhaseNone {
		if err := p.store.Save(st); err != nil { // as it is: whether it can be written
			return unsure("which version is started can't be noted", err)
		}
	}
	return st, !sameState(next, st) || !sameFile(path, p.path) || !entry.Is(p.entry), nil
}

// again brings p up to date for another guardian in this process, with another identity.
func (s *Setup) again(p *program) {
	if st, err := p.store.Look(); err == nil {
		p.state = st
	} else if p.unsure == nil {
		p.unsure = err
	}
	p.findings = nil
	p.keys = s.releaseKeys(p)
}

// goOn makes own, the program of this process, the one to run again: the installed one,
// which was to take over, can't be started.
func (p *program) goOn(own *versions.Entry, err error) {
	st := p.state
	if st.Phase == versions.PhaseHandover {
		st = st.Fail("the installed program could not be started: "+err.Error(), time.Now().UTC())
	}
	st.Current, st.Starts = own, 0
	p.entry, p.state, p.why = own, st, "the installed program could not be started"
	if err := p.store.Save(st); err != nil {
		p.doubt("that this program goes on can't be noted", err)
	}
}

// doubt notes why this start runs what it runs without touching the state.
func (p *program) doubt(what string, err error) {
	p.unsure = fmt.Errorf("%s: %w", what, err)
}

func (p *program) found(code selfcheck.Code, sentence string) {
	p.findings = append(p.findings, selfcheck.Finding{Code: code, Sentence: sentence + "."})
}

// self finds out which program this process is.
func (s *Setup) self(from inherited) (program, error) {
	path, err := os.Executable()
	if err != nil {
		return program{}, fmt.Errorf("find the own program: %w", err)
	}
	p := program{path: path, store: versions.New(s.Dir.Path(versionsDir))}
	v, at, ok := strings.Cut(from.installed, " ")
	switch {
	case ok && filepath.IsAbs(at):
		p.installed, p.installedPath = v, at
	case strings.HasPrefix(path, s.Dir.Path(versionsDir)+string(filepath.Separator)):
		p.installedPath = path // started by hand: what is installed is not known
	default:
		p.installed, p.installedPath = version.Version, path
	}
	return p, nil
}

// releaseKeys are those of agent.yaml, else those of the enrollment.
func (s *Setup) releaseKeys(p *program) []release.Key {
	texts := s.Config.ReleaseKeys
	if len(texts) == 0 {
		id, err := s.Dir.Identity()
		if err != nil {
			return nil // not enrolled: whoever needs the identity says so
		}
		texts = id.ReleaseKeys
	}
	keys, err := release.ParseKeys(texts)
	if err != nil {
		p.found(selfcheck.FindQuarantined, "Updates are refused, the release keys of the enrollment can't be read: "+err.Error())
	}
	return keys
}

// sameFile reports whether two paths name one file.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	two, err := os.Stat(b)
	return err == nil && os.SameFile(one, two)
}

// sameState reports whether nothing changed that must be on disk.
func sameState(a, b versions.State) bool {
	return a.Phase == b.Phase && a.Starts == b.Starts && a.Current.Is(b.Current) && a.Previous.Is(b.Previous) && a.Last == b.Last
}

// updates is what the guardian needs to exchange this program.
func (s *Setup) updates(p program, client *oob.Client, spawn func(string) spawner) *guardian.Updates {
	return &guardian.Updates{
		Store: p.store, State: p.state, Unsure: p.unsure, Doubts: s.doubts,
		Recheck: func() (versions.State, bool, error) { return s.reconsider(p) }, Keys: p.keys, Running: p.entry, Path: p.path, Why: p.why, Installed: p.installed,
		CanRun: p.canRun, Fetch: client.Fetch, Memory: tree.Memory,
		Spawn: func(path string) func(context.Context) (guardian.Child, error) { return spawn(path) },
	}
}

// canRun says why the installed program can't be executed.
func (p program) canRun() error {
	info, err := os.Stat(p.installedPath)
	switch {
	case err != nil:
		return err
	case sameFile(p.installedPath, p.path) && p.entry != nil:
		return errors.New("where it lies is not known: this program was started by hand")
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no executable file", p.installedPath)
	}
	switch f, err := os.Open(p.installedPath); {
	case err == nil:
		defer f.Close()
		if err := release.CheckPlatform(f, wire.Build{OS: runtime.GOOS, Arch: runtime.GOARCH}); err != nil {
			return fmt.Errorf("%s: %w", p.installedPath, err)
		}
	case !errors.Is(err, os.ErrPermission): // it need not be readable to be executed
		return err
	}
	return mayExecute(p.installedPath)
}

// spawner starts a worker.
type spawner = func(context.Context) (guardian.Child, error)

// VersionReport is what `version --json` prints.
type VersionReport struct {
	Version string `json:"version"` // of this program
	// Guards is the version of an update that guards here, absent: the installed program,
	// or not known, see Error. Step is fetch, trial or handover, of Next.
	Guards string `json:"guards,omitempty"`
	Step   string `json:"step,omitempty"`
	Next   string `json:"next,omitempty"`
	Error  string `json:"error,omitempty"`
}

// ReportVersion is [WriteVersion] for programs.
func ReportVersion(o Options) VersionReport {
	r := VersionReport{Version: version.Version}
	path, _, err := stateDir(o.StateDir)
	if err != nil {
		return r // no state, no update
	}
	st, err := versions.New(filepath.Join(path, versionsDir)).Look()
	if err != nil {
		r.Error = fileerr.Why(err).Error()
		return r
	}
	if st.Current != nil {
		r.Guards = st.Current.Version()
	}
	if st.Phase != versions.PhaseNone {
		r.Step = string(st.Phase)
	}
	if st.Next != nil {
		r.Next = st.Next.Version()
	}
	return r
}

// WriteVersion tells people this program's version and, as far as this account may
// know it, which program guards here.
func WriteVersion(w io.Writer, o Options) error {
	if _, err := fmt.Fprintln(w, version.Version); err != nil {
		return err
	}
	path, _, err := stateDir(o.StateDir)
	if err != nil {
		return nil // no state, no update
	}
	store := versions.New(filepath.Join(path, versionsDir))
	st, err := store.Look()
	if errors.Is(err, os.ErrPermission) || err == nil && st.Current == nil && st.Next == nil {
		return nil
	}
	p := &page{}
	switch {
	case err != nil:
		p.wrap("", "Which version guards here is not known: "+fileerr.Why(err).Error())
	case st.Current != nil:
		what := "an update, confirmed"
		if st.Phase == versions.PhaseHandover {
			what = "an update, not confirmed yet"
		}
		p.wrap("", "Guards here: "+st.Current.Version()+", "+what+": "+store.Path(*st.Current))
	default:
		p.line("Guards here: the installed program")
	}
	switch st.Phase {
	case versions.PhaseFetch:
		p.line("Being fetched: " + st.Next.Version())
	case versions.PhaseTrial:
		p.line("On trial: " + st.Next.Version())
	}
	_, err = io.WriteString(w, p.b.String())
	return err
}
