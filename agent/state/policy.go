package state

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/wire"
)

// Policy gives the policy in force: the stored one, filled with defaults, if
// stored is true, else the default one.
//
// The file holds the server's signed config_update as it came, and is verified
// at each reading: what was changed on disk is not obeyed. Then, and when it can't be
// understood, it is set aside and kept, the default policy is returned, and the error is a
// *[QuarantinedError], whose text is the finding. Any other error (not
// enrolled, the disk) leaves the file alone; the policy returned is the default one then, too.
func (d *Dir) Policy() (p wire.Policy, stored bool, err error) {
	def := wire.DefaultPolicy()
	raw, err := d.read(policyFile, wire.MaxMessage)
	corrupt := (*CorruptError)(nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return def, false, nil
	case errors.As(err, &corrupt):
		return def, false, d.quarantine(policyFile, corrupt.Err)
	case err != nil:
		return def, false, err
	}
	id, err := d.Identity()
	if err != nil {
		return def, false, fmt.Errorf("policy can't be verified: %w", err)
	}
	env, err := wire.Decode(raw)
	if err == nil {
		p, err = OpenPolicy(id, env)
	}
	if err != nil {
		return def, false, d.quarantine(policyFile, err)
	}
	return p, true, nil
}

// OpenPolicy verifies a config_update: signed by a command key, for this agent,
// and a policy that would not cut the endpoint off. Defaults are filled in.
func OpenPolicy(id Identity, env wire.Envelope) (wire.Policy, error) {
	if env.Type != wire.TypeConfigUpdate {
		return wire.Policy{}, fmt.Errorf("policy is a %q, want %q", env.Type, wire.TypeConfigUpdate)
	}
	ring, err := id.Keyring()
	if err != nil {
		return wire.Policy{}, err
	}
	if err := ring.Verify(env); err != nil {
		return wire.Policy{}, fmt.Errorf("policy: %w", err)
	}
	update, err := wire.DecodePayload[wire.ConfigUpdate](env)
	if err != nil {
		return wire.Policy{}, err
	}
	if update.Agent != id.Agent {
		return wire.Policy{}, fmt.Errorf("policy is for agent %q, this is %q", update.Agent, id.Agent)
	}
	p := update.Policy.WithDefaults()
	if err := p.Validate(); err != nil {
		return wire.Policy{}, err
	}
	return p, nil
}

// StoredPolicy is as [Dir.Policy], for who only looks: the file is left as it is, and the
// default stands for one that can't be used.
func (d *Dir) StoredPolicy() (p wire.Policy) {
	raw, err := d.read(policyFile, wire.MaxMessage)
	var id Identity
	if err == nil {
		id, err = d.Identity()
	}
	var env wire.Envelope
	if err == nil {
		env, err = wire.Decode(raw)
	}
	if err == nil {
		p, err = OpenPolicy(id, env)
	}
	if err != nil {
		return wire.DefaultPolicy()
	}
	return p
}

// SavePolicy stores a config_update, after the checks of [OpenPolicy].
func (d *Dir) SavePolicy(env wire.Envelope) error {
	id, err := d.Identity()
	if err != nil {
		return fmt.Errorf("policy can't be verified: %w", err)
	}
	if _, err := OpenPolicy(id, env); err != nil {
		return err
	}
	// The payload's bytes are signed: they must reach the disk as they are, so no indentation.
	raw, err := env.Encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(d.Path(policyFile), raw, 0o600)
}

func (d *Dir) quarantine(name string, why error) error {
	kept, err := atomicfile.Quarantine(d.Path(name), time.Now())
	if kept == "" {
		why = errors.Join(why, err)
	}
	return &QuarantinedError{File: d.Path(name), Kept: kept, Err: why}
}
