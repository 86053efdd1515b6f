// Package pgtest runs a PostgreSQL server of its own for the tests of one binary.
//
// Rules that hold here:
//   - nothing of the system's is used but its programs: no cluster, no service, no port
//     that is known; fsync is on, so a kill is a kill;
//   - the server ends with the binary, however that ends;
//   - without PostgreSQL a test fails and says how to get it.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// startWait bounds how long the server may take to answer, recovery included.
const startWait = 60 * time.Second

// Server is a PostgreSQL server.
type Server struct {
	dir, bin string
	port     int
	log      string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	n    int           // of databases
}

var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Main runs the tests of a binary, and ends its server after them.
func Main(m *testing.M) {
	code := m.Run()
	if s := shared.server; s != nil {
		if err := s.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Shared is the server of this binary, which must have [Main]; it starts with the first call.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = New() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// Own is a server for a test that does it harm.
func Own(t testing.TB) *Server {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// New makes a cluster and starts its server.
func New() (*Server, error) {
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		bins = append(bins, filepath.Dir(path))
	}
	if len(bins) == 0 {
		return nil, errors.New("pgtest: there is no PostgreSQL server here; get it by `sh scripts/need.sh initdb`")
	}
	slices.SortFunc(bins, func(a, b string) int { return version(a) - version(b) })
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bins[len(bins)-1], log: filepath.Join(dir, "log")}
	if err := s.make(); err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: %w", err), s.Kill(), os.RemoveAll(dir))
	}
	return s, nil
}

// version of the programs in a directory, by its name; 0: it has none.
func version(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return n
}

func (s *Server) make() error {
	if err := giveAway(s.dir); err != nil {
		return err
	}
	init := exec.Command(filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "gururmm", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions")
	unprivileged(init)
	init.Dir = s.dir
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = ln.Addr().(*net.TCPAddr).Port
	if err := ln.Close(); err != nil {
		return err
	}
	return s.Start()
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Start runs the server, again if it was killed, and waits until it answers.
func (s *Server) Start() error {
	var last error
	for until := time.Now().Add(startWait); time.Now().Before(until); {
		done, err := s.run()
		if err != nil {
			return err
		}
		for ; ; time.Sleep(20 * time.Millisecond) {
			ctx, cancel := context.WithTimeout(context.Background(), startWait/10)
			var conn *pgx.Conn
			conn, last = pgx.Connect(ctx, s.URL("postgres"))
			if last == nil {
				last = conn.Close(ctx)
				cancel()
				return last
			}
			cancel()
			if ended(done) || !time.Now().Before(until) {
				break
			}
		}
		// What a killed server had started still holds its memory for a moment.
		time.Sleep(20 * time.Millisecond)
	}
	said, _ := os.ReadFile(s.log)
	return fmt.Errorf("pgtest: the server does not start: %w\n%s", last, said[max(0, len(said)-2000):])
}

func ended(done chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (s *Server) run() (done chan struct{}, err error) {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+s.dir, "-c", "fsync=on", "-c", "max_connections=50",
		"-c", "shared_buffers=64MB",
		"-c", "dynamic_shared_memory_type=mmap", // in its folder: what a killed one leaves goes with it
		"-c", "log_line_prefix=%e ")
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	unprivileged(cmd)
	started, done := make(chan error), make(chan struct{})
	go wait(cmd, started, done)
	if err := <-started; err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.cmd, s.done = cmd, done
	s.mu.Unlock()
	return done, nil
}

// Kill ends the server at once, as kill -9 of its first process does.
func (s *Server) Kill() error {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-done
	return nil
}

// Remove ends the server and takes away all that it kept.
func (s *Server) Remove() error { return errors.Join(s.Kill(), os.RemoveAll(s.dir)) }

// URL of a database of the server.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://gururmm@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// Database makes an empty one and gives its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	s.mu.Lock()
	s.n++
	name := fmt.Sprint("t", s.n)
	s.mu.Unlock()
	s.Exec(t, "postgres", "CREATE DATABASE "+name)
	return s.URL(name)
}

// Exec runs a statement in a database.
func (s *Server) Exec(t testing.TB, database, statement string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement, args...); err != nil {
		t.Fatal(err)
	}
}

// Misunderstood is what the server has said of statements that it did not understand:
// their syntax or their types (class 42 of SQLSTATE).
func (s *Server) Misunderstood(t testing.TB) (lines []string) {
	t.Helper()
	raw, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "42") {
			lines = append(lines, line)
		}
	}
	return lines
}
