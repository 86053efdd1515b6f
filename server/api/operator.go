package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gururmm/oob"
	"gururmm/operator"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// EnrollTokenLife is how long an enrollment token lives unless asked otherwise.
	EnrollTokenLife    = time.Hour
	maxEnrollTokenLife = 90 * 24 * time.Hour
	maxEnrollTokenUses = 10_000
)

// find gives the one agent that ref names, by id, host name or the beginning of its id.
func (a *API) find(r *http.Request, ref string) (store.Agent, error) {
	found, err := a.o.Store.FindAgents(r.Context(), ref)
	switch {
	case err != nil:
		return store.Agent{}, err
	case len(found) == 0:
		// Of machines with one identity only one gives it its name; the others' lead there too.
		switch others := a.o.Hub.Named(ref); len(others) {
		case 0:
			return store.Agent{}, a.gone(r, ref)
		case 1:
			return a.o.Store.Agent(r.Context(), others[0])
		default:
			return store.Agent{}, ambiguous("agents", ref, others)
		}
	case len(found) > 1:
		return store.Agent{}, ambiguous("agents", ref, agentIDs(found))
	}
	return found[0], nil
}

// command gives the id of the one command that the request names, by id, the beginning of it or,
// among the newest, its end.
func (a *API) command(r *http.Request) (string, error) {
	return one(r, "command", a.o.Store.FindCommands)
}

// one gives the id of the one thing of its kind that the request names so.
func one(r *http.Request, kind string, find func(ctx context.Context, ref string) ([]string, error)) (string, error) {
	ref := r.PathValue("id")
	found, err := find(r.Context(), ref)
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", unknown(kind, ref)
	case len(found) > 1:
		return "", ambiguous(kind+"s", ref, found)
	}
	return found[0], nil
}

// listings name, for each kind of thing, the command that lists it.
var listings = map[string]string{
	"agent": "gururmm agents", "command": "gururmm commands", "directive": "gururmm directives AGENT", "bundle": "gururmm bundles AGENT",
	"rollout": "gururmm update status", "job": "gururmm jobs", "enrollment token": "gururmm enroll-token list", "build": "gururmm update list",
}

func unknown(kind, ref string) error {
	said := fmt.Sprintf("no %s %s", kind, strconv.Quote(ref))
	if by := listings[kind]; by != "" {
		said += " is known"
		if kind == "command" && store.IsEnding(ref) {
			said += fmt.Sprintf(" (by the end of its id: among the newest %d)", store.EndingsAmong)
		}
		said += "; see: " + by
	}
	return problem(http.StatusNotFound, wire.ProblemNotFound, said)
}

// ambiguous names some of those that ref fits, so that one can be picked.
func ambiguous(kind, ref string, ids []string) error {
	n, more := strconv.Itoa(len(ids)), ""
	if len(ids) == 2 {
		n = "two"
	}
	if len(ids) >= store.MaxFound {
		n, ids, more = "several", ids[:store.MaxFound-1], ", …"
	}
	return problem(http.StatusConflict, wire.ProblemAmbiguous, fmt.Sprintf("%q are %s %s: %s%s", ref, n, kind, strings.Join(ids, ", "), more))
}

// seen is an agent as stored with what is live put over it.
func (a *API) seen(s store.Agent, tags []string) operator.Agent {
	out := operator.Agent{
		ID: s.ID, Name: s.Name, Site: s.Site, Tags: tags, Platform: s.Platform, Version: s.Version, EnrolledAt: s.EnrolledAt,
		LastSeen: s.LastSeen, LastVia: s.LastVia, Metrics: s.Metrics, Was: s.Was,
	}
	if s.Quarantined {
		out.Presence = hub.Quarantined
	}
	a.o.Hub.Overlay(&out)
	return out
}

// owed gives what puts the number of commands owed into an agent: of those that other nodes
// hold this one need not know.
func (a *API) owed(r *http.Request, agent string) (func(operator.Agent) operator.Agent, error) {
	if a.o.Cluster == nil {
		return func(s operator.Agent) operator.Agent { return s }, nil
	}
	all, err := a.o.Cluster.CountOwed(r.Context(), agent)
	return func(s operator.Agent) operator.Agent {
		s.Owed = all[s.ID]
		return s
	}, err
}

func (a *API) listAgents(w http.ResponseWriter, r *http.Request, _ string) error {
	if r.URL.Query().Get("removed") == "true" {
		return a.listRemoved(w, r)
	}
	pick := operator.Pick{Sites: r.URL.Query()["site"], Tags: r.URL.Query()["tag"]}
	agents, err := a.o.Store.Agents(r.Context())
	if err != nil {
		return err
	}
	tags, err := a.o.Store.AgentTags(r.Context(), "")
	if err != nil {
		return err
	}
	owed, err := a.owed(r, "")
	if err != nil {
		return err
	}
	items := []operator.Agent{}
	for _, s := range agents {
		if pick.Fits(s.ID, s.Site, tags[s.ID]) {
			items = append(items, owed(a.seen(s, tags[s.ID])))
		}
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Agent]{Items: items})
}

