package harness

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/lab/proxy"
	"gururmm/operator"
	"gururmm/wire"
)

// Binaries are the programs to run.
type Binaries struct{ Server, Agent string }

// Options of a Stack.
type Options struct {
	Bin Binaries
	// Dir holds state and logs. Keep it short: status sockets live below it.
	Dir    string
	Policy wire.Policy // what the server gives its agents; zero fields: defaults
	// ServerEnv and AgentEnv are added to the environment, "NAME=value".
	ServerEnv, AgentEnv []string
	// AgentArgs are more arguments of each agent's run.
	AgentArgs []string
	// Stderr is where the server and the agents log, in place of the files of [Stack.Logs].
	Stderr *os.File
	// Front is what endpoints reach in place of the stack's own proxy; nil: that one.
	Front *Front
	// OnProxy is told what the proxy does; it must not block.
	OnProxy func(proxy.Event)
}

// Front is a proxy of somebody else's making before the server.
type Front struct {
	// Main and OOB are told to endpoints, as --public-url and --oob-url have them.
	Main string
	OOB  []string
	// CA is what endpoints enroll by, a PEM file; empty: the server's own certificate.
	CA string
	// Operator is where operators ask, "host:port"; empty: the server itself.
	Operator string
	// Args are more arguments of the server.
	Args []string
}

// startWait bounds how long a program may take to answer: a build with the race
// detector on two busy cores needs seconds.
const startWait = 60 * time.Second

// Stack is a server and a proxy that run, and the agents enrolled with them.
type Stack struct {
	Proxy *proxy.Proxy
	Dir   string

	opts Options
	cert certificate
	// token of the operator, as the server gave it at its first start.
	token string

	mu     sync.Mutex
	server *Process
	client *operator.Client
	listen string // address of its main listener, as operators reach it
	bound  ready
	agents []*Agent
}

// Start makes a stack in o.Dir: proxy first, whose addresses the server
// publishes, then the server. Close ends it, also after an error.
func Start(ctx context.Context, o Options) (*Stack, error) {
	s := &Stack{Dir: o.Dir, opts: o}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) (err error) {
	for _, dir := range []string{s.logs(), s.Faults()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if s.cert, err = newCertificate(s.Dir); err != nil {
		return fmt.Errorf("make the main door's certificate: %w", err)
	}
	s.Proxy, err = s.box(nil)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(s.opts.Policy, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.policyFile(), raw, 0o600); err != nil {
		return err
	}
	return s.StartServer(ctx)
}

func (s *Stack) box(dial func(context.Context, string, string) (net.Conn, error)) (*proxy.Proxy, error) {
	return proxy.New(proxy.Options{Cert: &s.cert.pair, UpstreamTLS: &tls.Config{RootCAs: s.cert.roots}, OnEvent: s.opts.OnProxy, DialNet: dial})
}

// Box is one more proxy before the running server, for [Agent.Through], which calls it from
// an address of its own in 127.0.0.0/8: what the server allows one address must not count
// for all. Who asks for it closes it.
func (s *Stack) Box(from net.IP) (*proxy.Proxy, error) {
	dialer := &net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: from}}
	p, err := s.box(dialer.DialContext)
	if err == nil {
		p.SetUpstream(s.Bound())
	}
	return p, err
}

func (s *Stack) logs() string       { return filepath.Join(s.Dir, "logs") }
func (s *Stack) policyFile() string { return filepath.Join(s.Dir, "policy.json") }

// Faults is the directory of fault labels; see package fault.
func (s *Stack) Faults() string { return filepath.Join(s.Dir, "faults") }

// Fault switches the fault named label on or off, in builds with the tag "faults".
func (s *Stack) Fault(label string, on bool) error {
	path := filepath.Join(s.Faults(), label)
	if on {
		return os.WriteFile(path, nil, 0o600)
	}
	return os.Remove(path)
}

// ready is what the server writes once it answers.
type ready struct {
	PID   int    `json:"pid"`
	Main  string `json:"listen"`     // bound address
	OOB   string `json:"oob_listen"` // bound address
	Token string `json:"operator_token"`
}

