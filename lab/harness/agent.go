package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"gururmm/agent/local"
	"gururmm/lab/proxy"
	"gururmm/operator"
	"gururmm/wire"
)

// Agent is an enrolled endpoint of a Stack.
type Agent struct {
	ID   string
	Name string // of its directory and log
	Dir  string // its state
	Env  []string

	stack   *Stack
	process *Process
}

// Enroll enrolls a fresh endpoint, through the proxy. It does not start it.
func (s *Stack) Enroll(ctx context.Context, name string) (*Agent, error) {
	at, _, _ := strings.Cut(s.front().Main, "=")
	return s.enroll(ctx, name, "", at)
}

// EnrollBehind enrolls at a site, and has the endpoint go through box by both doors.
func (s *Stack) EnrollBehind(ctx context.Context, name, site string, box *proxy.Proxy) (*Agent, error) {
	a, err := s.enroll(ctx, name, site, "https://"+box.Addr())
	if err == nil {
		err = a.Through(box)
	}
	return a, err
}

func (s *Stack) enroll(ctx context.Context, name, site, at string) (*Agent, error) {
	token, err := s.Client().CreateEnrollToken(ctx, operator.NewEnrollToken{Site: site})
	if err != nil {
		return nil, fmt.Errorf("create an enrollment token: %w", err)
	}
	a := &Agent{Name: name, Dir: filepath.Join(s.Dir, name), stack: s}
	out, said, err := a.run(ctx, []string{"GURURMM_ENROLL_TOKEN=" + token.Token},
		"enroll", "--state-dir", a.Dir, "--server", at, "--token", token.Token, "--ca", s.front().CA)
	if err != nil {
		return nil, fmt.Errorf("enroll: %w\n%s%s", err, out, said)
	}
	id, err := a.identity()
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	a.ID = id.Agent
	s.adopt(a)
	return a, nil
}

// identity is what of identity.json concerns the lab.
type identity struct {
	Agent string         `json:"agent"`
	OOB   []wire.OOBDoor `json:"oob"`
}

func (a *Agent) identity() (id identity, err error) {
	raw, err := os.ReadFile(filepath.Join(a.Dir, "identity.json"))
	if err == nil {
		err = json.Unmarshal(raw, &id)
	}
	if err == nil && id.Agent == "" {
		err = errors.New("identity.json names no agent")
	}
	return id, err
}

// Through has the agent, from its next start on, go through box instead of the stack's own
// proxy, by both doors.
func (a *Agent) Through(box *proxy.Proxy) error {
	id, err := a.identity()
	if err != nil {
		return err
	}
	if len(id.OOB) != 1 {
		return fmt.Errorf("the endpoint has %d second doors, not one", len(id.OOB))
	}
	config := fmt.Sprintf("link:\n  urls: [wss://%s/v1/link]\noob:\n  doors:\n    - url: https://%s\n      pin: %s\n", box.Addr(), box.OOBAddr(), id.OOB[0].Pin)
	return os.WriteFile(filepath.Join(a.Dir, "agent.yaml"), []byte(config), 0o600)
}

func (s *Stack) adopt(a *Agent) {
	s.mu.Lock()
	s.agents = append(s.agents, a)
	s.mu.Unlock()
}

// Clone copies the endpoint's state directory, as an image of its machine would.
func (a *Agent) Clone(name string) (*Agent, error) {
	c := &Agent{ID: a.ID, Name: name, Dir: filepath.Join(a.stack.Dir, name), Env: slices.Clone(a.Env), stack: a.stack}
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		return nil, err
	}
	// Only what makes the identity: a socket can't be copied.
	for _, file := range []string{"identity.json", "policy.json", "instances.json"} {
		raw, err := os.ReadFile(filepath.Join(a.Dir, file))
		if file == "instances.json" && errors.Is(err, os.ErrNotExist) {
			continue // never started
		}
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(c.Dir, file), raw, 0o600); err != nil {
			return nil, err
		}
	}
	a.stack.adopt(c)
	return c, nil
}

