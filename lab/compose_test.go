//go:build linux

package lab_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"gururmm/internal/deploytest"
	"gururmm/lab/harness"
	"gururmm/operator"
	"gururmm/server/store/pgtest"
)

// composed is docs/deploy/compose.yaml, run without Docker: each container is a process with the
// command line, the environment and the files that it would have. Paths are below dir, and
// what is a container's own address there is one of 127.0.0.0/8 here.
type composed struct {
	t         *testing.T
	dir       string
	image     deploytest.Stage
	file      deploytest.Compose
	addresses map[string]string // of services
	program   string
	secrets   string
}

// compose makes secrets, database and NATS. scripts/packages.sh builds by the Dockerfile's own line.
func compose(t *testing.T) *composed {
	bin, dir := room(t)
	stages := deploytest.Dockerfile(t)
	c := &composed{t: t, dir: dir, image: stages[len(stages)-1], program: bin.Server, addresses: map[string]string{}}
	c.file = deploytest.ReadCompose(t, map[string]string{"VERSION": "v1.2.3", "RMM_HOST": "rmm.example", "DOOR_HOST": "door.example"})
	subnet := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(250), rand.IntN(250))
	for i, name := range []string{"nginx", "server-a", "server-b"} {
		c.addresses[name] = fmt.Sprint(subnet, 10+i)
	}
	db := pgtest.Own(t)
	at, err := url.Parse(db.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	c.secrets, _ = deploytest.Secrets(t)
	o, err := nats.ProcessConfigFile(filepath.Join(c.secrets, "bus.conf"))
	if err != nil {
		t.Fatal(err)
	}
	shipped := o.Port
	o.Host, o.Port, o.HTTPPort, o.NoSigs, o.NoLog = "127.0.0.1", nats.RANDOM_PORT, 0, true, true
	bus, err := nats.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	bus.Start()
	t.Cleanup(func() {
		bus.Shutdown()
		bus.WaitForShutdown()
	})
	if !bus.ReadyForConnections(patience) {
		t.Fatal("NATS does not come up")
	}
	for file, change := range map[string][2]string{
		"database.url": {"@database:5432/gururmm?", "@" + at.Host + "/postgres?"}, // which asks for no password
		"bus.url":      {fmt.Sprintf("@bus:%d", shipped), "@" + bus.Addr().String()},
	} {
		file = filepath.Join(c.secrets, file)
		raw, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(raw, []byte(change[0])) {
			t.Fatalf("%s has no %q: %v", file, change[0], err)
		}
		if err := os.WriteFile(file, bytes.Replace(raw, []byte(change[0]), []byte(change[1]), 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// container is a process as the container of a server's service would start it, or, with args, as
// `docker compose run` and `exec` would.
func (c *composed) container(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	s := c.file.Services[name]
	env := c.image.Env()
	maps.Copy(env, s.Environment)
	where := []string{"/run/secrets", c.secrets}
	for _, v := range s.Volumes {
		volume, at, _ := strings.Cut(v, ":")
		dir := filepath.Join(c.dir, "volumes", volume)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			c.t.Fatal(err)
		}
		where = append(where, at, dir)
	}
	// The containers' own addresses, and their host names.
	env["GURURMM_LISTEN"], env["GURURMM_OOB_LISTEN"] = c.addresses[name]+":8443", c.addresses[name]+":8444"
	env["GURURMM_NODE_NAME"] = s.Hostname
	where = append(where, c.file.Services["nginx"].Networks["front"], "127.0.0.1")
	paths := strings.NewReplacer(where...)
	if args == nil {
		if args = s.Command; len(args) == 0 {
			args = c.image.Exec(c.t, "CMD")
		}
	}
	entry := c.image.Exec(c.t, "ENTRYPOINT")
	cmd := exec.CommandContext(c.t.Context(), c.program, append(entry[1:], args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+paths.Replace(value))
	}
	cmd.Dir = "/"
	return cmd
}

// up starts a service and leaves it running; what it prints is in the file that is given.
func (c *composed) up(name string, cmd *exec.Cmd) (log string, end func()) {
	c.t.Helper()
	log = filepath.Join(c.dir, name+".log")
	out, err := os.Create(log)
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	harness.OwnGroup(cmd) // nginx's master, killed, leaves its worker
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed, as a rule
		close(ended)
	}()
	end = sync.OnceFunc(func() {
		_ = cmd.Cancel() // it may have ended
		<-ended
	})
	c.t.Cleanup(end)
	return log, end
}

// ready waits until /readyz is answered at addr, for somebody at 127.0.0.9, who is no proxy.
func (c *composed) ready(log, addr string) {
	c.t.Helper()
	roots := &tls.Config{RootCAs: rootsOf(c.t, filepath.Join(c.dir, "volumes", "state-a", "main.crt")), ServerName: "localhost"}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(strangerAddr)}, Timeout: 5 * time.Second}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: roots, DialContext: dialer.DialContext, DisableKeepAlives: true}}
	err := harness.Poll(c.t.Context(), patience, func() (bool, error) {
		resp, err := client.Get("https://" + addr + "/readyz")
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		said, err := io.ReadAll(resp.Body)
		return resp.StatusCode == http.StatusOK, errors.Join(err, fmt.Errorf("%s: %s", resp.Status, said))
	})
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", addr, err, harness.Tail(log, 20))
	}
}

