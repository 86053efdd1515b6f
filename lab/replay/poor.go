package replay

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"gururmm/diagnosis"
	"gururmm/internal/wrap"
)

// Named is what the engine makes of a run, by what the described server records: no ledger,
// no stage of the agent's, no verdict, no second door.
type Named struct {
	Mechanism string `json:"mechanism"` // that ran
	Reading   string `json:"reading,omitempty"`
	// First is the ranking's first by what it records, WithPongs if it counted pongs, too,
	// and WithEffect if somebody also looked whether a command ran.
	First      diagnosis.Leader `json:"first"`
	Word       string           `json:"word"`
	WithPongs  diagnosis.Leader `json:"with_pongs"`
	WithEffect diagnosis.Leader `json:"with_effect"`
	Proven     bool             `json:"proven"`
}

// Poor replays each mechanism and has the engine name it by what the described protocol
// shows, the case's own tests made.
func Poor() (all []Named) {
	for _, m := range mechanisms() {
		if m.id == "agent.dispatcher" && m.olderRules != nil {
			continue // two faults at once
		}
		s := run(m)
		c := s.records()
		a := diagnosis.Diagnose(c)
		n := Named{Mechanism: m.id, Reading: m.gloss, First: leader(a), Word: a.Confidence.Word, Proven: a.Confidence.Word == diagnosis.WordProven}
		add := func(name string, yesno bool) {
			c.Observations = append(c.Observations, diagnosis.Observation{Name: name, Value: yes(yesno), Grade: diagnosis.OneEnd, Source: "the model"})
		}
		add("pong.up", s.row.Pongs)
		n.WithPongs = leader(diagnosis.Diagnose(c))
		add("stage.started", s.row.Ran)
		n.WithEffect = leader(diagnosis.Diagnose(c))
		all = append(all, n)
	}
	return all
}

func leader(a diagnosis.Answer) diagnosis.Leader {
	r := a.Ranking[0]
	return diagnosis.Leader{ID: r.ID, Title: r.Title, Probability: r.Probability}
}

// records is the case that the described server's database and log make of a run.
func (s seen) records() diagnosis.Case {
	c := diagnosis.Case{Version: diagnosis.CaseVersion, Subject: s.row.Mechanism}
	say := func(name, value string, g diagnosis.Grade) {
		c.Observations = append(c.Observations, diagnosis.Observation{Name: name, Value: value, Grade: g, Source: "the model"})
	}
	pick := func(is bool, then, other string) string {
		if is {
			return then
		}
		return other
	}
	say("stage.ack_read", yes(s.acked), diagnosis.OneEnd)
	say("stage.result_stored", yes(s.stored), diagnosis.OneEnd)
	say("enqueue", pick(s.taken, "accepted", "refused"), diagnosis.OneEnd)
	say("text.up", yes(s.cells["T5"]), diagnosis.OneEnd)
	say("heard", pick(s.heard, "now", "no"), diagnosis.OneEnd)
	say("fleet", pick(s.cells["T10"], "fine", "all"), diagnosis.OneEnd)
	say("drops", pick(s.row.Links < 3, "rare", "often"), diagnosis.OneEnd)
	// Its log has each link, and the agent's source the place of the deadline.
	say("silence", pick(s.row.Links < 3, "none_in_loop", "reconnected"), diagnosis.Inferred)
	if !s.largeAcked && s.acked {
		say("sizes", "large", diagnosis.OneEnd)
	}
	if !s.acked {
		if !s.largeAcked {
			say("sizes", "alike", diagnosis.OneEnd)
		}
		say("cleared", pick(s.cells["T3"], "no_help", "helps"), diagnosis.OneEnd)
		if s.evicted {
			say("fresh_link", pick(s.cells["T8"], "no_help", "cured"), diagnosis.OneEnd)
		}
		if s.cells["first"] {
			say("history", "first_link", diagnosis.OneEnd)
		}
	}
	return c
}

// PrintPoor writes what was named.
func PrintPoor(w io.Writer, all []Named) error {
	first, pongs, effect, proven := 0, 0, 0, 0
	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "NAMED\tWITH PONGS\tAND ITS EFFECT")
	mark := func(l diagnosis.Leader, n Named, count *int) string {
		if l.ID == n.Mechanism {
			*count++
			return fmt.Sprintf("it, %.0f%%", l.Probability*100)
		}
		return fmt.Sprintf("%s, %.0f%%", l.ID, l.Probability*100)
	}
	for _, n := range all {
		fmt.Fprintln(out, strings.Join([]string{mark(n.First, n, &first), mark(n.WithPongs, n, &pongs), mark(n.WithEffect, n, &effect)}, "\t"))
		if n.Proven {
			proven++
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	lines := strings.Split(table.String(), "\n")
	fmt.Fprintf(w, "RAN, AND ITS READING\n    %s\n", lines[0])
	for i, n := range all {
		said := n.Mechanism
		if n.Reading != "" {
			said += ": " + n.Reading
		}
		fmt.Fprintf(w, "%s\n    %s\n", wrap.Behind("", said), lines[i+1])
	}
	_, err := fmt.Fprintf(w, "\n%s\n", wrap.Behind("", fmt.Sprintf("The mechanism that ran is first in %d of %d; had the server counted pongs, in %d; with a command whose effect is seen, in %d. Proven: %d.", first, len(all), pongs, effect, proven)))
	return err
}
