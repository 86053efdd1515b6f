package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/bundle"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/agent/task"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// running is a guardian that answers; hang: it never does, and obeys no context.
type running struct {
	status local.Status
	stacks local.Stacks
	traces local.Traces
	hang   chan struct{}
}

func (r running) wait() {
	if r.hang != nil {
		<-r.hang
	}
}

func (r running) Status(context.Context) (local.Status, error) { r.wait(); return r.status, nil }
func (r running) Frames(context.Context) (local.Frames, error) {
	return local.Frames{Frames: []selfcheck.FrameHeader{{Class: selfcheck.FrameText, Size: 80}}}, nil
}
func (r running) Stacks(context.Context) (local.Stacks, error) { return r.stacks, nil }
func (r running) Traces(context.Context, time.Duration) (local.Traces, error) {
	return r.traces, nil
}

func well() running {
	return running{
		status: local.Status{
			Agent: "agent-1", Server: "server-1", Version: "v1",
			Verdict:  selfcheck.Verdict{Code: selfcheck.CodeOK, Severity: selfcheck.SeverityWell, Sentence: "All is well."},
			Guardian: local.ProcessStatus{PID: 1, Instance: "instance-1"},
		},
		stacks: local.Stacks{Guardian: "goroutine 1 [running]:\nguardian.loop()", Worker: "goroutine 1 [running]:\nworker.loop()"},
		traces: local.Traces{Guardian: []byte("go 1.26 trace"), WorkerWhy: "the worker did not answer"},
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// made makes a bundle and reads it back.
func made(t *testing.T, o bundle.Options) (bundle.Manifest, map[string][]byte, []byte) {
	t.Helper()
	packed, said, err := bundle.Make(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	man, members, err := bundle.Read(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(man) != fmt.Sprint(said) {
		t.Errorf("the manifest given is not the one packed:\n%v\n%v", said, man)
	}
	return man, members, packed
}

func member(man bundle.Manifest, name string) bundle.Member {
	for _, m := range man.Members {
		if m.Name == name {
			return m
		}
	}
	return bundle.Member{}
}

func TestABundleSaysWhatIsInItAndWhatIsNot(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "log/agent.log", strings.Repeat("a line of the log\n", 300<<10))
	write(t, dir, "log/agent.log.1", "older\n")
	write(t, dir, "stacks/20260101T000000Z-worker.txt", "goroutine 7 [chan receive]:\nworker.hung()\n")
	man, members, _ := made(t, bundle.Options{StateDir: dir, Guardian: well(), Reason: "a test", Version: "v2"})
	if man.Guardian != "answered" || man.Agent != "agent-1" || man.Instance != "instance-1" || man.Verdict != "ok" || man.Reason != "a test" || man.Version != "v2" {
		t.Errorf("manifest: %+v", man)
	}
	var names []string
	for _, m := range man.Members {
		names = append(names, m.Name)
		if m.From == "" || (m.Missing == "") != (m.SHA256 != "") {
			t.Errorf("%s: %+v", m.Name, m)
		}
	}
	want := "status.json history.json frames.json beacons.json stacks/guardian.txt stacks/worker.txt " +
		"stacks/kept/20260101T000000Z-worker.txt trace/guardian.trace trace/worker.trace doctor.json config.json " +
		"journal.json machine.json files.json log/agent.log log/agent.log.1"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("members are\n%s\nwant\n%s", got, want)
	}
	for name, why := range map[string]string{
		"trace/worker.trace": "did not answer", "doctor.json": "no doctor", "beacons.json": "no report", "journal.json": "no command has come",
	} {
		if m := member(man, name); !strings.Contains(m.Missing, why) {
			t.Errorf("%s is missing because of %q, want %q", name, m.Missing, why)
		}
	}
	log := member(man, "log/agent.log")
	if !strings.HasPrefix(log.Cut, "the first ") || len(members["log/agent.log"]) > 4<<20 || !bytes.HasPrefix(members["log/agent.log"], []byte("a line")) {
		t.Errorf("a log of 5 MiB: %+v", log)
	}
	var config struct {
		Identity string `json:"identity_why"`
		Local    string `json:"agent_yaml_why"`
	}
	if err := json.Unmarshal(members["config.json"], &config); err != nil || config.Identity != "this endpoint is not enrolled" || config.Local != "there is none" {
		t.Errorf("%v, %s", err, members["config.json"])
	}
	if !bytes.Contains(members["files.json"], []byte(`"log/agent.log"`)) || !bytes.Contains(members["machine.json"], []byte(`"kernel"`)) {
		t.Errorf("files %.300s\nmachine %.300s", members["files.json"], members["machine.json"])
	}
}

func TestABundleOfAStoppedAgentComesFromTheDisk(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "log/agent.log", "its last words\n")
	man, members, _ := made(t, bundle.Options{StateDir: dir})
	if !strings.Contains(man.Guardian, "did not answer") || man.Verdict != "" {
		t.Errorf("manifest: %+v", man)
	}
	if string(members["log/agent.log"]) != "its last words\n" || members["status.json"] != nil || member(man, "status.json").Missing == "" {
		t.Errorf("members: %v", man.Members)
	}
}

// A source that hangs costs its own member, and its own time.
func TestWhatHangsIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frozen := well()
		frozen.hang = make(chan struct{})
		defer close(frozen.hang)
		dir := t.TempDir()
		write(t, dir, "log/agent.log", "still here\n")
		began := time.Now()
		man, members, _ := made(t, bundle.Options{StateDir: dir, Guardian: frozen, Doctor: func(context.Context) ([]byte, error) {
			<-frozen.hang
			return nil, nil
		}})
		if !strings.Contains(member(man, "status.json").Missing, "did not come within") ||
			!strings.Contains(member(man, "doctor.json").Missing, "did not come within") || members["log/agent.log"] == nil {
			t.Errorf("members: %v", man.Members)
		}
		if took := time.Since(began); took > 90*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestABundleIsBounded(t *testing.T) {
	const limit = 1600 << 10
	big := well()
	big.traces.Guardian, big.traces.Worker, big.traces.WorkerWhy = make([]byte, 900<<10), make([]byte, 1000<<10), ""
	rand.Read(big.traces.Guardian)
	rand.Read(big.traces.Worker)
	man, members, packed := made(t, bundle.Options{StateDir: t.TempDir(), Guardian: big, Limit: limit})
	if len(packed) > limit || members["trace/worker.trace"] != nil || !strings.Contains(member(man, "trace/worker.trace").Missing, "left out") {
		t.Errorf("%d bytes, %+v", len(packed), member(man, "trace/worker.trace"))
	}
	if len(members["trace/guardian.trace"]) != 900<<10 {
		t.Error("more was left out than was needed")
	}
	t.Logf("packed: %d bytes", len(packed))
}

// repack changes a bundle's members by f, which gives what becomes of one.
func repack(t *testing.T, packed []byte, f func(name string, data []byte) (string, []byte, bool)) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(z)
	var buf bytes.Buffer
	zout := gzip.NewWriter(&buf)
	out := tar.NewWriter(zout)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		name, data, keep := f(h.Name, data)
		if !keep {
			continue
		}
		h.Name, h.Size = name, int64(len(data))
		if err := out.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.Close(), zout.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestAnAlteredBundleIsFoundOut(t *testing.T) {
	_, _, packed := made(t, bundle.Options{StateDir: t.TempDir(), Guardian: well()})
	for what, f := range map[string]func(name string, data []byte) (string, []byte, bool){
		"a byte is another": func(name string, data []byte) (string, []byte, bool) {
			if name == "status.json" {
				data[len(data)/2] ^= 1
			}
			return name, data, true
		},
		"a member is gone":     func(name string, data []byte) (string, []byte, bool) { return name, data, name != "status.json" },
		"the manifest is gone": func(name string, data []byte) (string, []byte, bool) { return name, data, name != bundle.ManifestName },
		"a member has moved": func(name string, data []byte) (string, []byte, bool) {
			return strings.Replace(name, "frames", "other", 1), data, true
		},
		"a missing one is there": func(name string, data []byte) (string, []byte, bool) {
			return strings.Replace(name, "frames", "doctor", 1), data, true
		},
		"its sums are others": func(name string, data []byte) (string, []byte, bool) {
			if name == bundle.SumsName {
				data[0] ^= 1
			}
			return name, data, true
		},
		"its sums are gone":       func(name string, data []byte) (string, []byte, bool) { return name, data, name != bundle.SumsName },
		"there is nothing at all": func(name string, data []byte) (string, []byte, bool) { return name, data, false },
	} {
		if _, _, err := bundle.Read(bytes.NewReader(repack(t, packed, f))); err == nil {
			t.Errorf("%s: not found out", what)
		}
	}
	if _, _, err := bundle.Read(bytes.NewReader(packed[:len(packed)-20])); err == nil {
		t.Error("its end is cut off: not found out")
	}
	if _, _, err := bundle.Read(bytes.NewReader(repack(t, packed, func(name string, data []byte) (string, []byte, bool) { return name, data, true }))); err != nil {
		t.Errorf("repacked as it was: %v", err)
	}
}

// What is unpacked can be checked without a program of ours.
func TestTheSumsAreThoseOfTheSystemsTool(t *testing.T) {
	tool, err := exec.LookPath("sha256sum")
	if err != nil {
		if runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		t.Skip("this system has no sha256sum") // coreutils, which CI has
	}
	dir, state := t.TempDir(), t.TempDir()
	write(t, state, "log/agent.log", "a line\n")
	_, _, packed := made(t, bundle.Options{StateDir: state, Guardian: well()})
	repack(t, packed, func(name string, data []byte) (string, []byte, bool) {
		write(t, dir, name, string(data))
		return name, data, true
	})
	check := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), tool, "--strict", "-c", bundle.SumsName)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := check()
	if err != nil || !strings.Contains(out, "manifest.json: OK") || !strings.Contains(out, "log/agent.log: OK") {
		t.Errorf("%v: %s", err, out)
	}
	write(t, dir, "status.json", "{}")
	if out, err := check(); err == nil || !strings.Contains(out, "status.json: FAILED") {
		t.Errorf("after a change: %v, %s", err, out)
	}
}

