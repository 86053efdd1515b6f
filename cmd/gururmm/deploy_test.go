package main

import (
	"maps"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gururmm/internal/deploytest"
)

// dotEnv is what docs/deploy/README.md has people write to .env.
var dotEnv = map[string]string{"VERSION": "v1.2.3", "RMM_HOST": "rmm.example", "DOOR_HOST": "door.example"}

// configured is what the program makes of an image's command line and environment, with its
// own flags; secrets is where /run/secrets is here.
func configured(t *testing.T, line []string, env map[string]string, secrets string) serveConfig {
	t.Helper()
	root := rootCommand(line)
	cmd, args, err := root.Find(line)
	if err != nil || cmd.Name() != serveName {
		t.Fatalf("%q runs %s: %v", line, cmd.Name(), err)
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	var pairs []string
	for name, value := range env {
		pairs = append(pairs, name+"="+value)
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.env() == name }) {
			t.Errorf("%s is no setting of the server", name)
		}
	}
	if err := checkVariables(pairs); err != nil {
		t.Error(err)
	}
	c, err := loadConfig(cmd.Flags(), func(name string) (string, bool) {
		value, ok := env[name]
		return strings.Replace(value, "/run/secrets", secrets, 1), ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// numeric is a user that Kubernetes, too, sees not to be root.
var numeric = regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`)

func TestDockerfileFitsThisProgram(t *testing.T) {
	stages := deploytest.Dockerfile(t)
	image := stages[len(stages)-1]
	entry := image.Exec(t, "ENTRYPOINT")
	c := configured(t, append(entry[1:], image.Exec(t, "CMD")...), image.Env(), "")
	if !c.server.NoFirstTokens {
		t.Error("the first start prints tokens, and Docker keeps what is printed")
	}
	var ports []string
	for _, one := range image.Of("EXPOSE") {
		ports = append(ports, strings.Fields(one.Text)...)
	}
	if want := []string{port(t, c.server.ListenAddr), port(t, c.server.OOBAddr)}; !slices.Equal(ports, want) {
		t.Errorf("EXPOSE %v, and it listens at %v", ports, want)
	}
	if volumes := image.Exec(t, "VOLUME"); !slices.Equal(volumes, []string{c.server.StateDir}) {
		t.Errorf("VOLUME %v, and its state is in %s", volumes, c.server.StateDir)
	}
	user := image.Of("USER")
	if len(user) != 1 || !numeric.MatchString(user[0].Text) {
		t.Fatalf("USER %v: want a number that is not root's", user)
	}
	owned, copied := map[string]bool{}, map[string]string{}
	for _, one := range image.Of("COPY") {
		from, to, _ := strings.Cut(one.Text, " ")
		if one.Flags["from"] != stages[0].Name {
			t.Errorf("COPY %s is from %q", one.Text, one.Flags["from"])
		}
		if strings.HasSuffix(to, "/") {
			to = path.Join(to, path.Base(from))
		}
		copied[to] = from
		owned[to] = one.Flags["chown"] == user[0].Text && one.Flags["chmod"] == "0700"
	}
	if !owned[c.server.StateDir] {
		t.Errorf("%s is not that account's alone", c.server.StateDir)
	}
	builds := slices.DeleteFunc(stages[0].Of("RUN"), func(s deploytest.Step) bool { return !strings.Contains(s.Text, "go build") })
	if len(builds) != 1 || !strings.Contains(builds[0].Text, " -o "+copied[entry[0]]+" ") {
		t.Errorf("ENTRYPOINT %s is a copy of %q, and the build is %v", entry[0], copied[entry[0]], builds)
	}
}

// proxied gives the ports that a shipped nginx.conf listens at, by those it passes on to.
func proxied(t *testing.T, file string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(deploytest.Dir(t), file))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, part := range regexp.MustCompile(`listen (\d+)[^;]*;\s+proxy_pass 127\.0\.0\.1:(\d+);`).FindAllStringSubmatch(string(raw), -1) {
		all[part[2]] = part[1]
	}
	return all
}

func TestComposeFitsThisProgram(t *testing.T) {
	stages := deploytest.Dockerfile(t)
	image := stages[len(stages)-1]
	c := deploytest.ReadCompose(t, dotEnv)
	dir, owners := deploytest.Secrets(t)
	nginx, database := c.Services["nginx"], c.Services["database"]
	nodes, used := map[string]string{}, map[string]bool{}
	for name, s := range c.Services {
		if s.Build == nil {
			continue
		}
		if at := filepath.Join(deploytest.Dir(t), s.Build.Context, s.Build.Dockerfile); at != filepath.Join(deploytest.Dir(t), "Dockerfile") {
			t.Errorf("%s is built by %s", name, at)
		}
		if user := image.Of("USER")[0].Text; s.User != user {
			t.Errorf("%s: user %s, and the image's is %s, who owns the state", name, s.User, user)
		}
		line := s.Command
		if len(line) == 0 {
			line = image.Exec(t, "CMD")
		}
		env := image.Env()
		maps.Copy(env, s.Environment)
		cfg := configured(t, append(image.Exec(t, "ENTRYPOINT")[1:], line...), env, dir)

		// Each volume is where the program writes, and the other way round.
		volumes := map[string]string{}
		for _, v := range s.Volumes {
			volume, at, _ := strings.Cut(v, ":")
			volumes[at] = volume
			if volume != "shared" && used[volume] {
				t.Errorf("%s and another one have %s", name, volume)
			}
			used[volume] = true
		}
		if len(volumes) != 2 || volumes[cfg.server.StateDir] == "" || volumes[cfg.server.SharedDir] != "shared" {
			t.Errorf("%s: volumes %v, state in %s, shared %s", name, volumes, cfg.server.StateDir, cfg.server.SharedDir)
		}
		if !slices.ContainsFunc(image.Of("COPY"), func(one deploytest.Step) bool {
			return strings.HasSuffix(one.Text, " "+cfg.server.SharedDir) && one.Flags["chown"] == s.User
		}) {
			t.Errorf("%s: the image has no %s of %s, and so the volume is root's", name, cfg.server.SharedDir, s.User)
		}
		// Each secret is what a setting names, and the other way round.
		read := slices.Sorted(maps.Values(cfg.files()))
		var given []string
		for _, secret := range slices.Sorted(slices.Values(s.Secrets)) {
			given = append(given, filepath.Join(dir, secret))
		}
		if !slices.Equal(read, given) {
			t.Errorf("%s: reads %v, and is given %v", name, read, given)
		}
		db, err := url.Parse(cfg.server.DatabaseURL)
		if err != nil {
			t.Fatal(err)
		}
		password, _ := db.User.Password()
		raw, err := os.ReadFile(filepath.Join(dir, path.Base(database.Environment["POSTGRES_PASSWORD_FILE"])))
		if err != nil {
			t.Fatal(err)
		}
		if db.Hostname() != "database" || db.User.Username() != database.Environment["POSTGRES_USER"] ||
			db.Path != "/"+database.Environment["POSTGRES_DB"] || password == "" || password != strings.TrimSpace(string(raw)) {
			t.Errorf("%s: the database's URL is for %s%s, and the database is another", name, db.Host, db.Path)
		}
		if bus, err := url.Parse(cfg.server.ClusterURL); err != nil || bus.Hostname() != "bus" {
			t.Errorf("%s: NATS at %s, %v", name, bus.Host, err)
		}

		// nginx is the one who names clients, and passes on to where the program listens.
		if p := cfg.server.TrustedProxies; len(p) != 1 || p[0].String() != nginx.Networks["front"]+"/32" {
			t.Errorf("%s: trusts %v, nginx is %s", name, p, nginx.Networks["front"])
		}
		if !slices.Equal(cfg.server.ProxyProtocol, []string{"main", "oob"}) {
			t.Errorf("%s: takes the PROXY protocol at %v", name, cfg.server.ProxyProtocol)
		}
		nodes[name] = s.Networks["front"]
		pass := proxied(t, filepath.Base(c.Configs[nginx.Configs[0].Source].File))
		main, oob := pass[port(t, cfg.server.ListenAddr)], pass[port(t, cfg.server.OOBAddr)]
		if len(pass) != 2 || main == "" || oob == "" {
			t.Errorf("nginx passes on to %v, and %s listens at %s and %s", pass, name, cfg.server.ListenAddr, cfg.server.OOBAddr)
		}
		if want := []string{main + ":" + main, oob + ":" + oob}; !slices.Equal(nginx.Ports, want) {
			t.Errorf("published: %v, want %v", nginx.Ports, want)
		}
		for _, at := range append([]string{cfg.server.PublicURL}, cfg.server.OOBURLs...) {
			u, err := url.Parse(at)
			if err != nil {
				t.Fatal(err)
			}
			if got := u.Port(); got != oob && (at != cfg.server.PublicURL || got != "" || main != "443") {
				t.Errorf("%s: endpoints are told %s, where nginx listens at %s and %s", name, at, main, oob)
			}
		}
		if probe := nginx.HealthCheck.Test[len(nginx.HealthCheck.Test)-1]; probe != "https://127.0.0.1:"+main+"/readyz" {
			t.Errorf("nginx's health is that of %s", probe)
		}
		for _, secret := range s.Secrets {
			if owners[secret] != s.User {
				t.Errorf("secrets.sh gives %s to %s, and %s runs as %s", secret, owners[secret], name, s.User)
			}
		}
	}
	if len(nodes) != 2 {
		t.Errorf("nodes: %v", nodes)
	}
	// The first node's address, and in a comment the second one's.
	raw, err := os.ReadFile(filepath.Join(deploytest.Dir(t), "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(nginx.ExtraHosts, []string{"nodes:" + nodes["server-a"]}) || !strings.Contains(string(raw), "\n      # - nodes:"+nodes["server-b"]+"\n") {
		t.Errorf("nginx knows %v, the nodes are %v", nginx.ExtraHosts, nodes)
	}
}

// What a container may not do that it need not.
func TestComposeIsTight(t *testing.T) {
	c := deploytest.ReadCompose(t, dotEnv)
	dir, owners := deploytest.Secrets(t)
	used := map[string]bool{}
	for name, s := range c.Services {
		if !numeric.MatchString(s.User) || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) ||
			!slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) || s.Restart == "" || s.Logging.Driver == "" {
			t.Errorf("%s: user %q, read_only %v, cap_drop %v, security_opt %v, restart %q, logging %q", name, s.User, s.ReadOnly, s.CapDrop, s.SecurityOpt, s.Restart, s.Logging.Driver)
		}
		if !strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest") {
			t.Errorf("%s: image %s is of no version", name, s.Image)
		}
		if s.HealthCheck == nil && s.Build == nil { // the server's image has nothing to ask it with: nginx asks
			t.Errorf("%s has no health check", name)
		}
		if len(s.Ports) > 0 && name != "nginx" {
			t.Errorf("%s is published: %v", name, s.Ports)
		}
		for network := range s.Networks {
			if at, ok := c.Networks[network]; !ok || !at.Internal && name != "nginx" {
				t.Errorf("%s is in the network %q, which is not internal", name, network)
			}
		}
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if _, ok := c.Volumes[volume]; !ok {
				t.Errorf("%s: %s is no volume of a name", name, v)
			}
		}
		for _, secret := range s.Secrets {
			used[secret] = true
			if c.Secrets[secret].File != "./secrets/"+secret || owners[secret] != s.User {
				t.Errorf("%s: %s is %+v of %s, and it runs as %s", name, secret, c.Secrets[secret], owners[secret], s.User)
			}
			if !strings.Contains(strings.Join(append(slices.Collect(maps.Values(s.Environment)), s.Command...), " "), "/run/secrets/"+secret) {
				t.Errorf("%s is given %s, and nothing tells it so", name, secret)
			}
		}
	}
	made, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range made {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !used[file.Name()] || info.Mode().Perm() != 0o600 {
			t.Errorf("secrets.sh makes %s with %v, and it is used: %v", file.Name(), info.Mode(), used[file.Name()])
		}
	}
	if len(made) != len(c.Secrets) || len(made) != len(used) {
		t.Errorf("%d secrets are made, %d named, %d used", len(made), len(c.Secrets), len(used))
	}
}
