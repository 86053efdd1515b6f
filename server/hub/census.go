package hub

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/selfcheck"
)

// Presences are all words that an agent's presence can be.
func Presences() []string {
	return []string{Verified, Degraded, OutOfBand, Connecting, Silent, Offline, Quarantined, Duplicate}
}

// OtherVerdict stands in a [Census] for what an agent said that is no verdict known here:
// its text is its own, and would be a count of its own.
const OtherVerdict = "other"

// LinkCount is what a [Census] counts links by.
type LinkCount struct {
	State   string // verified, degraded or connecting
	Verdict string // as [CodeOf] gives it; empty: nothing is wrong
}

// Census counts agents and links at one moment.
type Census struct {
	// Agents by presence, of those heard of since this process began; nil, as Verdicts: the node
	// of a cluster that leads tells of the fleet.
	Agents   map[string]int
	Verdicts map[string]int // by an agent's last word on itself; those that are offline left out
	Links    map[LinkCount]int
}

// Census looks at each agent in turn; no lock is held for longer than one takes.
func (h *Hub) Census() Census {
	h.mu.Lock()
	agents := slices.Collect(maps.Keys(h.agents))
	h.mu.Unlock()
	fleet := h.opts.Cluster == nil || h.opts.Cluster.Leads()
	c := Census{Agents: map[string]int{}, Verdicts: map[string]int{}, Links: map[LinkCount]int{}}
	now := time.Now()
	for _, agent := range agents {
		s := h.sight(agent, now)
		if s.ep.removed {
			continue
		}
		presence := s.presence(now)
		c.Agents[presence]++
		if presence != Offline {
			c.Verdicts[s.said()]++
		}
		for _, l := range s.links {
			if l.Node != "" { // that node counts it
				continue
			}
			c.Links[LinkCount{l.State, CodeOf(l.Verdict)}]++
		}
	}
	if !fleet {
		c.Agents, c.Verdicts = nil, nil
	}
	return c
}

// said is the verdict on an agent: its own last word, unless it says that all is well and
// a link shows a fault from here.
func (s sight) said() string {
	code := CodeOf(s.ep.verdict)
	if s.duplicate {
		code = string(selfcheck.CodeRouteDuplicate)
	}
	for _, l := range s.links {
		if l.Verdict != "" && !faulty(selfcheck.Code(code)) {
			code = CodeOf(l.Verdict)
		}
	}
	return code
}

// CodeOf gives a verdict as a [Census] counts it: its code without what was added to it
// ("link.text.lost suspected"), or OtherVerdict. An agent can't make up more of them.
func CodeOf(verdict string) string {
	word, _, _ := strings.Cut(verdict, " ")
	code := selfcheck.Code(word)
	if strings.HasPrefix(word, string(selfcheck.CodeAgentStalled)+".") {
		code = selfcheck.CodeAgentStalled // whichever stage
	}
	title, _, _ := selfcheck.Describe(code)
	if code != selfcheck.CodeAgentStalled && title == "" {
		return OtherVerdict
	}
	return string(code)
}

// endings names what a link's end is counted as.
var endings = []struct {
	cause error
	word  string
}{
	{errReplaced, "replaced"}, {errNoPong, "no_pong"}, {errDead, "dead"}, {errUnverified, "unverified"},
	{errUnwritten, "unwritten"}, {errFlooded, "flooded"}, {errQuarantined, "quarantined"},
	{errRemoved, "removed"}, {errRefused, "too_many"}, {errLeaseLost, "lease_lost"},
}

// ends counts the links that the server ended or refused.
type ends struct {
	mu sync.Mutex
	by map[string]uint64
}

func (e *ends) add(cause error) {
	for _, end := range endings {
		if errors.Is(cause, end.cause) {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.by == nil {
				e.by = map[string]uint64{}
			}
			e.by[end.word]++
			return
		}
	}
}

// Evictions counts, by reason, the links that this server ended or refused since its
// start: not those that their agent, the network or the drain ended.
func (h *Hub) Evictions() map[string]uint64 {
	out := map[string]uint64{}
	for _, end := range endings {
		out[end.word] = 0
	}
	h.ends.mu.Lock()
	defer h.ends.mu.Unlock()
	maps.Copy(out, h.ends.by)
	return out
}

// Draining tells why no link is taken any more; nil: links are.
func (h *Hub) Draining() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}
