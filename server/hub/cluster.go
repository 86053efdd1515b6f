package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/server/store"
	"gururmm/wire"
)

// Rules among the nodes of a cluster:
//   - what a node sees of an agent it writes down when that changes, for all nodes; nobody
//     shows another node's links but as that node told of them;
//   - a view is gone with its node;
//   - of one machine's links at several nodes the one of the highest generation stays;
//   - what is told of an agent's presence is told by the node that sees it best.

// Cluster is how this node stands to the others. Its methods must not wait for the hub.
type Cluster interface {
	// NextGeneration is above all that any node was given before.
	NextGeneration(ctx context.Context) (uint64, error)
	SaveViews(ctx context.Context, seen map[string]string) error
	Views(ctx context.Context, agents ...string) ([]store.View, error)
	// NodeName is what people call a node that lives; "": it does not, or is not known yet.
	NodeName(id string) string
	// Leads tells whether this node does what one alone must do.
	Leads() bool
}

const (
	// shareEvery is how long changes of views are gathered before they are written.
	shareEvery = 50 * time.Millisecond
	// shareAgain is how long a write that failed is put off.
	shareAgain = time.Second
	// shareAtOnce bounds the views of one write.
	shareAtOnce = 500
	// consultTimeout bounds the look at what other nodes see, when a machine comes.
	consultTimeout = 5 * time.Second
	// signsApart: how often signs of life of the second door are told to other nodes, of an
	// agent that uses it.
	signsApart = 20 * time.Second
	// stoppedFor is how long after an agent's word that it stops a frame of it may still come.
	stoppedFor = 5 * time.Second
)

var (
	errLeaseLost  = errors.New("this node was away from its database for too long")
	errUnnumbered = errors.New("the server can't reach its database at the moment")
)

// view is what a node sees of an agent, as the others are told.
type view struct {
	Links    []viewLink `json:"links,omitempty"`
	Copies   []viewCopy `json:"copies,omitempty"`
	Identity identity   `json:"identity,omitempty"`
	Silent   bool       `json:"silent,omitempty"`

	SeenAt     time.Time          `json:"seen_at,omitzero"`
	Via        string             `json:"via,omitempty"`
	Addr       string             `json:"addr,omitempty"`
	VerifiedAt time.Time          `json:"verified_at,omitzero"`
	BeaconAt   time.Time          `json:"beacon_at,omitzero"`
	Stopped    bool               `json:"stopped,omitempty"`
	Isolated   bool               `json:"isolated,omitempty"`
	ReportAt   time.Time          `json:"report_at,omitzero"`
	DeliverAt  time.Time          `json:"deliver_at,omitzero"`
	Verdict    string             `json:"verdict,omitempty"`
	Sentence   string             `json:"sentence,omitempty"`
	VerdictAt  time.Time          `json:"verdict_at,omitzero"`
	Findings   []operator.Finding `json:"findings,omitempty"`
	Skew       *int64             `json:"skew,omitempty"`
	Unacked    time.Time          `json:"unacked,omitzero"`
}

type viewLink struct {
	wire.LinkView
	Version    string    `json:"version,omitempty"`
	Opened     time.Time `json:"opened"`
	VerifiedAt time.Time `json:"verified_at,omitzero"`
	Leaving    bool      `json:"leaving,omitempty"` // of a machine that is to take another identity
}

type viewCopy struct {
	Who    wire.Copy    `json:"who"`
	Since  time.Time    `json:"since"`
	At     time.Time    `json:"at"`
	Door   wire.Channel `json:"door"`
	Addr   string       `json:"addr,omitempty"`
	Linked time.Time    `json:"linked,omitzero"`
	Open   bool         `json:"open,omitempty"` // it has a link now
	Left   bool         `json:"left,omitempty"`
}

// sharing is what other nodes are to be told.
type sharing struct {
	mu    sync.Mutex
	dirty map[string]struct{}
	poke  chan struct{}
	told  map[string]string // marks of the views that were written last, by agent; another one for each lease
}