// StartServer starts the server, again if it was stopped, and points the proxy at it.
func (s *Stack) StartServer(ctx context.Context) error {
	readyFile := filepath.Join(s.Dir, "ready.json")
	if err := os.Remove(readyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	front := s.front()
	args := append([]string{
		"serve", "--state-dir", filepath.Join(s.Dir, "server"),
		"--listen", "127.0.0.1:0", "--oob-listen", "127.0.0.1:0",
		"--cert", s.cert.certFile, "--key", s.cert.keyFile,
		"--policy", s.policyFile(), "--ready-file", readyFile,
		"--public-url", front.Main, "--oob-url", strings.Join(front.OOB, ","),
	}, front.Args...)
	p, err := start("server", filepath.Join(s.logs(), "server.log"), s.opts.Stderr,
		append([]string{"GURURMM_FAULTS=" + s.Faults()}, s.opts.ServerEnv...), s.opts.Bin.Server, args...)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.server = p
	s.mu.Unlock()
	r, err := awaitReady(ctx, p, readyFile)
	if err != nil {
		return err
	}
	if s.token == "" {
		s.token = r.Token
	}
	for _, addr := range []string{r.Main, r.OOB} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("server's ready file: %w", err)
		}
	}
	asked := cmp.Or(front.Operator, r.Main)
	client, err := operator.New("https://"+asked, s.token, &tls.Config{RootCAs: s.cert.roots})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.client, s.listen, s.bound = client, asked, r
	s.mu.Unlock()
	s.Proxy.SetUpstream(r.Main, r.OOB)
	return nil
}

// front is how endpoints reach the server.
func (s *Stack) front() Front {
	if s.opts.Front == nil {
		return Front{Main: "https://" + s.Proxy.Addr(), OOB: []string{"https://" + s.Proxy.OOBAddr()}, CA: s.cert.certFile}
	}
	f := *s.opts.Front
	f.CA = cmp.Or(f.CA, s.cert.certFile)
	return f
}

// SetFront has the next start of the server tell endpoints of f.
func (s *Stack) SetFront(f *Front) { s.opts.Front = f }

// Bound are the addresses of the server's listeners.
func (s *Stack) Bound() (main, oob string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bound.Main, s.bound.OOB
}

// CertFile is the certificate of the server's main listener, PEM.
func (s *Stack) CertFile() string { return s.cert.certFile }

// Run starts a program that the stack needs beside its own, logging into the file
// NAME.log of [Stack.Logs]. Who starts it ends it.
func (s *Stack) Run(name, program string, args ...string) (*Process, error) {
	return start(name, filepath.Join(s.logs(), name+".log"), nil, nil, program, args...)
}

func awaitReady(ctx context.Context, p *Process, file string) (ready, error) {
	var r ready
	err := Poll(ctx, startWait, func() (bool, error) {
		select {
		case <-p.Done():
			return false, Final(fmt.Errorf("the server ended at once (%v); its last words:\n%s", p.Err(), Tail(p.Log, 20)))
		default:
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return false, err
		}
		return true, nil
	})
	if err != nil {
		return r, fmt.Errorf("wait for the server: %w", err)
	}
	return r, nil
}

// Server is the server's process as last started.
func (s *Stack) Server() *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

// Client asks the server as an operator, not through the proxy.
func (s *Stack) Client() *operator.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

// Door is the server's main listener, not through the proxy: its URL, what to trust
// it by, and the operator token.
func (s *Stack) Door() (url string, trust *tls.Config, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "https://" + s.listen, &tls.Config{RootCAs: s.cert.roots}, s.token
}

// Operator runs the operator's command line against the server, not through the
// proxy, and gives what it printed and its exit code.
func (s *Stack) Operator(ctx context.Context, args ...string) (stdout, stderr string, code int, err error) {
	cmd := exec.CommandContext(ctx, s.opts.Bin.Server, args...)
	// Who tests may be an operator of another server.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GURURMM_") })
	s.mu.Lock()
	cmd.Env = append(env, "GURURMM_URL=https://"+s.listen, "GURURMM_CA="+s.cert.certFile, "GURURMM_TOKEN="+s.token)
	s.mu.Unlock()
	stdout, stderr, err = output(cmd)
	code, err = exitCode(err)
	return stdout, stderr, code, err
}

// output runs cmd to its end and gives both of its outputs, each for itself.
func output(cmd *exec.Cmd) (stdout, stderr string, err error) {
	var out, words strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &words
	err = cmd.Run()
	return out.String(), words.String(), err
}

// exitCode tells the exit code of a program that ran from a failure to run it.
func exitCode(err error) (int, error) {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// Logs lists the log files.
func (s *Stack) Logs() []string {
	files, _ := filepath.Glob(filepath.Join(s.logs(), "*.log")) // the pattern is good
	return files
}

// Close ends everything the stack started and waits for it.
func (s *Stack) Close() error {
	s.mu.Lock()
	agents, server := s.agents, s.server
	s.mu.Unlock()
	for _, a := range agents {
		a.kill()
	}
	if server != nil {
		server.Kill()
	}
	if s.Proxy != nil {
		return s.Proxy.Close()
	}
	return nil
}