func (a *API) getAgent(w http.ResponseWriter, r *http.Request, _ string) error {
	s, err := a.past(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	if s.RemovedAt != nil {
		return a.answer(w, http.StatusOK, removed(s))
	}
	tags, err := a.o.Store.AgentTags(r.Context(), s.ID)
	if err != nil {
		return err
	}
	owed, err := a.owed(r, s.ID)
	if err != nil {
		return err
	}
	out := owed(a.seen(s, tags[s.ID]))
	if out.Verdict == "" { // nothing heard since this process started: its last recorded word
		beacons, err := a.o.Store.Beacons(r.Context(), s.ID, 1)
		if err != nil {
			return err
		}
		if len(beacons) > 0 {
			out.Verdict, out.Sentence, out.VerdictAt = beacons[0].Verdict, beacons[0].Sentence, &beacons[0].ReceivedAt
			var report oob.Report
			if err := json.Unmarshal(beacons[0].Report, &report); err == nil { // else it said nothing that is understood
				out.Findings = hub.Findings(report)
			}
		}
	}
	return a.answer(w, http.StatusOK, out)
}

func (a *API) submit(w http.ResponseWriter, r *http.Request, by string) error {
	s, err := a.find(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	order, err := decodeStrict[operator.NewCommand](w, r)
	if err != nil {
		return err
	}
	cmd, err := a.o.Delivery.Submit(r.Context(), s.ID, order, by)
	if err != nil {
		return err
	}
	a.log.Info("command submitted", "agent", s.ID, "command", cmd.ID, "by", by)
	w.Header().Set("Location", "/v1/commands/"+cmd.ID)
	return a.answer(w, http.StatusCreated, cmd)
}

func (a *API) direct(w http.ResponseWriter, r *http.Request, by string) error {
	s, err := a.find(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	order, err := decodeStrict[operator.NewDirective](w, r)
	if err != nil {
		return err
	}
	if order.Kind == wire.DirectiveQuarantine { // the server's part holds from now on, whatever the endpoint says
		if err := a.quarantine(r.Context(), s.ID, !order.Lift); err != nil {
			return err
		}
	}
	d, err := a.o.Delivery.Directive(r.Context(), s.ID, order, by)
	if err != nil {
		return err
	}
	a.log.Info("directive given", "agent", s.ID, "kind", order.Kind, "directive", d.ID, "by", by)
	w.Header().Set("Location", "/v1/directives/"+d.ID)
	return a.answer(w, http.StatusCreated, d)
}

func (a *API) listDirectives(w http.ResponseWriter, r *http.Request, _ string) error {
	s, err := a.past(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	n, err := limit(r)
	if err != nil {
		return err
	}
	items, err := a.o.Delivery.ListDirectives(r.Context(), s.ID, n)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Directive]{Items: orEmpty(items)})
}

func (a *API) getDirective(w http.ResponseWriter, r *http.Request, _ string) error {
	id, err := one(r, "directive", a.o.Store.FindDirectives)
	if err != nil {
		return err
	}
	d, err := a.o.Delivery.AskDirective(r.Context(), id)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, d)
}

// limit reads ?limit=; 0: the store's default.
func limit(r *http.Request) (int, error) {
	v := r.URL.Query().Get("limit")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > store.MaxList {
		return 0, problem(http.StatusBadRequest, wire.ProblemBadRequest, fmt.Sprintf("limit: want 1 to %d", store.MaxList))
	}
	return n, nil
}

// agentFilter reads ?agent= as find does; empty: all.
func (a *API) agentFilter(r *http.Request) (string, error) {
	ref := r.URL.Query().Get("agent")
	if ref == "" {
		return "", nil
	}
	s, err := a.past(r, ref)
	return s.ID, err
}

var states = []wire.State{
	"", wire.StatePending, wire.StateRunning, wire.StateCompleted, wire.StateFailed,
	wire.StateCancelled, wire.StateExpired, wire.StateInterrupted, wire.StateUndeliverable,
}

func (a *API) listCommands(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	agent, err := a.agentFilter(r)
	if err != nil {
		return err
	}
	state := wire.State(r.URL.Query().Get("state"))
	if !slices.Contains(states, state) {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, "no command is ever "+strconv.Quote(string(state))+"; the states are pending, running, completed, failed, cancelled, expired, interrupted and undeliverable")
	}
	items, err := a.o.Delivery.Commands(r.Context(), delivery.Filter{Agent: agent, State: state, Limit: n})
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Command]{Items: orEmpty(items)})
}

// orEmpty makes a list without items read [], not null.
func orEmpty[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func (a *API) getCommand(w http.ResponseWriter, r *http.Request, _ string) error {
	id, err := a.command(r)
	if err != nil {
		return err
	}
	cmd, err := a.o.Delivery.Command(r.Context(), id)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, cmd)
}