// output runs a command to its end, with stdin, and gives what it printed.
func (c *composed) output(cmd *exec.Cmd, stdin []byte) []byte {
	c.t.Helper()
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &said
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%q: %v\n%s%s", cmd.Args[1:], err, &out, &said)
	}
	return out.Bytes()
}

// TestComposeComesUp: docs/deploy/README.md step by step, the first node, its token, nginx before
// it, the second node with the keys of the first; and the first one gone.
func TestComposeComesUp(t *testing.T) {
	c := compose(t)
	log, endA := c.up("server-a", c.container("server-a"))
	main := filepath.Join(c.dir, "volumes", "state-a", "main.crt")
	if err := harness.Poll(t.Context(), patience, func() (bool, error) { _, err := os.Stat(main); return err == nil, err }); err != nil {
		t.Fatalf("%v\n%s", err, harness.Tail(log, 20))
	}
	c.ready(log, c.addresses["server-a"]+":8443")
	if raw, err := os.ReadFile(log); err != nil || bytes.Contains(raw, []byte("gro_")) || bytes.Contains(raw, []byte("gre_")) {
		t.Errorf("the first start printed a token, or %v", err)
	}
	token := strings.TrimSpace(string(c.output(c.container("server-a", "operator-token", "alice"), nil)))

	front := c.addresses["nginx"]
	nginx := c.nginx()
	ngx, _ := c.up("nginx", nginx)
	c.ready(ngx, front+":4443")
	if _, err := os.Stat(filepath.Join(c.dir, "nginx.pid")); err != nil {
		t.Errorf("nginx writes where its account may not: %v", err)
	}
	client, err := operator.New("https://"+front+":4443", token, &tls.Config{RootCAs: rootsOf(t, main), ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if all, err := client.Agents(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%d agents, %v", len(all), err)
	}

	keys := c.output(c.container("server-a", "backup", "--without-bundles", "-o", "-"), nil)
	c.output(c.container("server-b", "restore", "-"), keys)
	second, _ := c.up("server-b", c.container("server-b"))
	c.ready(second, c.addresses["server-b"]+":8443")
	endA()
	c.ready(second, c.addresses["server-b"]+":8443")
}

// nginx is that service with the configuration that it mounts, and the module that Debian's
// nginx has beside it and the image's built in.
func (c *composed) nginx() *exec.Cmd {
	s := c.file.Services["nginx"]
	text, err := os.ReadFile(filepath.Join(deploytest.Dir(c.t), c.file.Configs[s.Configs[0].Source].File))
	if err != nil {
		c.t.Fatal(err)
	}
	at, conf := c.addresses["nginx"], filepath.Join(c.dir, "shipped.conf")
	replace := func(text string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(text, pairs[i]) {
				c.t.Fatalf("nginx is not told %q: what is tested is not what is shipped", pairs[i])
			}
		}
		return strings.NewReplacer(pairs...).Replace(text)
	}
	here := replace(string(text), "listen 443", "listen "+at+":4443", "listen 8444", "listen "+at+":8444",
		"/var/log/nginx/", c.dir+"/", "worker_processes auto", "worker_processes 1")
	if err := os.WriteFile(conf, []byte(here), 0o644); err != nil {
		c.t.Fatal(err)
	}
	host, node, _ := strings.Cut(s.ExtraHosts[0], ":")
	if node != c.file.Services["server-a"].Networks["front"] {
		c.t.Fatalf("%s is at %s, which is no node", host, node)
	}
	words := slices.Clone(s.Command)
	last := len(words) - 1
	words[last] = replace(words[last], s.Configs[0].Target, conf, "/tmp/", c.dir+"/", "/"+host+":/", "/"+c.addresses["server-a"]+":/",
		"exec nginx ", "exec nginx -e stderr ", "'daemon off;'", "'load_module /usr/lib/nginx/modules/ngx_stream_module.so; daemon off;'")
	return exec.CommandContext(c.t.Context(), words[0], words[1:]...)
}
