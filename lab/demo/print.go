package demo

import (
	"fmt"
	"io"
	"strings"
	"time"

	"gururmm/internal/wrap"
	"gururmm/operator"
)

// PrintTrace writes a command's way, one stage a line, as an operator reads it.
func PrintTrace(w io.Writer, t operator.Trace) {
	fmt.Fprintf(w, "trace %s: %s\n", t.Command.ID, t.Command.State)
	var began time.Time
	for _, e := range t.Entries {
		if began.IsZero() {
			began = e.At
		}
		head := fmt.Sprintf("%+10.3f s  %-14s  %-6s  %d  %-4s  ", e.At.Sub(began).Seconds(), e.Stage, e.End, e.Attempt, e.Channel)
		for _, line := range wrap.Lines(e.Note, wrap.Width-len(head)) {
			fmt.Fprintln(w, strings.TrimRight(head+line, " "))
			head = strings.Repeat(" ", len(head))
		}
	}
	for _, line := range wrap.Lines(t.Stopped, wrap.Width) {
		fmt.Fprintln(w, line)
	}
}

// Print writes what the timeline has not told: the rescued command's way, the
// claims and figures, and last the summary in one line.
func Print(w io.Writer, r Report) {
	if r.Rescued.Command.ID != "" {
		fmt.Fprintln(w)
		PrintTrace(w, r.Rescued)
	}
	fmt.Fprintln(w)
	PrintFindings(w, r)
	if r.Dir != "" {
		fmt.Fprintf(w, "\nstate and logs: %s\n", r.Dir)
	}
	fmt.Fprintf(w, "\n%s\n", r.Summary)
}

// PrintFindings writes claims and figures, one a line.
func PrintFindings(w io.Writer, r Report) {
	mark := map[bool]string{true: "held", false: "NOT HELD"}
	for _, c := range r.Claims {
		fmt.Fprintf(w, "%-8s  %s\n", mark[c.Held], c.Claim)
		if !c.Held && c.Detail != "" {
			for _, line := range wrap.Lines(c.Detail, wrap.Width-10) {
				fmt.Fprintf(w, "%10s%s\n", "", line)
			}
		}
	}
	for _, f := range r.Figures {
		value, limit, unit := f.Value, f.Limit, f.Unit
		if unit == "bytes" {
			value, limit, unit = value/(1<<20), limit/(1<<20), "MB"
		}
		line := fmt.Sprintf("%.1f %s  %s", value, unit, f.Figure)
		if f.Limit > 0 {
			line += fmt.Sprintf(" (at most %.0f)", limit)
		}
		head := mark[f.Held]
		for _, part := range wrap.Lines(line, wrap.Width-10) {
			fmt.Fprintf(w, "%-8s  %s\n", head, part)
			head = ""
		}
	}
}