func (a *Agent) env(more ...string) []string {
	env := append([]string{"GURURMM_FAULTS=" + a.stack.Faults()}, a.stack.opts.AgentEnv...)
	return append(append(env, a.Env...), more...)
}

// run runs the agent's program to its end and gives what it printed, and what it said
// beside that: progress and errors go to standard error.
func (a *Agent) run(ctx context.Context, env []string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, a.stack.opts.Bin.Agent, args...)
	cmd.Env = append(os.Environ(), a.env(env...)...)
	return output(cmd)
}

// Start runs the agent.
func (a *Agent) Start() error {
	p, err := start(a.Name, filepath.Join(a.stack.logs(), a.Name+".log"), a.stack.opts.Stderr, a.env(), a.stack.opts.Bin.Agent,
		append([]string{"run", "--state-dir", a.Dir}, a.stack.opts.AgentArgs...)...)
	if err != nil {
		return err
	}
	a.process = p
	return nil
}

// End ends the agent and all below it at once, as its stack's end does.
func (a *Agent) End() { a.kill() }

// Guardian is the agent's process as last started.
func (a *Agent) Guardian() *Process { return a.process }

// kill ends the agent and all below it, if it was started.
func (a *Agent) kill() {
	if a.process == nil {
		return
	}
	// What the guardian reports may have left its process tree: a job whose worker was killed.
	for _, pid := range a.jobPIDs() {
		killAll(pid, descendants(pid))
	}
	a.process.Kill()
}

// jobPIDs are the processes of jobs as the status tells them; none without a status.
func (a *Agent) jobPIDs() (pids []int) {
	ctx, cancel := context.WithTimeout(context.Background(), startWait/10)
	defer cancel()
	st, err := a.Status(ctx)
	if err != nil {
		return nil
	}
	for _, j := range st.Snapshot.Jobs.Jobs {
		if j.PID > 1 {
			pids = append(pids, j.PID)
		}
	}
	return pids
}

// Status asks the guardian, by its socket.
func (a *Agent) Status(ctx context.Context) (local.Status, error) {
	return local.NewClient(local.SocketPath(a.Dir, false)).Status(ctx)
}

// StatusCommand asks as a person at the machine would, and gives the exit code too.
func (a *Agent) StatusCommand(ctx context.Context, args ...string) (stdout, stderr string, code int, err error) {
	return a.coded(ctx, append([]string{"status", "--state-dir", a.Dir}, args...)...)
}

// Doctor looks as a person at the machine would, and gives the exit code too.
func (a *Agent) Doctor(ctx context.Context, args ...string) (stdout, stderr string, code int, err error) {
	return a.coded(ctx, append([]string{"doctor", "--state-dir", a.Dir}, args...)...)
}

// Command runs a command of the agent's program, named by args, on this endpoint's
// state, and gives the exit code too.
func (a *Agent) Command(ctx context.Context, args ...string) (stdout, stderr string, code int, err error) {
	return a.coded(ctx, append(slices.Clone(args), "--state-dir", a.Dir)...)
}

// coded runs the agent's program and tells its exit code apart from a failure to run.
func (a *Agent) coded(ctx context.Context, args ...string) (stdout, stderr string, code int, err error) {
	stdout, stderr, err = a.run(ctx, nil, args...)
	code, err = exitCode(err)
	return stdout, stderr, code, err
}

// WorkerPID finds the worker by the guardian's word.
func (a *Agent) WorkerPID(ctx context.Context) (int, error) {
	st, err := a.Status(ctx)
	if err != nil {
		return 0, err
	}
	if st.Worker.PID == 0 {
		return 0, errors.New("no worker runs")
	}
	return st.Worker.PID, nil
}

// Workers are the worker processes below the guardian, also while it can't be asked.
func (a *Agent) Workers() []int { return below(a.process.PID(), "worker") }

// SignalWorker sends a signal to the worker alone and tells its id.
func (a *Agent) SignalWorker(ctx context.Context, sig syscall.Signal) (int, error) {
	pid, err := a.WorkerPID(ctx)
	if err != nil {
		return 0, err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return 0, err
	}
	return pid, p.Signal(sig)
}
