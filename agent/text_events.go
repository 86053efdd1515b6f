package agent

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// WriteEvents renders events for people, oldest first.
func WriteEvents(w io.Writer, list history.List, st Style) error {
	if len(list.Events) == 0 {
		kept := "Nothing is kept yet."
		if !list.From.IsZero() {
			kept = "No such event; what is kept begins " + moment.Local(list.From) + "."
		}
		_, err := fmt.Fprintln(w, kept)
		return err
	}
	for _, e := range list.Events {
		if err := WriteEvent(w, e, st); err != nil {
			return err
		}
	}
	if list.Garbled > 0 {
		_, err := fmt.Fprintf(w, "%d lines could not be understood.\n", list.Garbled)
		return err
	}
	return nil
}

// WriteEvent renders one event: when and what, and below it why and what came of it.
func WriteEvent(w io.Writer, e history.Event, st Style) error {
	p := &page{}
	head := fmt.Sprintf("%s  %s %s", moment.Local(e.At), e.Kind, e.Code)
	head += calledFor(e.Verdict)
	if e.Count > 1 {
		head += fmt.Sprintf("  (%d times, last %s)", e.Count, moment.Local(e.Last))
	}
	if e.Kind == history.KindRepeat || e.Kind == history.KindOutcome {
		head += " of " + e.Of
	}
	p.wrap("", wrap.Plain(head))
	const indent = "                     "
	if e.Kind == history.KindVerdict && e.Severity == selfcheck.SeverityWell {
		e.Detail = "" // what to do about it: nothing
	}
	for _, text := range []string{e.Sentence, e.Detail} {
		if text != "" {
			p.wrap(indent, wrap.Plain(text))
		}
	}
	for _, v := range e.Evidence {
		seen := v.Seen
		if v.Expected != "" {
			seen += " (expected " + v.Expected + ")"
		}
		p.wrap(indent+"- ", wrap.Plain(v.Fact+": "+seen))
	}
	switch {
	case e.Outcome != "" && !e.OutcomeAt.IsZero():
		p.wrap(indent+"→ ", wrap.Plain(fmt.Sprintf("%s (after %s)", e.Outcome, short(e.OutcomeAt.Sub(e.At)))))
	case e.Outcome != "":
		p.wrap(indent+"→ ", wrap.Plain(e.Outcome))
	}
	text := p.b.String()
	if first, rest, ok := strings.Cut(text, "\n"); ok && e.Severity != "" {
		text = st.paint(e.Severity, first) + "\n" + rest
	}
	_, err := io.WriteString(w, text)
	return err
}

// calledFor says which verdict a step was taken for.
func calledFor(code selfcheck.Code) string {
	switch code {
	case "":
		return ""
	case selfcheck.CodeOK, selfcheck.CodeOKIdle: // nothing called for it: somebody ordered it
		return " while " + string(code)
	}
	return " for " + string(code)
}

// tcp shows what the kernel says of the connection below the link.
func (p *page) tcp(t *selfcheck.TCPFacts) {
	if t == nil {
		return
	}
	said := []string{cmp.Or(t.State, "state unknown")}
	if t.RTT != nil {
		said = append(said, "round trip "+short(*t.RTT))
	}
	for _, n := range []struct {
		n    *uint64
		what string
	}{{t.Unread, "unread"}, {t.Unacked, "not acknowledged"}, {t.Retransmitted, "sent again"}} {
		if n.n != nil {
			said = append(said, size(*n.n)+" bytes "+n.what)
		}
	}
	if t.Timeouts != nil && *t.Timeouts > 0 {
		said = append(said, fmt.Sprintf("%d timeouts in a row", *t.Timeouts))
	}
	p.wrap("tcp       ", strings.Join(said, ", "))
}

// PolicyValue is one value of the policy in force.
type PolicyValue struct {
	Name    string `json:"name"` // as in the policy file
	Value   string `json:"value"`
	Default bool   `json:"default"`
	Means   string `json:"means"`
}

// PolicyReport is what `policy show` tells.
type PolicyReport struct {
	Version int64         `json:"version"`
	Source  string        `json:"source"` // default, server or directive
	Values  []PolicyValue `json:"values"`
}

