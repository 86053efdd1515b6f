package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"gururmm/operator"
	"gururmm/server/hub"
	"gururmm/server/store"
	"gururmm/wire"
)

// reenrollLife is how long a copy has to take its new identity, once ordered.
const reenrollLife = 15 * time.Minute

// resolve records which of several machines keeps the identity.
func (a *API) resolve(w http.ResponseWriter, r *http.Request, by string) error {
	s, err := a.find(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	order, err := decodeStrict[operator.NewResolution](w, r)
	if err != nil {
		return err
	}
	kept, others, err := a.o.Hub.Split(s.ID, order.Keep)
	if errors.Is(err, hub.ErrNoCopy) {
		err = fmt.Errorf("%w: gururmm agents show %s", err, s.ID)
	}
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	out := operator.Resolution{Agent: s.ID, Kept: operator.Copy{Copy: kept, Standing: operator.CopyKept}}
	var rs []store.Resolution
	for _, o := range others {
		rs = append(rs, store.Resolution{ID: wire.NewID(), Agent: s.ID, Kept: kept, Other: o, By: by, At: now})
		out.Others = append(out.Others, operator.Copy{Copy: o, Standing: operator.CopyLeaving})
	}
	if err := a.o.Store.Resolve(r.Context(), s.ID, rs); err != nil {
		return err
	}
	a.log.Info("duplicate resolved", "agent", s.ID, "kept", clip(kept.Instance), "others", len(others), "by", by)
	if err := a.resolved(r, s.ID); err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, out)
}

// resolved puts in force what is stored of an agent's resolutions.
func (a *API) resolved(r *http.Request, agent string) error {
	all, err := a.o.Store.Resolutions(r.Context(), agent)
	if err == nil {
		a.o.Hub.Resolved(agent, all)
	}
	return err
}

// reenroll orders the very instance that asks to take a new identity, by a token of
// the same site for one use. It is made anew for each call: a copy that has lost one
// on the way, or its time, gets another.
func (a *API) reenroll(r *http.Request, agent store.Agent, why store.Resolution) (wire.Envelope, error) {
	who, now := caller(r), time.Now()
	secret, token := NewEnrollToken(agent.Site, 1, reenrollLife, now)
	if err := a.o.Store.CreateReenrollToken(r.Context(), store.HashToken(secret), token, why.ID); err != nil {
		return wire.Envelope{}, err
	}
	a.log.Info("a copy is told to take an identity of its own", "agent", agent.ID, "instance", clip(who.Instance),
		"fingerprint", clip(who.Fingerprint), "token_id", token.ID)
	return a.o.Sign(wire.TypeDirective, wire.Directive{
		ID: wire.NewID(), Agent: agent.ID, Kind: wire.DirectiveReenroll, ExpiresAt: token.ExpiresAt,
		Reason:   "an operator said that another machine keeps this identity",
		Reenroll: &wire.Reenroll{Instance: who.Instance, Fingerprint: who.Fingerprint, Token: secret},
	})
}
