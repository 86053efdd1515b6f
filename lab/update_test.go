//go:build linux

package lab_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/lab/harness"
	"gururmm/oob"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// goodVersion and curedVersion are whole agents, the second one without the seams for
// faults; the others are programs that only look like one.
const (
	goodVersion  = "v1.1.0"
	curedVersion = "v1.2.0"
)

// bad is the source of programs that fail as worker: which way, its own
// path tells, since a version is part of it.
const bad = `package main

import ("fmt"; "os"; "strings"; "time")

func main() {
	at := func(v string) bool { return strings.Contains(os.Args[0], v) }
	version := ""
	for _, part := range strings.Split(os.Args[0], "/") {
		if strings.HasPrefix(part, "v2.") { version, _, _ = strings.Cut(part, "-") }
	}
	if at("v2.0.1") { panic("dead on arrival") }
	if at("v2.0.2") { for { time.Sleep(time.Hour) } }
	var held [][]byte
	for i := 0; ; i++ {
		if i == 0 {
			fmt.Printf("{\"snapshot\":{\"worker\":{\"pid\":%d,\"version\":%q},\"link\":{\"phase\":\"dialing\"}}}\n", os.Getpid(), version)
		} else {
			fmt.Println("{\"same\":true}")
		}
		pause := time.Second
		if at("v2.0.4") && len(held) < 100 { // little by little: it must not be silent meanwhile
			b := make([]byte, 4<<20)
			for j := 0; j < len(b); j += 4096 { b[j] = 1 }
			held, pause = append(held, b), 10*time.Millisecond
		}
		time.Sleep(pause)
	}
}
`

// programs are built and signed once.
type programs struct {
	key   release.Key
	dir   string
	files map[string]string // by version
	build map[string]wire.Build
}

