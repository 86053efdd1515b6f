package api

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gururmm/server/store"
	"gururmm/wire"
)

// enroll trades an enrollment token for an identity.
func (a *API) enroll(w http.ResponseWriter, r *http.Request) error {
	if a.isDraining() {
		return errDraining
	}
	now, addr := time.Now(), a.clientAddr(r)
	if !a.enrolls.allow(addr, now) {
		return problem(http.StatusTooManyRequests, wire.ProblemRateLimited, "too many enrollments from this address")
	}
	req, _, err := decode[wire.EnrollRequest](w, r, enrollBound)
	if err != nil {
		return err
	}
	if len(req.PublicKey) != ed25519.PublicKeySize || bytes.Equal(req.PublicKey, make([]byte, ed25519.PublicKeySize)) {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, "public_key: want the 32 bytes of an Ed25519 key")
	}
	if len(req.Token) > maxBearer {
		return store.ErrTokenInvalid
	}
	p := req.Presence
	for name, v := range map[string]string{
		"instance": p.Instance, "boot_id": p.BootID, "fingerprint": p.Fingerprint, "version": p.Version,
		"hostname": p.Platform.Hostname, "os": p.Platform.OS, "arch": p.Platform.Arch, "release": p.Platform.Release,
	} {
		if len(v) > 256 {
			return problem(http.StatusBadRequest, wire.ProblemBadRequest, fmt.Sprintf("presence.%s is longer than 256 bytes", name))
		}
	}
	leave, err := a.doors[doorEnroll].Enter(r.Context())
	if err != nil {
		return err
	}
	defer leave()
	id := wire.NewID()
	name := strings.TrimSpace(p.Platform.Hostname)
	if name == "" {
		name = id
	}
	agent, err := a.o.Store.TradeToken(r.Context(), store.HashToken(req.Token), store.Agent{
		ID: id, PublicKey: req.PublicKey, Name: name,
		Platform: p.Platform, Version: p.Version, Fingerprint: p.Fingerprint,
	}, now)
	switch {
	case errors.Is(err, store.ErrTokenInvalid):
		a.log.Warn("enrollment refused", "addr", addr, "hostname", p.Platform.Hostname)
		return err
	case errors.Is(err, store.ErrConflict):
		return problem(http.StatusConflict, wire.ProblemConflict, "this key is enrolled already, by another token")
	case err != nil:
		return err
	}
	if agent.Was != "" {
		a.log.Info("a copy has taken an identity of its own", "was", agent.Was, "agent", agent.ID)
		if err := a.resolved(r, agent.Was); err != nil {
			a.log.Error("the resolution is in force from the next start", "agent", agent.Was, "error", err)
		}
	}
	policy, err := a.o.Sign(wire.TypeConfigUpdate, wire.ConfigUpdate{Agent: agent.ID, Policy: a.o.Policy(agent.ID)})
	if err != nil {
		return err
	}
	a.log.Info("agent enrolled", "agent", agent.ID, "name", agent.Name, "site", agent.Site, "addr", addr)
	return a.answer(w, http.StatusOK, wire.EnrollResponse{
		Agent: agent.ID, Server: a.o.ServerID, CommandKeys: a.o.CommandKeys,
		LinkURLs: a.o.Doors.LinkURLs, OOB: a.o.Doors.OOB,
		Policy: policy, ServerTime: time.Now().UTC(), ReleaseKeys: a.o.Builds.Keys(),
	})
}