func (a *API) trace(w http.ResponseWriter, r *http.Request, _ string) error {
	id, err := a.command(r)
	if err != nil {
		return err
	}
	trace, err := a.o.Delivery.Trace(r.Context(), id)
	if err != nil {
		return err
	}
	delivery.Timeline(&trace, a.o.Hub.Behind(trace.Command.Agent))
	return a.answer(w, http.StatusOK, trace)
}

// listTraces lists the ways of an agent's commands, the newest first: ?within_ms= back from the
// server's now, by when they were given, and ?limit=.
func (a *API) listTraces(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	since := time.UnixMicro(0)
	within, err := count(r, "within_ms", store.KeepAgentEventsFor.Milliseconds())
	if err != nil {
		return err
	}
	if within != nil {
		since = time.Now().Add(-time.Duration(*within) * time.Millisecond)
	}
	s, err := a.past(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	items, err := a.o.Delivery.Traces(r.Context(), s.ID, since, n)
	if err != nil {
		return err
	}
	behind := a.o.Hub.Behind(s.ID)
	for i := range items {
		delivery.Timeline(&items[i], behind)
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Trace]{Items: items})
}

func (a *API) cancel(w http.ResponseWriter, r *http.Request, by string) error {
	if _, err := decodeStrict[struct{}](w, r); err != nil {
		return err
	}
	id, err := a.command(r)
	if err != nil {
		return err
	}
	cmd, err := a.o.Delivery.Cancel(r.Context(), id, by)
	if err != nil {
		return err
	}
	a.log.Info("command cancelled", "command", cmd.ID, "agent", cmd.Agent, "by", by)
	return a.answer(w, http.StatusOK, cmd)
}

func (a *API) output(w http.ResponseWriter, r *http.Request, _ string) error {
	stream := wire.Stream(r.PathValue("stream"))
	if stream != wire.Stdout && stream != wire.Stderr {
		return problem(http.StatusNotFound, wire.ProblemNotFound, "the streams are stdout and stderr")
	}
	id, err := a.command(r)
	if err != nil {
		return err
	}
	data, err := a.o.Delivery.Output(r.Context(), id, stream)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := write(w, http.StatusOK, data); err != nil {
		a.log.Debug("output not written", "reason", err)
	}
	return nil
}

func (a *API) listBeacons(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	agent, err := a.agentFilter(r)
	if err != nil {
		return err
	}
	items, err := a.o.Store.Beacons(r.Context(), agent, n)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Beacon]{Items: orEmpty(items)})
}

func (a *API) listEnrollTokens(w http.ResponseWriter, r *http.Request, _ string) error {
	items, err := a.o.Store.EnrollTokens(r.Context())
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.EnrollToken]{Items: orEmpty(items)})
}

func (a *API) createEnrollToken(w http.ResponseWriter, r *http.Request, by string) error {
	order, err := decodeStrict[operator.NewEnrollToken](w, r)
	if err != nil {
		return err
	}
	bad := func(detail string) error {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, detail)
	}
	life := time.Duration(order.ExpiresInMS) * time.Millisecond
	switch {
	case len(order.Site) > 64:
		return bad("site is longer than 64 bytes")
	case order.Uses < 0 || order.Uses > maxEnrollTokenUses:
		return bad(fmt.Sprintf("uses: want 1 to %d", maxEnrollTokenUses))
	case order.ExpiresInMS < 0 || order.ExpiresInMS > maxEnrollTokenLife.Milliseconds():
		return bad(fmt.Sprintf("expires_in_ms (--expires): at most %d, which is 90 days", maxEnrollTokenLife.Milliseconds()))
	}
	if life == 0 {
		life = EnrollTokenLife
	}
	secret, token := NewEnrollToken(order.Site, max(order.Uses, 1), life, time.Now())
	if err := a.o.Store.CreateEnrollToken(r.Context(), store.HashToken(secret), token); err != nil {
		return err
	}
	a.log.Info("enrollment token made", "token_id", token.ID, "site", token.Site, "uses", token.UsesLeft, "by", by)
	token.Token, token.Pin, token.URL = secret, a.o.Doors.Pin, a.o.Doors.URL
	return a.answer(w, http.StatusCreated, token)
}

// NewEnrollToken draws an enrollment token, 130 random bits; site empty means "default".
func NewEnrollToken(site string, uses int, life time.Duration, now time.Time) (secret string, t operator.EnrollToken) {
	if site == "" {
		site = "default"
	}
	now = now.UTC()
	return "gre_" + rand.Text(), operator.EnrollToken{
		ID: wire.NewID(), Site: site, UsesLeft: uses, CreatedAt: now, ExpiresAt: now.Add(life),
	}
}

// NewOperatorToken draws an operator token, 130 random bits.
func NewOperatorToken() string { return "gro_" + rand.Text() }

func (a *API) deleteEnrollToken(w http.ResponseWriter, r *http.Request, by string) error {
	id := r.PathValue("id")
	err := a.o.Store.DeleteEnrollToken(r.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return unknown("enrollment token", id)
	}
	if err != nil {
		return err
	}
	a.log.Info("enrollment token revoked", "token_id", id, "by", by)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
