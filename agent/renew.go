package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	neturl "net/url"
	"strings"
	"time"

	"gururmm/agent/guardian"
	"gururmm/agent/state"
	"gururmm/internal/backoff"
	"gururmm/internal/lockfile"
	"gururmm/internal/version"
	"gururmm/selfcheck"
	"gururmm/wire"
)

const (
	// renewMin and renewMax bound the wait before the doors are tried again.
	renewMin, renewMax = 2 * time.Second, time.Minute
	// workerGone bounds the wait for a worker whose guardian was killed: it drains first.
	workerGone = 20 * time.Second
	// lockEvery is how often such a worker is looked for.
	lockEvery = 50 * time.Millisecond
)

// ofIdentity is what in the state directory belongs to an identity, not to the
// machine: what has not reached the server, and what its orders came to.
var ofIdentity = []string{jobsDir, spoolDir, guardianFile}

// renew is the errand of a machine that is to take a new identity: it gets one,
// and keeps it until the guardian has ended for it.
func (s *Setup) renew(id state.Identity) guardian.Errand {
	return func(ctx context.Context, d wire.Directive) (string, json.RawMessage, error) {
		doors, err := s.renewDoors(id)
		if err != nil {
			return "", nil, err
		}
		presence, _ := state.MachinePresence(version.Version) // what is not known is left empty
		for n := 0; ; n++ {
			next, err := s.Dir.Renew(ctx, d.Reenroll.Token, presence, doors)
			if err == nil {
				return "it is agent " + next.Agent + " from its restart on, at once", nil, nil
			}
			if p, ok := errors.AsType[wire.Problem](err); ok && p.Code == wire.ProblemToken {
				return "", nil, err // the next call brings a fresh one
			}
			select {
			case <-time.After(backoff.Full(nil, renewMin, renewMax, n)):
			case <-ctx.Done():
				return "", nil, err
			}
		}
	}
}

// renewDoors are where to enroll anew: the order came by the second door, so that
// is tried first; then where the link goes.
func (s *Setup) renewDoors(id state.Identity) ([]state.RenewDoor, error) {
	proxy, err := s.Config.OOBProxy()
	if err != nil {
		return nil, err
	}
	none := func(*http.Request) (*neturl.URL, error) { return nil, nil }
	if proxy == nil {
		proxy = none
	}
	var all []state.RenewDoor
	for _, d := range s.Config.Doors(id.Doors(s.Dir.StoredPolicy())) {
		door := state.RenewDoor{URL: d.URL, Pin: d.Pin, Proxy: proxy}
		if d.Pin == "" {
			door.CAPEM = []byte(id.LinkCA)
		}
		all = append(all, door)
	}
	if proxy, err = s.Config.LinkProxy(); err != nil {
		return nil, err
	}
	for _, link := range id.LinkURLs {
		u, err := neturl.Parse(link)
		if err != nil {
			continue // checked when the identity was read
		}
		all = append(all, state.RenewDoor{
			URL:   strings.Replace(u.Scheme, "ws", "http", 1) + "://" + u.Host,
			CAPEM: []byte(id.LinkCA), Pin: id.LinkPin, Proxy: proxy,
		})
	}
	return all, nil
}

// settle puts a new identity in place that waits, before anything uses the old one.
// What a person should know of it is a finding.
func (s *Setup) settle(ctx context.Context, log *slog.Logger) ([]selfcheck.Finding, error) {
	if err := s.awaitWorker(ctx); err != nil {
		return nil, err
	}
	was, aside, err := s.Dir.PutRenewal(ofIdentity...)
	if _, ok := errors.AsType[*state.QuarantinedError](err); ok { // the old identity is whole
		return []selfcheck.Finding{{Code: selfcheck.FindQuarantined, Sentence: "New identity: " + err.Error() + "."}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("put the new identity in place: %w", err)
	}
	if was == "" {
		return nil, nil
	}
	log.Warn("this machine has a new identity", "was", was, "set_aside", aside)
	return []selfcheck.Finding{{Code: selfcheck.FindRenewed, Sentence: fmt.Sprintf(
		"This machine was a copy of agent %s and took an identity of its own; results and reports of the old one that the server had not stored are kept in %s.", was, aside)}}, nil
}

// awaitWorker waits until no worker holds the journal: one whose guardian was
// killed may still write to what is to be set aside.
func (s *Setup) awaitWorker(ctx context.Context) error {
	if !s.Dir.Renewing() {
		return nil
	}
	for over := time.Now().Add(workerGone); ; {
		lock, err := lockfile.Take(s.Dir.Path(jobsDir + "/lock"))
		switch {
		case err == nil:
			return lock.Release()
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, lockfile.ErrInUse) || time.Now().After(over):
			return fmt.Errorf("the last worker's journal: %w", err)
		}
		select {
		case <-time.After(lockEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
