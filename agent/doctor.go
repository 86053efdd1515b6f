package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	neturl "net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/probe"
	"gururmm/agent/state"
	"gururmm/agent/versions"
	"gururmm/checkup"
	"gururmm/internal/endpoint"
	"gururmm/internal/moment"
	"gururmm/internal/version"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// DoctorOptions are what a person gives to the doctor.
type DoctorOptions struct {
	// Server is looked at instead of the addresses enrolled with: https://host:port.
	Server string
	CAFile string // trust these roots for it
	Pin    string // trust this key for it
	probe.Options
}

// Doctor looks at this endpoint and its way to the server; it changes nothing. The
// error says why it could not be done; [checkup.Report] has all else.
func Doctor(ctx context.Context, o Options, d DoctorOptions) (checkup.Report, error) {
	s, err := subject(ctx, o, d)
	if err != nil {
		return checkup.Report{}, err
	}
	return probe.Run(ctx, s, d.Options)
}

// subject puts together what is to be looked at. What is broken here becomes a
// finding of the doctor, not an error.
func subject(ctx context.Context, o Options, d DoctorOptions) (probe.Subject, error) {
	path, isDefault, err := stateDir(o.StateDir)
	if err != nil {
		return probe.Subject{}, err
	}
	s := probe.Subject{
		Version: version.Version, StateDir: path, LockFile: filepath.Join(path, lockFile), Service: serviceFact, Versions: versionsFact(path),
		ProxyFrom: map[probe.Kind]string{probe.KindLink: "from the environment", probe.KindDoor: "by default"},
	}
	if none := NoServiceManager(); none != nil {
		s.Start = "Start it: gururmm-agent run. As a service, " + none.Error() + "."
	}
	var config state.Config
	var id state.Identity
	var doors []wire.OOBDoor
	dir, _, err := state.Look(path)
	if err == nil {
		if config, err = dir.Config(); err != nil {
			s.Broken, config = err.Error(), state.Config{}
		}
		id, err = dir.Identity()
	}
	switch {
	case err == nil:
		s.Agent, s.Token = id.Agent, id.Token
		doors = id.Doors(dir.StoredPolicy())
	case errors.Is(err, state.ErrNotEnrolled), errors.Is(err, fs.ErrNotExist):
		s.NotEnrolled = "this endpoint is not enrolled"
	default:
		s.NotEnrolled = "the identity can't be read"
		if _, damaged := errors.AsType[*state.CorruptError](err); damaged {
			s.Broken = err.Error()
		}
	}
	if config.Link.Proxy != "" {
		s.ProxyFrom[probe.KindLink] = "by agent.yaml"
	}
	if config.OOB.Proxy != "" {
		s.ProxyFrom[probe.KindDoor] = "by agent.yaml"
	}
	socket := cmp.Or(o.StatusSocket, config.StatusSocket, local.SocketPath(path, isDefault))
	s.Guardian = func(ctx context.Context) (probe.Running, error) { return askGuardian(ctx, o, socket) }
	if s.Addresses, err = addresses(ctx, id, config, config.Doors(doors), d, local.NewClient(socket)); err != nil {
		return s, err
	}
	return s, nil
}

// addresses lists the server's, as the agent uses them: agent.yaml before the
// policy in force before what was enrolled with.
func addresses(ctx context.Context, id state.Identity, config state.Config, doors []wire.OOBDoor, d DoctorOptions, running *local.Client) ([]probe.Address, error) {
	linkProxy, err := config.LinkProxy()
	if err != nil {
		return nil, err
	}
	doorProxy, err := config.OOBProxy()
	if err != nil {
		return nil, err
	}
	trust := probe.Address{Kind: probe.KindLink, CA: id.LinkCA, Pin: id.LinkPin, Proxy: linkProxy}
	if d.CAFile != "" || d.Pin != "" {
		trust.CA, trust.Pin = "", d.Pin
	}
	if d.CAFile != "" {
		ca, err := readBounded(d.CAFile, maxCAFile)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		trust.CA = string(ca)
	}
	if _, err := (state.Identity{LinkCA: trust.CA, LinkPin: trust.Pin}).TLSConfig(nil); err != nil {
		return nil, err
	}
	if d.Server != "" {
		if trust.URL, err = linkOf(d.Server); err != nil {
			return nil, err
		}
		return []probe.Address{trust}, nil
	}
	urls := config.Link.URLs
	if len(urls) == 0 {
		if st, err := running.Status(ctx); err == nil {
			urls = st.Policy.LinkURLs
		}
	}
	if len(urls) == 0 {
		urls = id.LinkURLs
	}
	var out []probe.Address
	for _, u := range urls {
		trust.URL = u
		out = append(out, trust)
	}
	for _, door := range doors {
		a := probe.Address{Kind: probe.KindDoor, URL: door.URL, Pin: door.Pin, Proxy: doorProxy}
		if door.Pin == "" {
			a.CA = id.LinkCA
		}
		out = append(out, a)
	}
	return out, nil
}

// linkOf gives the link's URL on a server: https://host:port, or the link's own.
func linkOf(server string) (string, error) {
	u, err := neturl.Parse(server)
	if err != nil { // its text speaks of path segments where HOST:PORT was typed, and may have a password
		return "", errors.New("--server: write https://host:port")
	}
	switch u.Scheme {
	case "https":
		u.Scheme, u.Path = "wss", strings.TrimSuffix(u.Path, "/")+"/v1/link"
	case "http": // as enroll says it: what answers there is no box on the way
		return "", fmt.Errorf("--server: use https: https://%s", u.Host)
	}
	if err := endpoint.Check(u.String(), "wss", "ws"); err != nil {
		return "", fmt.Errorf("--server %s: write https://host:port", u.Redacted())
	}
	return u.String(), nil
}

