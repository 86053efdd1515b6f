package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/internal/help"
)

// patience bounds each wait; nothing here takes a tenth of it.
const patience = 20 * time.Second

// TestProxyCommand runs the proxy as from the command line, before a server,
// and gives it orders over its control socket.
func TestProxyCommand(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "upstream") }))
	defer srv.Close()
	dir, err := os.MkdirTemp("", "gl") // a unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cert, key := keyPair(t, dir, srv.TLS.Certificates[0])
	socket := filepath.Join(dir, "control")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, printed := io.Pipe()
	cmd := root()
	cmd.SetOut(printed)
	cmd.SetErr(io.Discard)
	addr := strings.TrimPrefix(srv.URL, "https://")
	cmd.SetArgs([]string{"proxy", "--upstream", addr, "--oob-upstream", addr, "--cert", cert, "--key", key,
		"--control", socket, "--fault", "down:drop-text-above:512"})
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	lines := bufio.NewScanner(out)
	links := afterColon(t, lines, "links")
	afterColon(t, lines, "second door")

	client := srv.Client()
	client.Timeout = patience
	res, err := client.Get("https://" + links)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "upstream" {
		t.Errorf("through the proxy: %q, %v", body, err)
	}
	res.Body.Close()

	conn := dialSocket(t, socket)
	defer conn.Close()
	if _, err := io.WriteString(conn, "up freeze\nnonsense\ndown bogus\nstatus\n"); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(conn)
	for _, want := range []string{"ok", `error: no such fault: "nonsense"; say DIRECTION FAULT`, `error: no such fault: "bogus"; of down and up there are alter-text, `} {
		if !answers.Scan() || !strings.HasPrefix(answers.Text(), want) {
			t.Errorf("answered %q, want %s", answers.Text(), want)
		}
	}
	var status strings.Builder
	for answers.Scan() {
		status.WriteString(answers.Text())
		if answers.Text() == "}" {
			break
		}
	}
	for _, part := range []string{`"kind": "freeze"`, `"kind": "drop-text-above"`, links} {
		if !strings.Contains(status.String(), part) {
			t.Errorf("status lacks %s: %s", part, status.String())
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the proxy did not end")
	}
}

func keyPair(t *testing.T, dir string, pair tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func afterColon(t *testing.T, lines *bufio.Scanner, name string) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("ended before it told %s: %v", name, lines.Err())
	}
	value, ok := strings.CutPrefix(lines.Text(), name+": ")
	if !ok {
		t.Fatalf("printed %q, want %s", lines.Text(), name)
	}
	return value
}

// dialSocket waits for the socket: the proxy listens on it after it has told its addresses.
func dialSocket(t *testing.T, path string) net.Conn {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

func TestBadOrdersAreNamed(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"proxy"}, "required"},
		{[]string{"proxy", "--upstream", "127.0.0.1:1", "--cert", "/nonexistent", "--key", "/nonexistent"}, "/nonexistent"},
		{[]string{"demo", "--bin", "/nonexistent"}, "make build"},
		{[]string{"scenarios", "--faults", "/nonexistent"}, "`make faults`, or name the directory with --faults"},
		{[]string{"fleet"}, "required"},
		{[]string{"fleet", "--agents", "1"}, "--restart"},
		{[]string{"fleet", "--agents", "1", "--restart", "--server", "https://127.0.0.1:1"}, "restart server"},
		{[]string{"fleet", "--agents", "1", "--restart", "--bin", "/nonexistent"}, "make build"},
		{[]string{"fleet", "--agents", "1", "--server", "https://127.0.0.1:1", "--enroll-token-file", "/nonexistent"}, "/nonexistent"},
		{[]string{"fleet", "--agents", "1", "--server", "https://127.0.0.1:1", "--enroll-token-file", "/dev/null", "--mix", "sleepy=1"}, "no kind"},
		{[]string{"dance"}, "dance"},
	} {
		t.Run(fmt.Sprint(c.args), func(t *testing.T) {
			cmd := root()
			cmd.SetOut(io.Discard)
			cmd.SetErr(io.Discard)
			cmd.SetArgs(c.args)
			err := cmd.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want it to name %q", err, c.want)
			}
		})
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	wide, all := help.Wide(root())
	if all < 100 {
		t.Errorf("only %d lines of help", all)
	}
	for _, line := range wide {
		t.Error(line)
	}
}

func TestExamplesAreTaken(t *testing.T) {
	wrong, all := help.Wrong(root)
	if all < 2 {
		t.Errorf("only %d lines of examples", all)
	}
	for _, line := range wrong {
		t.Error(line)
	}
}

func TestMechanismsAreCompleted(t *testing.T) {
	for typed, want := range map[string]string{"path.mt": "path.mtu\n", "path.mtu,agent.hu": "path.mtu,agent.hung\n", "path.mtu,path.mt": ":"} {
		var out strings.Builder
		cmd := root()
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		cmd.SetArgs([]string{"__complete", "scenarios", "--only", typed})
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%s: %v, %q", typed, err, &out)
		}
	}
}