// share has what is seen of agent told to other nodes, if it has changed. It never blocks.
func (h *Hub) share(agent string) {
	if h.opts.Cluster == nil {
		return
	}
	h.sharing.mu.Lock()
	if h.sharing.dirty == nil {
		h.sharing.dirty = map[string]struct{}{}
	}
	h.sharing.dirty[agent] = struct{}{}
	h.sharing.mu.Unlock()
	select {
	case h.sharing.poke <- struct{}{}:
	default:
	}
}

func (h *Hub) takeDirty() []string {
	h.sharing.mu.Lock()
	defer h.sharing.mu.Unlock()
	var all []string
	for agent := range h.sharing.dirty {
		if len(all) == shareAtOnce {
			break
		}
		all = append(all, agent)
		delete(h.sharing.dirty, agent)
	}
	slices.Sort(all)
	return all
}

// runSharing writes views until ctx ends.
func (h *Hub) runSharing(ctx context.Context) {
	pause := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case <-h.sharing.poke:
		case <-ctx.Done():
			return
		}
		for more := pause(shareEvery); more; {
			agents := h.takeDirty()
			if len(agents) == 0 {
				break
			}
			if err := h.shareNow(ctx, agents); err != nil {
				for _, agent := range agents {
					h.share(agent)
				}
				if h.away() == nil && ctx.Err() == nil { // else it is known, and told
					h.log.Error("what is seen of agents can't be told to other nodes; it is tried again", "error", err)
				}
				more = pause(shareAgain)
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// shareNow writes what is seen of agents, where it has changed.
func (h *Hub) shareNow(ctx context.Context, agents []string) error {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	seen, marks := map[string]string{}, map[string]string{}
	h.sharing.mu.Lock()
	told := h.sharing.told // of the lease that there is now: what is written under it may be lost with it
	h.sharing.mu.Unlock()
	for _, agent := range agents {
		v := h.view(agent)
		mark, err := v.mark()
		if err != nil {
			return err
		}
		h.sharing.mu.Lock()
		same := told[agent] == mark
		h.sharing.mu.Unlock()
		if same {
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		seen[agent], marks[agent] = string(raw), mark
		if v.empty() {
			seen[agent] = ""
		}
	}
	if len(seen) == 0 {
		return nil
	}
	if err := h.opts.Cluster.SaveViews(ctx, seen); err != nil {
		return err
	}
	h.sharing.mu.Lock()
	defer h.sharing.mu.Unlock()
	maps.Copy(told, marks)
	return nil
}

// view is what this node sees of agent.
func (h *Hub) view(agent string) view {
	now := time.Now()
	h.mu.Lock()
	ep := h.endpoint(agent)
	seen := *ep
	links := slices.Clone(ep.links)
	leaving := map[*link]bool{}
	for _, l := range links {
		leaving[l] = ep.shuns(*l.copy())
	}
	var copies []viewCopy
	for _, c := range ep.copies {
		if c.told { // another node's to tell
			continue
		}
		copies = append(copies, viewCopy{Who: *c.who, Since: c.since, At: c.at, Door: c.door, Addr: c.addr, Linked: c.linked, Open: h.linked(ep, c), Left: c.left})
	}
	h.mu.Unlock()
	beacon := seen.reported()
	v := view{
		Copies: copies, Identity: seen.state, SeenAt: seen.seenAt, Via: seen.via, Addr: seen.addr, VerifiedAt: seen.verifiedAt,
		BeaconAt: beacon.at, Stopped: seen.stopped, Isolated: seen.isolated, ReportAt: beacon.written, DeliverAt: seen.deliverAt,
		Verdict: seen.verdict, Sentence: seen.sentence, VerdictAt: seen.verdictAt, Findings: beacon.findings, Skew: seen.skew,
		Unacked: h.opts.Delivery.Unacknowledged(agent),
	}
	for _, l := range links {
		look := l.look(now)
		if look.gone {
			continue
		}
		l.mu.Lock()
		version, authed := l.version, l.who != nil
		l.mu.Unlock()
		if !authed { // whose it is is not known yet
			continue
		}
		look.HeldMS = nil // it is of this moment, and told at the next change
		v.Links = append(v.Links, viewLink{LinkView: look.LinkView, Version: version, Opened: l.opened, VerifiedAt: look.verifiedAt, Leaving: leaving[l]})
		v.Silent = look.silent
	}
	return v
}

func (v view) empty() bool {
	return len(v.Links) == 0 && len(v.Copies) == 0 && v.BeaconAt.IsZero() && v.DeliverAt.IsZero() && v.Verdict == ""
}

// mark is what of a view is worth a write when it changes: not counts that grow, nor signs
// of life of a machine that is alone.
func (v view) mark() (string, error) {
	now := time.Now()
	v.SeenAt, v.Via, v.VerdictAt, v.Skew, v.ReportAt = time.Time{}, "", time.Time{}, nil, time.Time{}
	if !v.VerifiedAt.IsZero() { // that it was, not when: a view may be taken as its link is verified, and miss it
		v.VerifiedAt = time.Unix(0, 0)
	}
	v.BeaconAt, v.DeliverAt = v.BeaconAt.Truncate(signsApart), v.DeliverAt.Truncate(signsApart)
	v.Links, v.Copies = slices.Clone(v.Links), slices.Clone(v.Copies)
	several := 0
	for _, c := range v.Copies {
		if !c.Left && now.Sub(c.At) < oobWindow {
			several++
		}
	}
	for i := range v.Links {
		l := &v.Links[i].LinkView
		l.Written, l.Read, l.Queued, l.AgeMS, l.PeerRead = 0, 0, 0, 0, nil
		l.PongAgeMS, l.PingPendingMS = nil, nil
	}
	for i := range v.Copies {
		if several < 2 && v.Identity == identitySole {
			v.Copies[i].At = time.Time{}
		}
		v.Copies[i].Door, v.Copies[i].Addr = "", ""
	}
	raw, err := json.Marshal(v)
	return string(raw), err
}

// away is why this node takes no links for now; nil: it does.
func (h *Hub) away() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

// nextGeneration gives a new link of agent its generation.
func (h *Hub) nextGeneration(agent string) (uint64, error) {
	if h.opts.Cluster == nil {
		return h.generation.Add(1), nil
	}
	ctx, cancel := context.WithTimeout(h.ctx, consultTimeout)
	defer cancel()
	g, err := h.opts.Cluster.NextGeneration(ctx)
	if err != nil { // the agent reads no more of it than this
		h.log.Error("a link can't be numbered", "agent", agent, "error", err)
		err = errUnnumbered
	}
	return g, err
}

// LeaseLost ends all links: other nodes count this one as gone, and its links are theirs to
// take. Until [Hub.Joined] no link is taken.
func (h *Hub) LeaseLost() {
	h.mu.Lock()
	h.lost = errLeaseLost
	var all []*link
	for _, ep := range h.agents {
		all = append(all, ep.links...)
	}
	h.mu.Unlock()
	h.sharing.mu.Lock()
	h.sharing.told = map[string]string{}
	h.sharing.mu.Unlock()
	sendAway(all, errLeaseLost, h.opts.Returning)
}

// Joined takes links again, and tells the other nodes all that is seen here. It reads what
// they see, and the operators' words.
func (h *Hub) Joined(ctx context.Context) error {
	if err := h.Load(ctx); err != nil {
		return err
	}
	views, err := h.opts.Cluster.Views(ctx)
	if err != nil {
		return fmt.Errorf("what other nodes see: %w", err)
	}
	by := map[string][]store.View{}
	for _, v := range views {
		by[v.Agent] = append(by[v.Agent], v)
	}
	h.mu.Lock()
	h.lost = nil
	for agent, ep := range h.agents {
		if len(ep.elsewhere) > 0 && by[agent] == nil {
			by[agent] = nil
		}
	}
	known := make([]string, 0, len(h.agents))
	for agent := range h.agents {
		known = append(known, agent)
	}
	h.mu.Unlock()
	for agent, all := range by {
		h.seenElsewhere(agent, all)
	}
	for _, agent := range known {
		h.share(agent)
	}
	return nil
}

// Seen takes up what other nodes see of agents now.
func (h *Hub) Seen(ctx context.Context, agents ...string) error {
	views, err := h.opts.Cluster.Views(ctx, agents...)
	if err != nil {
		return err
	}
	by := map[string][]store.View{}
	for _, v := range views {
		by[v.Agent] = append(by[v.Agent], v)
	}
	for _, agent := range agents {
		h.seenElsewhere(agent, by[agent])
	}
	return nil
}

// Ruled takes up an operator's word on agent that another node has stored.
func (h *Hub) Ruled(ctx context.Context, agent string) error {
	a, err := h.opts.Store.Agent(ctx, agent)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := h.opts.Store.Resolutions(ctx, agent)
	if err != nil {
		return err
	}
	h.mu.Lock()
	ep := h.endpoint(agent)
	remove := a.RemovedAt != nil && !ep.removed
	quarantine := a.Quarantined != ep.quarantined
	resolved := !slices.EqualFunc(all, ep.resolved, func(a, b store.Resolution) bool { return a.ID == b.ID && a.NewAgent == b.NewAgent })
	h.mu.Unlock()
	if remove {
		h.Remove(agent)
	}
	if quarantine {
		h.Quarantine(agent, a.Quarantined)
	}
	if resolved {
		h.Resolved(agent, all)
	}
	return nil
}

// NodesEnded forgets what nodes saw that have ended. Who does not come back is told of by
// the node that leads.
func (h *Hub) NodesEnded(ended map[string]bool) {
	h.mu.Lock()
	var agents []string
	for agent, ep := range h.agents {
		for node := range ep.elsewhere {
			if ended[node] {
				agents = append(agents, agent)
				break
			}
		}
	}
	h.mu.Unlock()
	for _, agent := range agents {
		h.mu.Lock()
		ep := h.endpoint(agent)
		for node := range ended {
			ep.unsee(node)
		}
		ep.orphaned = selfcheck.At(time.Now())
		j := h.judgeIdentity(agent, ep)
		h.mu.Unlock()
		h.follow(agent, j)
		h.share(agent)
	}
}

// unsee forgets what a node saw: the links there are gone. Call with mu held.
func (ep *endpoint) unsee(node string) {
	if ep.elsewhere[node] == nil {
		return
	}
	delete(ep.elsewhere, node)
	for _, c := range ep.copies {
		if c.open == node {
			c.open, c.left = "", true
		}
	}
}

// consult takes up what other nodes see of an agent of which a machine has come here: what
// was not told in time must not make of two machines one.
func (h *Hub) consult(agent string) {
	if h.opts.Cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, consultTimeout)
	defer cancel()
	if err := h.Seen(ctx, agent); err != nil {
		h.log.Error("what other nodes see can't be read", "agent", agent, "error", err)
	}
}

// seenElsewhere takes up all that other nodes see of agent.
func (h *Hub) seenElsewhere(agent string, all []store.View) {
	now := time.Now()
	views := map[string]*view{}
	for _, one := range all {
		v := new(view)
		if err := json.Unmarshal([]byte(one.Seen), v); err != nil {
			h.log.Error("what another node sees can't be read", "agent", agent, "node", one.Node, "error", err)
			continue
		}
		views[one.Node] = v
	}
	var replaced, asked []*link
	h.mu.Lock()
	ep := h.endpoint(agent)
	for node := range ep.elsewhere {
		if views[node] == nil {
			ep.unsee(node)
		}
	}
	if ep.elsewhere == nil && len(views) > 0 {
		ep.elsewhere = map[string]*view{}
	}
	for node, v := range views {
		ep.elsewhere[node] = v
		for _, c := range ep.copies {
			if c.open == node && !slices.ContainsFunc(v.Copies, func(o viewCopy) bool { return o.Who.Instance == c.who.Instance && o.Open }) {
				c.open, c.left = "", true
			}
		}
		slices.SortFunc(v.Copies, func(a, b viewCopy) int { return a.Since.Compare(b.Since) })
		for _, c := range v.Copies {
			asked = append(asked, h.heardElsewhere(ep, agent, node, c, now)...)
		}
		for _, theirs := range v.Links {
			for _, mine := range ep.links {
				who, authed := mine.presence()
				if authed && who.Instance == theirs.Instance && mine.generation < theirs.Generation {
					replaced = append(replaced, mine)
				}
			}
		}
	}
	j := h.judgeIdentity(agent, ep)
	h.mu.Unlock()
	for _, l := range replaced {
		l.end(websocket.CloseServiceRestart, "", errReplaced)
	}
	asked = slices.DeleteFunc(asked, func(l *link) bool { return slices.Contains(replaced, l) })
	if len(asked) > 0 {
		h.challenge(agent, asked, now)
	}
	h.follow(agent, j)
	h.observe(agent)
}

// newerElsewhere reports whether the machine of l has a newer link at another node.
func (h *Hub) newerElsewhere(l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	who, _ := l.presence()
	for _, v := range h.endpoint(l.agent).elsewhere {
		if slices.ContainsFunc(v.Links, func(o viewLink) bool { return o.Instance == who.Instance && o.Generation > l.generation }) {
			return true
		}
	}
	return false
}

// heardElsewhere takes in that another node hears a machine. Call with mu held.
func (h *Hub) heardElsewhere(ep *endpoint, agent, node string, v viewCopy, now time.Time) (asked []*link) {
	i := slices.IndexFunc(ep.copies, func(c *sighting) bool { return c.who.Instance == v.Who.Instance })
	if i < 0 && v.Left || i >= 0 && !ep.copies[i].told && h.linked(ep, ep.copies[i]) { // it was there once; it is here
		return nil
	}
	var c *sighting
	who := v.Who // by itself: it is kept
	switch {
	case i < 0:
		c, asked = h.hear(ep, agent, &who, v.Door, v.Addr, v.At)
		c.told, c.since = true, v.Since
	case v.At.After(ep.copies[i].at):
		told := ep.copies[i].told
		c, asked = h.hear(ep, agent, &who, v.Door, v.Addr, v.At)
		c.told = told
	default:
		c = ep.copies[i]
	}
	if c.linked.IsZero() {
		c.linked = v.Linked
	}
	if v.Open {
		c.open, c.left = node, false
		if now.After(c.at) && i < 0 { // its link speaks for it
			c.at = now
		}
	} else if c.open == node || c.open == "" && c.told && !v.At.Before(c.at) {
		c.open, c.left = "", v.Left
	}
	return asked
}

// add puts what other nodes see over what is seen here. The freshest counts.
func (s *sight) add(elsewhere map[string]*view, name func(string) string, now time.Time) {
	var links []viewLink
	beacon := s.ep.reported()
	for node, v := range elsewhere {
		at := name(node)
		if at == "" { // it is not known yet, or ends just now
			at = "?"
		}
		for _, l := range v.Links {
			l.Node, l.AgeMS = at, now.Sub(l.Opened).Milliseconds()
			links = append(links, l)
			if l.Leaving {
				continue
			}
			switch l.State {
			case Verified:
				s.verified = true
				if l.VerifiedAt.After(s.verifyAt) {
					s.verifyAt = l.VerifiedAt
				}
			case Degraded:
				s.degraded = true
			}
		}
		if !v.Unacked.IsZero() && (s.unacked.IsZero() || v.Unacked.Before(s.unacked)) {
			s.unacked = v.Unacked
		}
		s.duplicate = s.duplicate || v.Identity == identityDuplicate && len(v.Links) > 0
		s.ep.seen(v.SeenAt, v.Via, v.Addr)
		if v.VerifiedAt.After(s.ep.verifiedAt) {
			s.ep.verifiedAt = v.VerifiedAt
		}
		if v.BeaconAt.After(beacon.at) {
			beacon.at, s.ep.stopped, s.ep.isolated = v.BeaconAt, v.Stopped, v.Isolated
		}
		if v.DeliverAt.After(s.ep.deliverAt) {
			s.ep.deliverAt = v.DeliverAt
		}
		if v.VerdictAt.After(s.ep.verdictAt) {
			s.ep.verdict, s.ep.sentence, s.ep.verdictAt, beacon.findings = v.Verdict, v.Sentence, v.VerdictAt, v.Findings
		}
		if s.ep.skew == nil {
			s.ep.skew = v.Skew
		}
	}
	s.ep.beacon = &beacon
	if s.ep.seenAt.Sub(beacon.at) > stoppedFor { // it was heard again, at another node
		s.ep.stopped = false
	}
	if len(links) == 0 {
		return
	}
	s.ep.stopped = false
	slices.SortFunc(links, func(a, b viewLink) int { return cmp.Compare(a.Generation, b.Generation) })
	newest := links[len(links)-1]
	if len(s.links) == 0 || s.links[len(s.links)-1].Generation < newest.Generation {
		s.silent = false
		for _, v := range elsewhere {
			if n := len(v.Links); n > 0 && v.Links[n-1].Link == newest.Link {
				s.silent, s.inbound = v.Silent, v.SeenAt
			}
		}
	}
	// The agent is well by its own word since: it has left the second door.
	if code := selfcheck.Code(s.ep.verdict); s.verified && (code == selfcheck.CodeOK || code == selfcheck.CodeOKIdle) && s.ep.verdictAt.After(s.ep.deliverAt) {
		s.ep.deliverAt = time.Time{}
	}
	s.elsewhere = links
	for _, l := range links {
		s.links = append(s.links, l.LinkView)
	}
	slices.SortStableFunc(s.links, func(a, b wire.LinkView) int { return cmp.Compare(a.Generation, b.Generation) })
}

// whyElsewhere says that a link is at another node.
func whyElsewhere(l wire.LinkView) (kind, clause string) {
	switch {
	case l.State == Verified:
		return "node", "its link is at node " + l.Node + ", which offers it"
	case l.State == Connecting:
		return "node", "its new link, at node " + l.Node + ", is not verified yet"
	}
	return "node", "its link is at node " + l.Node + ", which has this against it: " + cmp.Or(l.Verdict, l.State)
}

// speaks reports whether this node is the one to tell of the agent's presence: that which
// sees it best. Call with mu held.
func (h *Hub) speaks(agent string, ep *endpoint) bool {
	if h.opts.Cluster == nil {
		return true
	}
	newest := uint64(0)
	for _, l := range ep.links {
		newest = max(newest, l.generation)
	}
	heard := ep.seenAt
	for _, v := range ep.elsewhere {
		for _, l := range v.Links {
			if l.Generation > newest {
				return false
			}
		}
		if newest == 0 && v.SeenAt.After(heard) {
			return false
		}
	}
	if newest > 0 || !ep.seenAt.IsZero() {
		return true
	}
	return h.opts.Cluster.Leads() // nobody hears of it
}

// awaited gives agents whose node has ended, and that have had the time to come back.
func (h *Hub) awaited(now time.Time) (agents []string) {
	if h.opts.Cluster == nil || !h.opts.Cluster.Leads() {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for agent, ep := range h.agents {
		if !ep.orphaned.IsZero() && selfcheck.At(now).Sub(ep.orphaned) > oobWindow {
			ep.orphaned = 0
			agents = append(agents, agent)
		}
	}
	return agents
}

// neutral takes off a link at another node what that node alone knows at this moment: an
// agent holds the counts against its own.
func neutral(links []wire.LinkView) []wire.LinkView {
	out := slices.Clone(links)
	for i := range out {
		if out[i].Node != "" {
			out[i].Read, out[i].PeerRead, out[i].Queued = math.MaxUint32, nil, 0
			out[i].PongAgeMS, out[i].PingPendingMS = nil, nil
		}
	}
	return out
}