var updates = sync.OnceValues(func() (*programs, error) {
	if _, err := binaries(); err != nil {
		return nil, err
	}
	key, private, err := release.NewKey()
	if err != nil {
		return nil, err
	}
	p := &programs{key: key, dir: filepath.Join(binaryDir, "updates"), files: map[string]string{}, build: map[string]wire.Build{}}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	good := filepath.Join(p.dir, "good")
	if err := goBuild(good, "-race", "-tags=faults", "-ldflags=-X gururmm/internal/version.Version="+goodVersion, "gururmm/cmd/gururmm-agent"); err != nil {
		return nil, err
	}
	cured := filepath.Join(p.dir, "cured")
	if err := goBuild(cured, "-race", "-ldflags=-X gururmm/internal/version.Version="+curedVersion, "gururmm/cmd/gururmm-agent"); err != nil {
		return nil, err
	}
	source, failing := filepath.Join(p.dir, "bad.go"), filepath.Join(p.dir, "bad")
	if err := os.WriteFile(source, []byte(bad), 0o600); err != nil {
		return nil, err
	}
	if err := goBuild(failing, source); err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(failing)
	if err != nil {
		return nil, err
	}
	p.files[goodVersion], p.files[curedVersion] = good, cured
	for _, v := range []string{"v2.0.1", "v2.0.2", "v2.0.3", "v2.0.4"} {
		p.files[v] = filepath.Join(p.dir, v)
		// Each program is another: what stands behind the last section is not loaded.
		if err := os.WriteFile(p.files[v], append(bytes.Clone(raw), v...), 0o600); err != nil {
			return nil, err
		}
	}
	p.files["v2.0.5"] = filepath.Join(p.dir, "v2.0.5")
	if err := os.WriteFile(p.files["v2.0.5"], unrunnable(), 0o600); err != nil {
		return nil, err
	}
	for v, file := range p.files {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		p.build[v], err = release.Sign(private, f, v, runtime.GOOS, runtime.GOARCH)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return p, nil
})

func goBuild(out string, args ...string) error {
	text, err := exec.CommandContext(context.Background(), "go", append([]string{"build", "-o", out}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build %v: %w\n%s", args, err, text)
	}
	return nil
}

// unrunnable is a program of this platform whose interpreter does not exist: all its
// headers are right, and the kernel refuses it.
func unrunnable() []byte {
	interpreter := "/no/such/interpreter\x00"
	h := make([]byte, 64+56)
	copy(h, "\x7fELF\x02\x01\x01")
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	le := binary.LittleEndian
	le.PutUint16(h[16:], 2) // ET_EXEC
	le.PutUint16(h[18:], machine)
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[32:], 64) // the program header behind this one
	le.PutUint16(h[52:], 64)
	le.PutUint16(h[54:], 56)
	le.PutUint16(h[56:], 1)
	le.PutUint16(h[58:], 64)
	p := h[64:]
	le.PutUint32(p, 3) // PT_INTERP
	le.PutUint32(p[4:], 4)
	le.PutUint64(p[8:], uint64(len(h)))
	le.PutUint64(p[32:], uint64(len(interpreter)))
	le.PutUint64(p[40:], uint64(len(interpreter)))
	return append(h, interpreter...)
}

// updating is a scene whose server hands out programs.
type updating struct {
	*scene
	*programs
}

func newUpdating(t *testing.T, versions ...string) *updating {
	t.Helper()
	return newUpdatingAs(t, nil, versions...)
}

// newUpdatingAs is newUpdating with a stack of its own options.
func newUpdatingAs(t *testing.T, adapt func(*harness.Options), versions ...string) *updating {
	t.Helper()
	var p *programs
	s := newScene(t, adapt, func(o *harness.Options) {
		var err error
		if p, err = updates(); err != nil {
			t.Fatal(err)
		}
		o.ServerEnv = append(o.ServerEnv, "GURURMM_RELEASE_KEY="+p.key.String())
	})
	u := &updating{s, p}
	for _, v := range versions {
		f, err := os.Open(p.files[v])
		if err != nil {
			t.Fatal(err)
		}
		err = s.Client().Publish(t.Context(), p.build[v], f)
		f.Close()
		if err != nil {
			t.Fatalf("publish %s: %v", v, err)
		}
	}
	return u
}

// roll orders version for the agent.
func (u *updating) roll(version string) operator.Rollout {
	u.t.Helper()
	r, err := u.Client().Roll(u.t.Context(), operator.NewRollout{Version: version, Agents: []string{u.agent.ID},
		RolloutPlan: operator.RolloutPlan{Rings: []float64{100}, SoakMS: -1, GraceMS: 1000}})
	if err != nil {
		u.t.Fatalf("roll %s: %v", version, err)
	}
	return r
}

// told waits until the server knows what became of a rollout's only endpoint, and
// gives the reason of a failure.
func (u *updating) told(r operator.Rollout) (done bool, why string) {
	u.t.Helper()
	u.eventually("the outcome of rolling "+r.Version, func() (bool, error) {
		now, err := u.Client().Rollout(u.t.Context(), r.ID)
		if err != nil {
			return false, err
		}
		for _, f := range now.Failures {
			why = f.Detail
		}
		for _, ring := range now.Rings {
			if ring.Done+ring.Failed > 0 {
				done = ring.Done > 0
				return true, nil
			}
		}
		return false, fmt.Errorf("it is at: %s", now.Now)
	})
	return done, why
}

// runs waits until the agent runs version from source, verified.
func (u *updating) runs(version, source string) local.Status {
	u.t.Helper()
	var st local.Status
	u.eventually(source+" "+version+" to run, verified", func() (ok bool, err error) {
		if st, err = u.agent.Status(u.t.Context()); err != nil {
			return false, err
		}
		return st.Version == version && st.Update.Source == source && st.Snapshot.Worker.Version == version &&
				st.Update.Step == local.UpdateNone && st.Snapshot.Link.Phase == selfcheck.PhaseVerified,
			fmt.Errorf("version %s %s, worker %s, %s, link %s", st.Version, st.Update.Source, st.Snapshot.Worker.Version, st.Update.Step, st.Snapshot.Link.Phase)
	})
	return st
}

func TestUpdateTakesOverAndGoesBack(t *testing.T) {
	u := newUpdating(t, goodVersion)
	pid := u.status().Guardian.PID
	running := u.sleeper()
	verify := time.Duration(testPolicy().VerifyMS) * time.Millisecond
	u.eventually("a link older than any dial may take", func() (bool, error) {
		age := u.status().Snapshot.Link.VerifiedAge
		return age != nil && *age > verify, nil
	})
	r := u.roll(goodVersion)
	u.eventually("the drain", func() (bool, error) {
		st := u.status()
		return st.Update.Step == local.UpdateDrain, fmt.Errorf("step %q", st.Update.Step)
	})
	waiting := u.submit("") // what comes now waits at the server
	u.open(running)
	if done, why := u.told(r); !done {
		t.Fatalf("it failed: %s", why)
	}
	st := u.runs(goodVersion, local.SourceUpdated)
	u.kept(goodVersion, "has taken over", "ordered", "fetched", "draining", "trial", "committed", "handover", "confirmed")
	u.noFault(verify)
	if st.Guardian.PID != pid {
		t.Errorf("the guardian is process %d, was %d", st.Guardian.PID, pid)
	}
	u.completed(running.order)
	u.completed(waiting)
	text, _, _, err := u.agent.StatusCommand(t.Context())
	if err != nil || !strings.Contains(text, "program   updated") {
		t.Errorf("status says:\n%s (%v)", text, err)
	}
	if other, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || !strings.Contains(other, "versions/"+goodVersion) {
		t.Errorf("the guardian's program is %s, %v", other, err)
	}

	// A start of the installed program becomes the committed one.
	if err := u.agent.Guardian().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := u.agent.Start(); err != nil {
		t.Fatal(err)
	}
	st = u.runs(goodVersion, local.SourceUpdated)
	if st.Guardian.PID != u.agent.Guardian().PID() {
		t.Errorf("process %d was started, %d guards", u.agent.Guardian().PID(), st.Guardian.PID)
	}

	// A program that was changed since is not started, and that is told.
	if err := u.agent.Guardian().Stop(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(st.Update.Path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("x")
	if cerr := f.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	if err := u.agent.Start(); err != nil {
		t.Fatal(err)
	}
	st = u.runs("dev", local.SourceInstalled)
	u.rolledBack(st, "was not started")

	// It may be ordered anew, and taken back by hand.
	if done, why := u.told(u.roll(goodVersion)); !done {
		t.Fatalf("the second time it failed: %s", why)
	}
	u.runs(goodVersion, local.SourceUpdated)
	d, err := u.Client().Direct(t.Context(), u.agent.ID, operator.NewDirective{Kind: wire.DirectiveRollback, Reason: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	u.runs("dev", local.SourceInstalled)
	u.eventually("the receipt of the rollback", func() (bool, error) {
		d, err = u.Client().Directive(t.Context(), d.ID)
		return err == nil && d.State == string(wire.DirectiveDone), fmt.Errorf("it is %s: %s (%v)", d.State, d.Detail, err)
	})
	u.completed(u.submit(""))
	u.allOnce()
}

// rolledBack checks that a rollback stands in status, with its reason.
func (u *updating) rolledBack(st local.Status, reason string) {
	u.t.Helper()
	for _, f := range st.Findings {
		if f.Code == selfcheck.FindUpdateRolledBack && strings.Contains(f.Sentence, reason) {
			return
		}
	}
	u.t.Errorf("findings %+v, want a rollback: %s", st.Findings, reason)
}

// rollbackBeaconed waits until the server was told of a rollback, and why.
func (u *updating) rollbackBeaconed(since time.Time, version, reason string) {
	u.t.Helper()
	u.eventually("a beacon that tells of the rollback of "+version, func() (bool, error) {
		var seen []string
		for _, b := range u.beacons() {
			var r oob.Report
			if err := json.Unmarshal(b.Report, &r); err != nil {
				return false, harness.Final(err)
			}
			for _, f := range r.Findings {
				if f.Code != selfcheck.FindUpdateRolledBack || b.ReceivedAt.Before(since) {
					continue
				}
				if seen = append(seen, f.Sentence); strings.Contains(f.Sentence, version) && strings.Contains(f.Sentence, reason) {
					return true, nil
				}
			}
		}
		return false, fmt.Errorf("told were %q", seen)
	})
}

// deadUpdate rolls a program that fails, and measures how long the endpoint was without its worker.
func (u *updating) deadUpdate(version, reason string) {
	u.t.Helper()
	since := time.Now()
	done, why := u.told(u.roll(version))
	if done || !strings.Contains(why, reason) {
		u.t.Errorf("%s: done %v, told %q, want %q", version, done, why, reason)
	}
	u.runs("dev", local.SourceInstalled)
	var st local.Status
	u.eventually("the figure", func() (bool, error) { st = u.status(); return st.Update.BackAfter != nil, nil })
	u.t.Logf("%s (%s): the old worker was verified again %v after the trial's start", version, reason, st.Update.BackAfter.Round(time.Millisecond))
	if *st.Update.BackAfter > time.Minute {
		u.t.Errorf("%s: the old worker was back after %v", version, *st.Update.BackAfter)
	}
	u.rolledBack(st, reason)
	u.rollbackBeaconed(since, version, reason)
	u.kept(version, reason, "ordered", "fetched", "draining", "trial", "rolled_back")
}

// kept waits until the endpoint's history tells of an update to version, by these
// codes in order, and the last of them why; then it asks as a person there would.
func (u *updating) kept(version, reason string, codes ...string) {
	u.t.Helper()
	u.eventually("the history of "+version, func() (bool, error) {
		list, err := history.Read(u.agent.Dir, history.Filter{Kinds: []history.Kind{history.KindUpdate}})
		if err != nil {
			return false, err
		}
		var got []string
		last := ""
		for _, e := range list.Events {
			if e.Code == "ordered" {
				got = nil // of this update, not of one before
			}
			got, last = append(got, e.Code), e.Sentence
		}
		return slices.Equal(got, codes) && strings.Contains(last, version) && strings.Contains(last, reason), fmt.Errorf("%q, at last: %s", got, last)
	})
	out, said, code, err := u.agent.Command(u.t.Context(), "events", "--kind", "update", "-n", "1")
	if err != nil || code != 0 || !strings.Contains(out, "update "+codes[len(codes)-1]) {
		u.t.Errorf("events prints (exit code %d, %v):\n%s%s", code, err, out, said)
	}
}

// noFault checks that the exchange of the worker was told as that: no verdict and no
// step for a link that can't be established, unless a worker has had the time for one.
func (u *updating) noFault(verify time.Duration) {
	u.t.Helper()
	list, err := history.Read(u.agent.Dir, history.Filter{})
	if err != nil {
		u.t.Fatal(err)
	}
	var ordered, started time.Time
	for _, e := range list.Events {
		switch {
		case e.Kind == history.KindUpdate && e.Code == "ordered":
			ordered = e.At
		case e.Kind == history.KindWorker && e.Code == "started":
			started = e.At
		case e.Code != string(selfcheck.CodeLinkHandshake) && e.Verdict != selfcheck.CodeLinkHandshake:
		case !ordered.IsZero() && (started.Before(ordered) || e.At.Sub(started) < verify):
			u.t.Errorf("%s %s, %v after the order: %s", e.Kind, e.Code, e.At.Sub(ordered), e.Sentence)
		}
	}
	if ordered.IsZero() {
		u.t.Error("the history tells of no update")
	}
}

func TestUpdateDeadOnArrival(t *testing.T) {
	u := newUpdating(t, "v2.0.1", "v2.0.4", "v2.0.5")
	u.deadUpdate("v2.0.5", "can't be executed")
	u.deadUpdate("v2.0.1", "dead on arrival")
	u.deadUpdate("v2.0.4", "MiB of memory")
	u.completed(u.submit(""))
	u.allOnce()
}

func TestUpdateThatHangs(t *testing.T) {
	u := newUpdating(t, "v2.0.2")
	u.deadUpdate("v2.0.2", "not reported")
	u.completed(u.submit(""))
}

func TestUpdateThatNeverVerifies(t *testing.T) {
	u := newUpdating(t, "v2.0.3")
	u.deadUpdate("v2.0.3", "not verified")
	u.completed(u.submit(""))
}

// supervised starts the agent again each time it ends, as a service manager would and with
// the delay that ours are given.
func (u *updating) supervised() {
	over, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-u.agent.Guardian().Done():
			case <-over:
				return
			}
			select {
			case <-time.After(2 * time.Second):
			case <-over:
				return
			}
			if err := u.agent.Start(); err != nil {
				u.t.Error(err)
				return
			}
		}
	}()
	u.t.Cleanup(func() { close(over); <-gone })
}

// badGuardian rolls a program whose worker is well and whose guardian is not, and measures
// how long the endpoint had no guardian that does its work.
func badGuardian(t *testing.T, label, reason string) {
	u := newUpdatingAs(t, func(o *harness.Options) { o.AgentArgs = []string{"--service"} }, goodVersion)
	u.supervised()
	u.fault(label, true) // of a guardian that has yet to confirm alone
	since := time.Now()
	r := u.roll(goodVersion)
	var handed time.Time
	u.eventually("the hand-over", func() (bool, error) {
		list, err := history.Read(u.agent.Dir, history.Filter{Kinds: []history.Kind{history.KindUpdate}})
		if err != nil {
			return false, err
		}
		for _, e := range list.Events {
			if e.Code == "handover" {
				handed = e.At
			}
		}
		return !handed.IsZero(), fmt.Errorf("the history has %d events of updates", len(list.Events))
	})
	if done, why := u.told(r); done || !strings.Contains(why, reason) {
		t.Errorf("done %v, told %q, want %q", done, why, reason)
	}
	st := u.runs("dev", local.SourceInstalled)
	took := time.Since(handed)
	t.Logf("%s: the old guardian had a verified worker again %v after it handed over", label, took.Round(time.Millisecond))
	if took > time.Minute {
		t.Errorf("%s: the old guardian was back after %v", label, took)
	}
	u.rolledBack(st, reason)
	u.rollbackBeaconed(since, goodVersion, reason)
	u.completed(u.submit(""))
	u.allOnce()
}

func TestUpdateWhoseGuardianPanics(t *testing.T) {
	badGuardian(t, "update.panic", "was started 3 times and did not confirm")
}

func TestUpdateWhoseGuardianHangs(t *testing.T) {
	badGuardian(t, "update.hang", "as guardian it hangs")
}

// TestUpdateCuresAWorkerThatCantLive: while each worker dies as it starts, what support
// needs arrives, by itself and by order, a bad version changes nothing, and a version
// that can live takes over; then what waited runs.
func TestUpdateCuresAWorkerThatCantLive(t *testing.T) {
	u := newUpdating(t, curedVersion, "v2.0.1")
	since := time.Now()
	u.fault("worker.crash", true) // of curedVersion it asks nothing
	if _, err := u.agent.SignalWorker(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.step(since, func(r selfcheck.StepRecord) bool {
		return r.Kind == selfcheck.StepHold && r.Verdict == selfcheck.CodeAgentCrashloop
	})
	waiting := u.submit("")

	d, err := u.Client().Direct(t.Context(), u.agent.ID, operator.NewDirective{Kind: wire.DirectiveSendBundle, Reason: "no worker can live"})
	if err != nil {
		t.Fatal(err)
	}
	u.eventually("the bundle that was ordered", func() (bool, error) {
		now, err := u.Client().Directive(t.Context(), d.ID)
		return err == nil && now.State == string(wire.DirectiveDone), fmt.Errorf("it is %s: %s (%v)", now.State, now.Detail, err)
	})
	u.eventually("two bundles that tell how the worker dies", func() (bool, error) {
		list, err := u.Client().Bundles(t.Context(), u.agent.ID)
		if err != nil {
			return false, err
		}
		telling, byItself := 0, false
		for _, b := range list {
			if !b.Complete {
				continue
			}
			members, err := u.unpacked(b)
			if err != nil {
				return false, err
			}
			for name, data := range members {
				if strings.HasPrefix(name, "stacks/kept/") && bytes.Contains(data, []byte("worker.crash is switched on")) {
					telling++
					byItself = byItself || strings.Contains(b.Reason, "verdict "+string(selfcheck.CodeAgentCrashloop))
					break
				}
			}
		}
		return telling >= 2 && byItself, fmt.Errorf("%d of %+v tell it, by itself: %v", telling, list, byItself)
	})

	if done, why := u.told(u.roll("v2.0.1")); done || !strings.Contains(why, "dead on arrival") {
		t.Errorf("a version that is as bad: done %v, %s", done, why)
	}
	if done, why := u.told(u.roll(curedVersion)); !done {
		t.Fatalf("the cure failed: %s", why)
	}
	u.runs(curedVersion, local.SourceUpdated)
	if _, err := os.Stat(filepath.Join(u.Faults(), "worker.crash")); err != nil {
		t.Errorf("it was not the update that cured it: %v", err)
	}
	u.completed(waiting)
	u.completed(u.submit(""))
	u.allOnce()
}

// killedAt rolls version while the agent dies at each of labels in turn, and is
// started again each time, as a service manager would.
func (u *updating) killedAt(version string, labels ...string) (done bool, why string) {
	u.t.Helper()
	for _, l := range labels {
		u.fault(l, true)
	}
	r := u.roll(version)
	for range labels {
		u.died(labels...)
		u.start()
	}
	done, why = u.told(r)
	for _, l := range labels {
		u.diedAt(l)
	}
	return done, why
}

// died waits until the agent has, at one of labels.
func (u *updating) died(labels ...string) {
	u.t.Helper()
	select {
	case <-u.agent.Guardian().Done():
	case <-time.After(patience):
		u.t.Fatalf("the agent did not die at one of %v", labels)
	}
}

// diedAt checks that it was at label.
func (u *updating) diedAt(label string) {
	u.t.Helper()
	if _, err := os.Stat(filepath.Join(u.Faults(), label+".died")); err != nil {
		u.t.Errorf("it did not die at %s", label)
	}
}

func (u *updating) start() {
	u.t.Helper()
	if err := u.agent.Start(); err != nil {
		u.t.Fatal(err)
	}
}

func TestUpdateKilledWhereItGoesOn(t *testing.T) {
	u := newUpdating(t, goodVersion)
	done, why := u.killedAt(goodVersion, "update.ordered", "update.part", "update.verified",
		"update.committed", "update.launch", "update.guarding")
	if !done {
		t.Fatalf("it failed: %s", why)
	}
	u.runs(goodVersion, local.SourceUpdated)
	u.completed(u.submit(""))
	u.allOnce()
}

func TestUpdateKilledInItsTrial(t *testing.T) {
	u := newUpdating(t, goodVersion)
	for _, label := range []string{"update.fetched", "update.trial", "update.trying", "update.passed"} {
		done, why := u.killedAt(goodVersion, label)
		if label == "update.fetched" {
			if !done { // nothing had been run: the next start went on
				t.Fatalf("%s: %s", label, why)
			}
			u.runs(goodVersion, local.SourceUpdated)
			if _, err := u.Client().Direct(t.Context(), u.agent.ID, operator.NewDirective{Kind: wire.DirectiveRollback}); err != nil {
				t.Fatal(err)
			}
			u.runs("dev", local.SourceInstalled)
			continue
		}
		if done || !strings.Contains(why, "ended during its trial") {
			t.Errorf("%s: done %v, %s", label, done, why)
		}
		u.rolledBack(u.runs("dev", local.SourceInstalled), "ended during its trial")
	}
	if done, why := u.killedAt(goodVersion, "update.confirming", "update.confirmed"); !done {
		t.Errorf("killed as it confirms: %s", why)
	}
	u.runs(goodVersion, local.SourceUpdated)
	u.completed(u.submit(""))
}

func TestUpdateKilledAsItIsRolledBack(t *testing.T) {
	u := newUpdating(t, "v2.0.1")
	for _, label := range []string{"update.rolling_back", "update.rolled_back"} {
		if done, why := u.killedAt("v2.0.1", label); done || why == "" {
			t.Errorf("%s: done %v, %s", label, done, why)
		}
		u.runs("dev", local.SourceInstalled)
	}
	u.completed(u.submit(""))
}

// A download that was cut off is taken up, and the death of the agent as it does so costs
// nothing but one of the tries.
func TestUpdateKilledAsItIsTakenUp(t *testing.T) {
	u := newUpdating(t, goodVersion)
	if done, why := u.killedAt(goodVersion, "update.ordered", "update.resumed"); !done {
		t.Fatalf("it failed: %s", why)
	}
	u.runs(goodVersion, local.SourceUpdated)
	u.completed(u.submit(""))
	u.allOnce()
}

// A version that was confirmed is started again, and dies as it notes that this start has
// lasted; then it is rolled back by order, and dies as that is noted. Both times the next
// start goes on from there.
func TestUpdateKilledOnceItHasLastedAndAsItGoesBack(t *testing.T) {
	u := newUpdatingAs(t, func(o *harness.Options) { o.AgentEnv = append(o.AgentEnv, "GURURMM_LASTING=3s") }, goodVersion)
	if done, why := u.told(u.roll(goodVersion)); !done {
		t.Fatalf("it failed: %s", why)
	}
	u.runs(goodVersion, local.SourceUpdated)
	u.agent.Guardian().Kill() // no orderly end: its start is counted
	u.fault("update.lasted", true)
	u.start()
	u.died("update.lasted")
	u.diedAt("update.lasted")
	u.start()
	u.runs(goodVersion, local.SourceUpdated)

	u.fault("update.going_back", true)
	d, err := u.Client().Direct(t.Context(), u.agent.ID, operator.NewDirective{Kind: wire.DirectiveRollback, Reason: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	u.died("update.going_back")
	u.diedAt("update.going_back")
	u.start()
	u.runs("dev", local.SourceInstalled)
	u.eventually("the receipt of the rollback", func() (bool, error) {
		d, err = u.Client().Directive(t.Context(), d.ID)
		return err == nil && d.State == string(wire.DirectiveDone), fmt.Errorf("it is %s: %s (%v)", d.State, d.Detail, err)
	})
	u.completed(u.submit(""))
	u.allOnce()
}

// A guardian that runs and whose worker can't verify gives back by itself, and dies as that is
// noted: the next start is of the program before, which tells why.
func TestUpdateKilledAsItsGuardianGivesBack(t *testing.T) {
	u := newUpdatingAs(t, func(o *harness.Options) { o.AgentEnv = append(o.AgentEnv, "GURURMM_CONFIRM_LIMIT=5s") }, goodVersion)
	since := time.Now()
	u.fault("update.guarding", true) // between the trial and the first guardian
	r := u.roll(goodVersion)
	u.died("update.guarding")
	u.diedAt("update.guarding")
	u.fault("worker.crash", true)
	u.fault("update.gave_back", true)
	u.start()
	u.died("update.gave_back")
	u.diedAt("update.gave_back")
	u.fault("worker.crash", false)
	u.start()
	const reason = "as guardian it had no verified link"
	if done, why := u.told(r); done || !strings.Contains(why, reason) {
		t.Errorf("done %v, told %q", done, why)
	}
	u.rolledBack(u.runs("dev", local.SourceInstalled), reason)
	u.rollbackBeaconed(since, goodVersion, reason)
	u.completed(u.submit(""))
	u.allOnce()
}