// askGuardian gives the running guardian's own word.
func askGuardian(ctx context.Context, o Options, socket string) (probe.Running, error) {
	asked := time.Now()
	st, err := local.NewClient(socket).Status(ctx)
	if errors.Is(err, local.ErrNotRunning) {
		return probe.Running{}, fmt.Errorf("%w: %s", probe.ErrNotRunning, socket)
	}
	if silent, ok := errors.AsType[*Silence](Silent(o, asked, err)); ok {
		return probe.Running{}, &probe.SilentError{Seen: silent.Error(), Do: silent.Do()}
	}
	if err != nil {
		return probe.Running{}, err
	}
	v := st.Verdict
	f := probe.Fact{
		Seen: cmp.Or(v.Sentence, v.Title, "it knows nothing yet"), Do: v.Action,
		Figures: map[string]any{"verdict": v.Code, "mode": st.Mode, "pid": st.Guardian.PID, "version": st.Version},
	}
	switch v.Severity {
	case selfcheck.SeverityWell:
		f.Status, f.Do = checkup.Pass, ""
	case selfcheck.SeverityError:
		f.Status = checkup.Fail
	default:
		f.Status = checkup.Warn
	}
	for _, finding := range st.Findings {
		f.Notes = append(f.Notes, string(finding.Code)+": "+finding.Sentence)
	}
	if st.Version != version.Version {
		f.Notes = append(f.Notes, "it is version "+st.Version+", this doctor "+version.Version)
	}
	return probe.Running{Socket: socket, PID: st.Guardian.PID, Version: st.Version, Verdict: f}, nil
}

// doctorWithin bounds a visit that the server ordered: the whole plan over a bad
// path. doctorLimit is when its process is ended, in case it can't even report.
const (
	doctorWithin = 4 * time.Minute
	doctorLimit  = 5 * time.Minute
)

// runProbes is the errand of run_probes: a doctor in a process of its own, so
// that what hangs under it hangs without the guardian.
func (s *Setup) runProbes(ctx context.Context, d wire.Directive) (detail string, report json.RawMessage, err error) {
	for _, name := range d.Only { // they become arguments
		if !slices.ContainsFunc(probe.Names, func(n struct{ Name, What string }) bool { return n.Name == name }) {
			return "", nil, fmt.Errorf("there is no probe %q", name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, doctorLimit)
	defer cancel()
	args := []string{"doctor", "--json", "--within", doctorWithin.String(), "--status-socket", s.Socket}
	if len(d.Only) > 0 {
		args = append(args, "--only", strings.Join(d.Only, ","))
	}
	out, failed := s.process(ctx, false, wire.MaxDirectiveReport, args...)
	r, err := checkup.Parse(out)
	if err != nil {
		return "", nil, errors.Join(failed, err)
	}
	// Compact, and without what this version does not know of itself.
	if report, err = json.Marshal(r); err != nil {
		return "", nil, err
	}
	return r.Sum(), report, nil
}

// managerWait bounds a question to the service manager.
const managerWait = 10 * time.Second

// versionsDir is where programs beside the installed one are kept.
const versionsDir = "versions"

// asked runs a service manager's own tool within managerWait.
func asked(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, managerWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	return string(out), err
}

// versionsFact tells which programs are kept in the state directory, and where an
// update stands.
func versionsFact(path string) func(context.Context) probe.Fact {
	return func(context.Context) probe.Fact {
		st, err := versions.New(filepath.Join(path, versionsDir)).Look()
		if err != nil {
			return probe.Fact{Status: checkup.Warn, Seen: err.Error(), Do: "The installed program runs then: order the update once more."}
		}
		return versionsOf(st)
	}
}

func versionsOf(st versions.State) probe.Fact {
	f := probe.Fact{Status: checkup.Pass, Figures: map[string]any{"running": version.Version, "phase": st.Phase}}
	f.Seen = "this is version " + version.Version + "; the installed program is the one to run"
	if st.Current != nil {
		f.Seen = "this is version " + version.Version + "; version " + st.Current.Version() + " is the one to run"
		f.Figures["current"] = st.Current.Version()
	}
	if st.Previous != nil {
		f.Notes = append(f.Notes, "before it: version "+st.Previous.Version())
	}
	for _, o := range st.Failed {
		f.Notes = append(f.Notes, fmt.Sprintf("version %s did not last (%s): %s", o.Version, moment.UTC(o.At), o.Reason))
	}
	switch last := st.Last; {
	case st.Phase != versions.PhaseNone:
		target := cmp.Or(st.Next.Version(), st.Current.Version())
		f.Status, f.Seen = checkup.Warn, fmt.Sprintf("an update to %s is under way (%s)", target, st.Phase)
		f.Do = "Wait for its end: gururmm directives AGENT tells it."
	case last != nil && last.RolledBack:
		f.Status, f.Seen = checkup.Warn, f.Seen+"; the last update, to "+last.Version+", was rolled back: "+last.Reason
		f.Do = "Find out why it did not last before it is ordered again."
	case last != nil && !last.Done:
		f.Notes = append(f.Notes, "the last update, to "+last.Version+", failed: "+last.Reason)
	}
	return f
}
