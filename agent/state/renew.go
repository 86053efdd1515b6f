package state

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/internal/fault"
	"gururmm/wire"
)

// renewalFile holds a new identity on its way: drawn, then traded, then put in
// place by the next start.
const renewalFile = "renewal.json"

// renewal is that file. Key and token are in it before the token is traded: the
// same key trading the same token again gets the same agent, so a machine that
// dies in between becomes no third one.
type renewal struct {
	Was    string             `json:"was"` // the agent it leaves
	Token  string             `json:"token"`
	Key    ed25519.PrivateKey `json:"key"`
	Next   *Identity          `json:"next,omitempty"` // once traded
	Policy *wire.Envelope     `json:"policy,omitempty"`
}

// Labels of the fault seams: a process dies with each step just done.
const (
	faultRenewDrawn  = "renew.drawn"
	faultRenewTraded = "renew.traded"
	faultRenewAside  = "renew.aside"
	faultRenewPlaced = "renew.placed"
)

// RenewDoor is a place to enroll at.
type RenewDoor struct {
	URL   string // https://host:port
	CAPEM []byte
	Pin   string
	Proxy func(*http.Request) (*url.URL, error) // nil: none
}

// Renew trades token for a new identity at the first of doors that answers, and
// keeps it until [Dir.PutRenewal]; the identity in place is not touched. One that was
// begun before is gone on with. The error tells of each door.
func (d *Dir) Renew(ctx context.Context, token string, p wire.Presence, doors []RenewDoor) (Identity, error) {
	old, err := d.Identity()
	if err != nil {
		return Identity{}, err
	}
	r, err := d.renewal()
	if err != nil {
		return Identity{}, err
	}
	switch {
	case r != nil && r.Was == old.Agent && r.Next != nil:
		return *r.Next, nil
	case r != nil && r.Was == old.Agent && r.Token != token:
		// Its answer may have been lost: what it made then is ours.
		next, err := d.trade(ctx, old, r, p, doors)
		if err == nil || !refusedToken(err) {
			return next, err
		}
		r = nil
	}
	if r == nil || r.Was != old.Agent {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return Identity{}, err
		}
		r = &renewal{Was: old.Agent, Token: token, Key: key}
		if err := d.saveRenewal(r); err != nil {
			return Identity{}, err
		}
	}
	fault.Die(faultRenewDrawn)
	next, err := d.trade(ctx, old, r, p, doors)
	if err != nil && refusedToken(err) {
		err = errors.Join(err, os.Remove(d.Path(renewalFile)))
	}
	return next, err
}

func refusedToken(err error) bool {
	p, ok := errors.AsType[wire.Problem](err)
	return ok && p.Code == wire.ProblemToken
}

// trade enrolls with r's key and token, and stores what came of it.
func (d *Dir) trade(ctx context.Context, old Identity, r *renewal, p wire.Presence, doors []RenewDoor) (Identity, error) {
	err := errors.New("no door to enroll at is known")
	for _, door := range doors {
		var next Identity
		var policy wire.Envelope
		next, policy, _, err = Enroll(ctx, EnrollOptions{
			ServerURL: door.URL, Token: r.Token, CAPEM: door.CAPEM, Pin: door.Pin, Presence: p, Key: r.Key, Proxy: door.Proxy,
		})
		if err == nil {
			if next, err = succeed(old, next, policy); err != nil {
				return Identity{}, err
			}
			r.Next, r.Policy = &next, &policy
			if err := d.saveRenewal(r); err != nil {
				return Identity{}, err
			}
			fault.Die(faultRenewTraded)
			return next, nil
		}
		if refusedToken(err) || ctx.Err() != nil {
			return Identity{}, err
		}
	}
	return Identity{}, err
}

// succeed keeps of the old identity what a person has put trust in: a renewal
// changes who the machine is, never whom it obeys.
func succeed(old, next Identity, policy wire.Envelope) (Identity, error) {
	if next.Server != old.Server {
		return next, fmt.Errorf("server %s answered in place of %s", next.Server, old.Server)
	}
	next.LinkCA, next.LinkPin, next.CommandKeys, next.ReleaseKeys = old.LinkCA, old.LinkPin, old.CommandKeys, old.ReleaseKeys
	if _, err := OpenPolicy(next, policy); err != nil {
		return next, fmt.Errorf("what answered does not hold the server's command key: %w", err)
	}
	return next, next.validate()
}

func (d *Dir) renewal() (*renewal, error) {
	raw, err := d.read(renewalFile, maxIdentity)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r renewal
	if err = json.Unmarshal(raw, &r); err == nil && (r.Was == "" || len(r.Key) != ed25519.PrivateKeySize) {
		err = errors.New("a field is missing")
	}
	if err == nil && r.Next != nil {
		err = r.Next.validate()
	}
	if err != nil {
		kept, qerr := atomicfile.Quarantine(d.Path(renewalFile), time.Now())
		return nil, errors.Join(&QuarantinedError{d.Path(renewalFile), kept, err}, qerr)
	}
	return &r, nil
}

func (d *Dir) saveRenewal(r *renewal) error {
	raw, err := json.Marshal(r)
	if err == nil {
		err = atomicfile.Write(d.Path(renewalFile), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the new identity: %w", err)
	}
	return nil
}

// Renewing reports whether a new identity is on its way.
func (d *Dir) Renewing() bool {
	_, err := os.Lstat(d.Path(renewalFile))
	return err == nil
}

// PutRenewal puts a new identity in place that waits for it, and sets aside, in a folder
// for the agent that was, what of names belongs to it. was is "" if none waits.
// Nothing that uses them may run. Each step can be done again: a process that dies in
// the middle goes on at its next start.
func (d *Dir) PutRenewal(names ...string) (was, aside string, err error) {
	r, err := d.renewal()
	if err != nil || r == nil || r.Next == nil {
		return "", "", err
	}
	now, err := d.Identity()
	if err != nil {
		return "", "", err
	}
	aside = d.Path("was-" + filepath.Base(r.Was))
	if now.Agent == r.Was {
		if err := d.setAside(aside, names); err != nil {
			return "", "", fmt.Errorf("set aside what belongs to agent %s: %w", r.Was, err)
		}
		fault.Die(faultRenewAside)
		if err := d.ReplaceIdentity(*r.Next); err != nil {
			return "", "", err
		}
	}
	fault.Die(faultRenewPlaced)
	if now.Agent != r.Was && now.Agent != r.Next.Agent { // somebody enrolled it by hand meanwhile
		return "", "", os.Remove(d.Path(renewalFile))
	}
	if err := d.SavePolicy(*r.Policy); err != nil {
		return "", "", err
	}
	return r.Was, aside, os.Remove(d.Path(renewalFile))
}

func (d *Dir) setAside(aside string, names []string) error {
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		to := filepath.Join(aside, name)
		if _, err := os.Lstat(to); err == nil { // the same agent's, from an earlier copy: never overwritten
			to += "." + time.Now().UTC().Format("20060102T150405.000Z")
		}
		if err := atomicfile.Rename(d.Path(name), to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.Join(atomicfile.SyncDir(aside), atomicfile.SyncDir(d.Path("")))
}
