package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/internal/version"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// enrollPoll is how often a service that is not enrolled looks for an identity.
const enrollPoll = 5 * time.Second

// Names in the state directory.
const (
	lockFile     = "guardian.lock"
	guardianFile = "guardian.json"
	spoolDir     = "spool"
	stacksDir    = "stacks"
	jobsDir      = "jobs" // the worker's
)

// HintEnroll is what a person does about [state.ErrNotEnrolled].
const HintEnroll = "gururmm-agent enroll --server https://HOST:8443 --token-file FILE --pin sha256/…"

// Run guards this endpoint until ctx ends. Log is the guardian's, workerLog
// takes the lines of the worker's. The error wraps [state.ErrNotEnrolled],
// [local.ErrInUse] or [guardian.ErrRestartService] where a caller acts on it.
//
// An update that has been committed is what guards: then this process becomes that
// program, at once or when its guardian hands over.
func Run(ctx context.Context, s *Setup, log *slog.Logger, workerLog io.Writer) error {
	from := inherit()
	lock, err := local.Lock(s.Dir.Path(lockFile), from.lock)
	if err != nil {
		return err
	}
	defer func() { lock.Release() }()
	ctx, disobey := s.obeyParent(ctx, from)
	defer disobey()
	for {
		p, err := s.launch(ctx, from, lock, log)
		if ended, ok := errors.AsType[*errEnded](err); ok {
			again := ctx.Err() == nil && p.relaunch(ctx, ended, log)
			if ctx.Err() != nil {
				return nil
			}
			if !again {
				return err
			}
			if lock, err = local.Lock(s.Dir.Path(lockFile), ""); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if p.unsure == nil {
			s.doubts = 0
		} else {
			s.doubts++
		}
		err = s.serve(ctx, p, log, workerLog)
		if !errors.Is(err, guardian.ErrHandover) {
			return err
		}
		if handedOver(from) {
			return err
		}
	}
}

// serve guards with p, also when this endpoint gets another identity.
func (s *Setup) serve(ctx context.Context, p program, log *slog.Logger, workerLog io.Writer) (err error) {
	h := s.watchHandover(p, log) // before all that may hang
	defer h.end()
	tell := h.through(s.teller(log))
	defer func() { tell.end(err) }()
	for {
		if err = s.guard(ctx, p, log, workerLog, tell); !errors.Is(err, guardian.ErrRenewed) || ctx.Err() != nil {
			break
		}
		s.again(&p)
	}
	if errors.Is(err, guardian.ErrRenewed) {
		return nil // the next start puts it in place
	}
	return err
}

// guard guards as one identity. The error wraps [guardian.ErrRenewed] if another waits.
func (s *Setup) guard(ctx context.Context, p program, log *slog.Logger, workerLog io.Writer, tell teller) error {
	began := time.Now()
	findings, err := s.settle(ctx, log)
	if err != nil {
		return err
	}
	identity, err := s.Dir.Identity()
	if err != nil {
		if !s.Service {
			return err
		}
		if identity, err = await(ctx, s, log, began, tell); err != nil {
			return nil // stopped while waiting
		}
	}
	s.dropEnrollFile(log)
	if len(p.keys) == 0 { // enrolled only now
		p.keys = s.releaseKeys(&p)
	}
	config, err := s.guardianConfig(identity, p, log)
	if err != nil {
		return err
	}
	config.Findings = append(config.Findings, findings...)
	events, err := history.Open(s.Path)
	if err != nil {
		log.Warn("what happens here is not kept", "error", err)
		config.Findings = append(config.Findings, selfcheck.Finding{Code: selfcheck.FindJournal, Sentence: "What happens here can't be kept for later: " + err.Error() + "."})
	} else {
		config.History = events
	}
	config.WorkerLog = workerLog
	config.Status = s.listen(log)
	config.Notify, config.Events = tell.turn, s.events
	g, err := guardian.New(config)
	if err != nil {
		if config.Status != nil {
			config.Status.Close()
		}
		if config.History != nil {
			config.History.Close()
		}
		return err
	}
	log.Info("guardian starts", "agent", identity.Agent, "server", identity.Server, "version", version.Version,
		"instance", config.Presence.Instance, "state_dir", s.Path, "status_socket", s.Socket)
	return g.Run(ctx)
}

// listen opens the status socket. An agent nobody can ask still does its work:
// a failure is said, and no more.
func (s *Setup) listen(log *slog.Logger) net.Listener {
	l, err := local.Listen(s.Socket, s.Group)
	if err != nil {
		log.Error("nobody can ask for the status", "error", err)
		return nil
	}
	return l
}

// await waits for an identity, and meanwhile says so to whoever asks for the
// status. The error is ctx's.
func await(ctx context.Context, s *Setup, log *slog.Logger, began time.Time, tell teller) (state.Identity, error) {
	waiting, done := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer done()
	_, err := s.Dir.Identity()
	log.Warn("waiting for an identity", "reason", err, "do", HintEnroll)
	order := enrolling{file: s.EnrollFile, attempt: s.byFile(log), wg: &wg}
	look := func() local.Status {
		if !errors.Is(err, state.ErrNotEnrolled) { // an identity that is there and can't be read is a person's to mend
			return notEnrolled(err, "", nil, began)
		}
		how, failed := order.turn(waiting, time.Now())
		return notEnrolled(err, how, failed, began)
	}
	var mu sync.Mutex // of st
	st := look()      // before anybody can ask: whether there is an order is known then
	if l := s.listen(log); l != nil {
		local.Serve(waiting, &wg, l, local.Handler(local.Answers{Status: func(context.Context) (local.Status, error) {
			mu.Lock()
			defer mu.Unlock()
			st := st
			st.At = time.Now()
			return st, nil
		}}))
	}
	tick := time.NewTicker(enrollPoll)
	defer tick.Stop()
	said := err.Error()
	for {
		now := look()
		if now.Detail != said {
			said = now.Detail
			log.Warn("still waiting for an identity", "reason", said)
		}
		mu.Lock()
		st = now
		mu.Unlock()
		tell.turn(guardian.Turn{At: now.At, Mode: now.Mode, Verdict: now.Verdict})
		select {
		case <-s.events: // of a machine that nobody guards yet
			continue
		case <-ctx.Done():
			tell.turn(guardian.Turn{At: time.Now(), Mode: local.ModeStopping})
			return state.Identity{}, ctx.Err()
		case came := <-order.done:
			order.came(came, time.Now())
		case <-tick.C:
		}
		var identity state.Identity
		if identity, err = s.Dir.Identity(); err == nil {
			return identity, nil
		}
	}
}

// notEnrolled is the status of an endpoint without a usable identity; failed is what came of
// the order to enroll that it has, if any.
func notEnrolled(why error, how local.Enrollment, failed error, began time.Time) local.Status {
	detail, do, next := why.Error(), HintEnroll, "look for an identity again"
	if how == local.EnrollTrying {
		next = "enroll as was ordered"
	}
	if failed != nil {
		detail += "; " + failed.Error()
		do = "The order to enroll is tried again, also when it changes; or, by hand: " + HintEnroll
	}
	return local.Status{
		At: time.Now(), Mode: local.ModeNotEnrolled, Detail: detail, Version: version.Version, Enrollment: how,
		Verdict:  selfcheck.Verdict{Title: "Not enrolled", Sentence: "Not enrolled: " + detail + ".", Action: do},
		Next:     local.NextStep{What: next},
		Guardian: local.ProcessStatus{PID: os.Getpid(), Since: began},
	}
}

// guardianConfig puts together what a guardian needs; what is not well but can
// be lived with becomes a finding.
func (s *Setup) guardianConfig(id state.Identity, p program, log *slog.Logger) (guardian.Config, error) {
	presence, err := state.MachinePresence(version.Version)
	if err != nil {
		log.Warn("this machine is not fully known", "error", err)
	}
	s.readQuarantine()
	before, err := s.Dir.Instances(presence.Instance)
	if err != nil {
		log.Warn("earlier instances of this state directory are not known", "error", err)
	}
	as := wire.CopyOf(presence)
	as.Before = before
	id = id.As(as)
	c := guardian.Config{
		Agent: id.Agent, Server: id.Server, Presence: presence,
		SavePolicy: s.Dir.SavePolicy, StateFile: s.Dir.Path(guardianFile), StacksDir: s.Dir.Path(stacksDir), StateDir: s.Path,
		Service: s.Service, Log: log, Errands: s.errands(id),
		SetQuarantine: s.setQuarantine, Quarantine: s.isolation,
	}
	for _, k := range id.CommandKeys {
		c.Keys = append(c.Keys, ed25519.PublicKey(k))
	}
	c.Policy, _, err = s.Dir.Policy()
	if err != nil {
		log.Warn("policy", "error", err)
		code := selfcheck.FindJournal
		if _, ok := errors.AsType[*state.QuarantinedError](err); ok {
			code = selfcheck.FindQuarantined
		}
		c.Findings = append(c.Findings, selfcheck.Finding{Code: code, Sentence: "Policy: " + err.Error() + "."})
	}
	if err := s.addDoor(&c, id, log); err != nil {
		return c, err
	}
	args := []string{"worker", "--state-dir", s.Path, "--log-level", s.Level}
	spawn := func(path string) spawner {
		return guardian.ProcessSpawner(path, args, []string{EnvInstance + "=" + presence.Instance}, "worker-"+presence.Instance)
	}
	c.Spawn = spawn(p.path)
	c.Findings = append(c.Findings, p.findings...)
	if client, ok := c.Door.(*oob.Client); ok { // else there is no way for an update to come, or for a bundle to go
		c.Updates = s.updates(p, client, spawn)
		b := s.newBundles(client, log)
		c.Bundles, c.Errands[wire.DirectiveSendBundle] = b, b.errand
	} else if p.unsure != nil {
		c.Findings = append(c.Findings, selfcheck.Finding{Code: selfcheck.FindJournal,
			Sentence: "What runs was not chosen: " + p.unsure.Error() + "; mend that, then restart the service."})
	}
	return c, nil
}

// addDoor opens the second door and its spool.
func (s *Setup) addDoor(c *guardian.Config, id state.Identity, log *slog.Logger) error {
	doors := s.Config.Doors(id.Doors(c.Policy))
	if len(doors) == 0 {
		log.Warn("no second door is configured: nothing can be rescued out of band")
		return nil
	}
	way, err := doorOptions(s.Config, id)
	if err != nil {
		return err
	}
	way.Doors, way.Log = doors, log
	client, err := oob.NewClient(way)
	if err != nil {
		return fmt.Errorf("second door: %w", err)
	}
	spool, err := oob.OpenSpool(s.Dir.Path(spoolDir), 0, 0)
	if err != nil {
		log.Warn("spool", "error", err)
		c.Findings = append(c.Findings, selfcheck.Finding{Code: selfcheck.FindJournal, Sentence: "Spool of reports: " + err.Error() + "."})
	}
	c.Door, c.Spool = client, spool
	save := c.SavePolicy
	c.SavePolicy = func(env wire.Envelope) error {
		if p, err := state.OpenPolicy(id, env); err == nil { // else save says why
			if err := client.SetDoors(s.Config.Doors(id.Doors(p))); err != nil {
				log.Warn("second doors of the policy are not used", "error", err)
			}
		}
		return save(env)
	}
	return nil
}