// ReportPolicy explains p.
func ReportPolicy(p wire.Policy, source string) PolicyReport {
	r, d := PolicyReport{Version: p.Version, Source: source}, wire.DefaultPolicy()
	span := func(name string, v, def int64, means string) {
		r.Values = append(r.Values, PolicyValue{name, (time.Duration(v) * time.Millisecond).String(), v == def, means})
	}
	count := func(name string, v, def int, means string) {
		r.Values = append(r.Values, PolicyValue{name, fmt.Sprint(v), v == def, means})
	}
	span("heartbeat_ms", p.HeartbeatMS, d.HeartbeatMS, "between two heartbeats on the link")
	span("metrics_ms", p.MetricsMS, d.MetricsMS, "between two sets of figures")
	span("ping_ms", p.PingMS, d.PingMS, "between two ledger pings")
	span("dead_ms", p.DeadMS, d.DeadMS, "without any frame: the link is dead")
	span("verify_ms", p.VerifyMS, d.VerifyMS, "a new link must be verified within")
	span("beacon_well_ms", p.BeaconWellMS, d.BeaconWellMS, "between two beacons when well")
	span("beacon_ill_ms", p.BeaconIllMS, d.BeaconIllMS, "between two beacons when not")
	span("poll_ms", p.PollMS, d.PollMS, "the server may hold a poll so long")
	span("backoff_min_ms", p.BackoffMinMS, d.BackoffMinMS, "first wait between attempts")
	span("backoff_max_ms", p.BackoffMaxMS, d.BackoffMaxMS, "longest wait between attempts")
	span("stable_ms", p.StableMS, d.StableMS, "a link that holds so long is trusted")
	span("retry_link_ms", p.RetryLinkMS, d.RetryLinkMS, "link tried again while out of band")
	count("reconnects_per_hour", p.ReconnectsPerHour, d.ReconnectsPerHour, "forced reconnects, each verdict")
	count("restarts_per_hour", p.RestartsPerHour, d.RestartsPerHour, "restarts of the worker")
	count("max_jobs", p.MaxJobs, d.MaxJobs, "commands that run at once")
	r.Values = append(r.Values,
		PolicyValue{"oob", cmp.Or(strings.Join(doorURLs(p.OOB), " "), "as enrolled"), len(p.OOB) == 0, "second doors before those of the enrollment"},
		PolicyValue{"link_urls", cmp.Or(strings.Join(p.LinkURLs, " "), "as enrolled"), len(p.LinkURLs) == 0, "where the link is dialed"},
		PolicyValue{"hold_recovery", fmt.Sprint(p.HoldRecovery), !p.HoldRecovery, "no forced reconnects and restarts"},
		PolicyValue{"spread_recovery_ms", fmt.Sprint(p.SpreadRecoveryMS), p.SpreadRecoveryMS == 0, "forced steps wait up to so long, spread"},
		PolicyValue{"no_bundles", fmt.Sprint(p.NoBundles), !p.NoBundles, "no support bundles by itself"})
	return r
}

// WritePolicy renders r for people.
func WritePolicy(w io.Writer, r PolicyReport) error {
	p := &page{}
	from := map[string]string{"default": "the built-in defaults", "server": "the server", "directive": "a directive of the server"}[r.Source]
	p.wrap("", fmt.Sprintf("Policy %d, from %s.", r.Version, cmp.Or(from, "an unknown source")))
	p.line("")
	for _, v := range r.Values {
		mark := ""
		if v.Default {
			mark = " (default)"
		}
		p.wrap(fmt.Sprintf("%-20s", v.Name), wrap.Plain(v.Value)+mark+" – "+v.Means)
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

// Progress tells, in one line, how far an ordered reconnect is; done: a link other
// than old is verified.
func Progress(s local.Status, old wire.LinkID) (line string, done bool) {
	l := s.Snapshot.Link
	line = cmp.Or(string(l.Phase), "unknown")
	if l.Failure != nil {
		line += ", last error " + l.Failure.String()
	}
	return wrap.Plain(line), l.Phase == selfcheck.PhaseVerified && l.ID != old
}