// canaries are secrets planted wherever a bundle looks. None may come out.
type canaries struct {
	t       *testing.T
	secrets map[string]string // secret → where it was planted
}

func (c *canaries) new(where string) string {
	s := "CANARY" + rand.Text()
	c.secrets[s] = where
	return s
}

func (c *canaries) add(where, secret string) string {
	c.secrets[secret] = where
	return secret
}

// check looks through every member, through the names and through the packed bytes.
func (c *canaries) check(man bundle.Manifest, members map[string][]byte, packed []byte) {
	c.t.Helper()
	raw, err := json.Marshal(man)
	if err != nil {
		c.t.Fatal(err)
	}
	all := map[string][]byte{"the packed file": packed, bundle.ManifestName: raw}
	for name, data := range members {
		all[name] = append([]byte(name+"\n"), data...)
	}
	for name, data := range all {
		for secret, where := range c.secrets {
			if i := bytes.Index(data, []byte(secret)); i >= 0 {
				c.t.Errorf("%s holds the secret of %s: … %.120q …", name, where, data[max(0, i-40):])
			}
		}
	}
}

func TestNoSecretGoesIn(t *testing.T) {
	dir := t.TempDir()
	c := &canaries{t, map[string]string{}}
	id := enrolled(t, dir, c)
	jwt, err := id.Token(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.add("a request's token", jwt)
	c.add("a request's token, its signature", jwt[strings.LastIndex(jwt, ".")+1:])
	enroll := c.add("an enrollment token", "gre_"+rand.Text())
	operator := c.add("an operator token", "gro_"+rand.Text())
	linkPassword, doorPassword, envPassword := c.new("link proxy"), c.new("second door's proxy"), c.new("HTTPS_PROXY")+"&<é"
	write(t, dir, "agent.yaml", fmt.Sprintf("link:\n  proxy: http://user:%s@127.0.0.1:3128\noob:\n  proxy: http://user:%s@127.0.0.1:3129\n", linkPassword, doorPassword))
	t.Setenv("CANARY_VARIABLE", c.new("environment"))
	ran(t, dir, c)

	pem := "-----BEGIN PRIVATE KEY-----\n" + c.new("a PEM key") + "\n-----END PRIVATE KEY-----"
	escaped, err := json.Marshal(pem)
	if err != nil {
		t.Fatal(err)
	}
	// One of each form, in every text that a bundle takes; between them what must stay.
	var words strings.Builder
	for i, secret := range []string{
		"Authorization: Bearer " + jwt, "Authorization: Basic " + c.new("basic authorization"), jwt, enroll, operator,
		"proxy http://user:" + c.new("user information of a URL") + "@proxy.example:3128/ refused",
		"CONNECT by http://user:" + linkPassword + "@127.0.0.1:3128", "bare " + linkPassword, "bare " + doorPassword, "bare " + envPassword,
		`"password":"` + c.new("password in JSON") + `"`, "password=" + c.new("password=") + " next", `{\"token\":\"` + c.new("token in JSON in JSON") + `\"}`,
		"api_key: " + c.new("api_key"), "set-cookie: " + c.new("cookie") + "; path=/", string(escaped), pem,
		base64.StdEncoding.EncodeToString(id.Key), base64.StdEncoding.EncodeToString(id.Key.Seed()), hex.EncodeToString(id.Key.Seed()),
	} {
		fmt.Fprintf(&words, "kept-%d %s kept-%d\n", i, secret, i)
	}
	said := words.String()
	write(t, dir, "log/agent.log", said)
	write(t, dir, "log/agent.log.1", said)
	write(t, dir, "stacks/20260101T000000Z-worker.txt", "panic: "+said)
	write(t, dir, "guardian.json", said)
	event, err := json.Marshal(map[string]any{"id": "1", "at": time.Now(), "kind": "verdict", "code": "link.silent", "sentence": "kept-0 " + jwt, "detail": said})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "events.jsonl", string(event)+"\n")
	g := well()
	g.status.Verdict.Sentence = said
	g.status.Verdict.Evidence = []selfcheck.Evidence{{Fact: "link.failure", Seen: said}}
	g.status.Snapshot.Link.Failure = &selfcheck.NetworkError{Detail: said}
	g.status.Snapshot.Worker.LastExit = "exit status 2: panic: " + said
	g.stacks = local.Stacks{Guardian: said, Worker: said}
	g.traces.WorkerWhy = said
	spool, err := oob.OpenSpool(filepath.Join(dir, "spool"), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // one that waits, one that arrived
		r := oob.Report{Schema: oob.SchemaVersion, ReportID: wire.NewID(), Agent: id.Agent, Verdict: g.status.Verdict, Snapshot: g.status.Snapshot}
		if err := spool.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	if at, _, ok := spool.Next(); !ok || spool.Done(at) != nil {
		t.Fatal("the spool takes no report")
	}
	doctor, err := json.Marshal(map[string]any{
		"probes": []any{map[string]any{"name": "proxy", "detail": said, "password": c.new("field of the doctor"), "headers": map[string]any{"Authorization": c.new("header of the doctor")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	man, members, packed := made(t, bundle.Options{
		StateDir: dir, Guardian: g, Reason: "kept-0 " + enroll,
		Doctor:  func(context.Context) ([]byte, error) { return doctor, nil },
		Environ: []string{"HTTPS_PROXY=http://user:" + envPassword + "@127.0.0.1:3130", "SECRET=" + c.new("SECRET="), "NO_PROXY=.example"},
	})
	c.check(man, members, packed)

	// What surrounds a secret is evidence, and stays; else nothing at all would pass, too.
	for _, name := range []string{"log/agent.log", "log/agent.log.1", "stacks/kept/20260101T000000Z-worker.txt",
		"status.json", "stacks/guardian.txt", "stacks/worker.txt", "beacons.json", "doctor.json", "history.json"} {
		m := member(man, name)
		if m.Missing != "" || m.Redacted == 0 {
			t.Errorf("%s: %+v", name, m)
		}
		for i := range strings.Count(said, "\n") {
			if mark := []byte(fmt.Sprintf("kept-%d ", i)); name != "history.json" && !bytes.Contains(members[name], mark) && i < 15 {
				t.Errorf("%s lacks %s", name, mark)
			}
		}
	}
	for name, want := range map[string]string{
		"config.json":  `"password": true`,
		"journal.json": `"phase": "owed"`,
		"machine.json": `"kernel"`,
	} {
		if !bytes.Contains(members[name], []byte(want)) {
			t.Errorf("%s lacks %s:\n%.600s", name, want, members[name])
		}
	}
	t.Logf("%d secrets planted, %d members", len(c.secrets), len(members))
}

// A source that comes after it was given up changes nothing: not the filter, not the
// manifest. What it would have taught is not known, so what could hold it stays out.
func TestWhatComesLateIsDropped(t *testing.T) {
	dir := t.TempDir()
	c := &canaries{t, map[string]string{}}
	id := enrolled(t, dir, c)
	password := c.new("a proxy's password")
	said := "the key is " + base64.RawStdEncoding.EncodeToString(id.Key.Seed()) + ", bare " + password + "\n"
	write(t, dir, "agent.yaml", "link:\n  proxy: http://user:"+password+"@127.0.0.1:3128\n")
	write(t, dir, "log/agent.log", said)
	write(t, dir, "stacks/20260101T000000Z-worker.txt", said)
	for _, late := range []string{"identity.json", "agent.yaml"} {
		t.Run(late, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := well()
				g.hang = make(chan struct{})
				time.AfterFunc(16*time.Second, func() { close(g.hang) }) // just in time
				g.stacks = local.Stacks{Guardian: said, Worker: said}
				g.status.Verdict.Sentence = "the key is " + base64.RawStdEncoding.EncodeToString(id.Key.Seed())
				came := make(chan struct{})
				man, members, packed := made(t, bundle.Options{StateDir: dir, Guardian: g, Reason: said[:60], Read: func(path string, limit int64) ([]byte, error) {
					if filepath.Base(path) == late {
						time.Sleep(14 * time.Second) // while the guardian is asked
						defer close(came)
					}
					return os.ReadFile(path)
				}})
				<-came
				time.Sleep(time.Second)
				synctest.Wait()
				(&canaries{t, c.secrets}).check(man, members, packed)
				if !strings.Contains(man.Secrets, late+": it did not come within") || man.Guardian != "answered" {
					t.Errorf("manifest: secrets %q, the guardian %q", man.Secrets, man.Guardian)
				}
				for _, name := range []string{"stacks/guardian.txt", "stacks/kept/20260101T000000Z-worker.txt", "log/agent.log"} {
					if m := member(man, name); !strings.Contains(m.Missing, late) || members[name] != nil {
						t.Errorf("%s: %+v", name, m)
					}
				}
				if !bytes.Contains(members["config.json"], []byte("did not come within")) || members["status.json"] == nil {
					t.Errorf("config.json is %s", members["config.json"])
				}
			})
		})
	}
}

// What can't be understood is no reason to tell its secrets.
func TestDamagedSettingsTellNothing(t *testing.T) {
	for name, spoil := range map[string]func(dir string){
		"an identity cut off": func(dir string) {
			raw, err := os.ReadFile(filepath.Join(dir, "identity.json"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, "identity.json", string(raw[:len(raw)-200]))
		},
		"a new identity cut off": func(dir string) { write(t, dir, "renewal.json", `{"was":"agent-1","key":"AAAA`) },
		"a misspelt setting":     func(string) {},
	} {
		dir := t.TempDir()
		c := &canaries{t, map[string]string{}}
		id := enrolled(t, dir, c)
		password := c.new("a proxy's password")
		write(t, dir, "agent.yaml", "link:\n  proxies: user:"+password+"@127.0.0.1:3128\n")
		spoil(dir)
		said := base64.RawStdEncoding.EncodeToString(id.Key.Seed()) + " kept, bare " + password + "\n"
		write(t, dir, "log/agent.log", said)
		man, members, packed := made(t, bundle.Options{StateDir: dir, Guardian: well(), Reason: "because of " + said})
		c.check(man, members, packed)
		known := name == "a misspelt setting"
		if known != (man.Secrets == "known") || known != bytes.Contains(members["log/agent.log"], []byte("kept, bare [redacted]")) {
			t.Errorf("%s: secrets are %q, the log %q", name, man.Secrets, members["log/agent.log"])
		}
		if known && !bytes.Contains(members["config.json"], []byte("refused in line 2")) {
			t.Errorf("%s: %s", name, members["config.json"])
		}
	}
}

// A new identity on its way is as secret as the one in place.
func TestANewIdentityOnItsWayIsASecret(t *testing.T) {
	dir := t.TempDir()
	c := &canaries{t, map[string]string{}}
	enrolled(t, dir, c)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	token := c.new("its token")
	seed := c.add("its key", base64.RawURLEncoding.EncodeToString(key.Seed()))
	raw, err := json.Marshal(map[string]any{"was": "agent-1", "token": token, "key": key})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "renewal.json", string(raw))
	write(t, dir, "log/agent.log", "one "+seed+" and "+token+" more\n")
	man, members, packed := made(t, bundle.Options{StateDir: dir, Guardian: well()})
	c.check(man, members, packed)
	if want := "one [redacted] and [redacted] more\n"; string(members["log/agent.log"]) != want {
		t.Errorf("the log is %q, want %q", members["log/agent.log"], want)
	}
}

// enrolled writes an identity, and makes its key a canary.
func enrolled(t *testing.T, dir string, c *canaries) state.Identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	command, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id := state.Identity{
		Agent: "agent-1", Server: "server-1", Key: key, CommandKeys: [][]byte{command},
		LinkURLs: []string{"wss://rmm.example/v1/link"}, OOB: []wire.OOBDoor{{URL: "https://rmm.example:8444"}}, EnrolledAt: time.Now(),
	}
	raw, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "identity.json", string(raw))
	for _, b := range [][]byte{key, key.Seed()} {
		c.add("the private key", base64.StdEncoding.EncodeToString(b))
		c.add("the private key", base64.RawURLEncoding.EncodeToString(b))
		c.add("the private key", hex.EncodeToString(b))
	}
	return id
}

// ran lets an executor run a command, so that its journal, scripts and output are real.
func ran(t *testing.T, dir string, c *canaries) {
	t.Helper()
	results := make(chan struct{}, 16)
	e, err := task.Open(task.Options{Dir: filepath.Join(dir, "jobs"), MaxJobs: 4, Emit: func(typ wire.Type, _ string, _ any) {
		if typ == wire.TypeCommandResult {
			select {
			case results <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := e.Close(ctx, time.Second); err != nil {
			t.Error(err)
		}
	})
	output := c.new("a command's output")
	id := wire.NewID()
	out := e.Accept(wire.Command{
		ID: id, Script: "echo " + output + "; # " + c.new("a script"), TimeoutMS: 60_000,
		IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), MaxOutput: 1 << 20,
	}, false, nil)
	if out.Refused != "" {
		t.Fatal(out)
	}
	e.Start(id)
	<-results
}
