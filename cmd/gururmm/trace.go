package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

func traceCommand(f *operatorFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "trace COMMAND",
		Short: "Tell a command's way, stage by stage, and where it stopped",
		Long: "Tell a command's way, like a route: each stage of each attempt, which end saw it, when,\n" +
			"how long after the command was accepted and after the stage before. A star is the\n" +
			"stage that was not heard of; where its loss is proven, the line below says by what.\n" +
			"What the agent timed is put on the server's clock, and said so if that moved it.\n" +
			"COMMAND is an id, its beginning, or its end as a timeline prints it.",
		Example: "  gururmm trace 01a20b84",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			t, err := client.Trace(cmd.Context(), args[0])
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			return printTrace(cmd.OutOrStdout(), t)
		},
	}
}

// tellClock: less than this moves no time as it is printed.
const tellClock = time.Millisecond

// hop is a line of a trace, and what stands below it.
type hop struct {
	cells []string // none: below stands alone
	below string
}

func printTrace(w io.Writer, t operator.Trace) error {
	c := t.Command
	fmt.Fprintf(w, "command %s: %s", c.ID, c.State)
	if c.ExitCode != nil {
		fmt.Fprintf(w, ", exit %d", *c.ExitCode)
	}
	name := oneLine(c.AgentName, 24)
	fmt.Fprintf(w, "\n  on %s: %s\n", name, oneLine(c.Script, wrap.Width-len("  on : ")-utf8.RuneCountInString(name)))
	fmt.Fprintln(w, wrap.Behind("  ", "accepted "+moment.Aged(c.CreatedAt, time.Now())))
	if said := outputCut(c); said != "" {
		fmt.Fprintln(w, wrap.Behind("  ", wrap.Plain(said)))
	}
	hops := route(t)
	rows := [][]string{{"  ", "STAGE", "SEEN BY", "TIME", right("AFTER"), right("STEP")}}
	for _, h := range hops {
		if h.cells != nil {
			rows = append(rows, h.cells)
		}
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for _, h := range hops {
		if h.cells != nil {
			lines = lines[1:]
			fmt.Fprintln(w, lines[0])
		}
		if h.below != "" {
			fmt.Fprintln(w, wrap.Behind("    ", wrap.Plain(h.below)))
		}
	}
	if off := time.Duration(t.AgentClockUS) * time.Microsecond; off.Abs() >= tellClock {
		way := "forward"
		if off < 0 {
			way = "back"
		}
		fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("Times are by the server's clock; those of the agent are by its own, set %s by %v to fit between them.", way, off.Abs().Round(100*time.Microsecond))))
	}
	_, err := fmt.Fprintln(w, wrap.Behind("", wrap.Plain(t.Stopped)))
	return err
}

// route makes lines of a trace, attempt by attempt.
func route(t operator.Trace) (hops []hop) {
	c := t.Command
	clock := "15:04:05.000"
	if slices.ContainsFunc(t.Entries, func(e operator.TraceEntry) bool {
		return e.At.Local().Format(time.DateOnly) != c.CreatedAt.Local().Format(time.DateOnly)
	}) {
		clock = "01-02 15:04:05.000"
	}
	var attempts []int
	of := map[int][]operator.TraceEntry{}
	for _, e := range t.Entries {
		if of[e.Attempt] == nil {
			attempts = append(attempts, e.Attempt)
		}
		of[e.Attempt] = append(of[e.Attempt], e)
	}
	slices.Sort(attempts)
	n, before := 0, c.CreatedAt
	for _, attempt := range attempts {
		entries := of[attempt]
		slices.SortStableFunc(entries, func(a, b operator.TraceEntry) int { return a.At.Compare(b.At) })
		if attempt > 0 {
			hops = append(hops, hop{below: heading(attempt, entries)})
		}
		silent := silentAt(entries, attempt == c.Attempts && c.AckedAt == nil)
		for _, e := range entries {
			mark, step := "!", ""
			if station(e.Stage) >= 0 {
				n++
				mark = fmt.Sprint(n)
			} else if silent != "" {
				hops, silent = append(hops, unheard(silent)), ""
			}
			if len(hops) > 0 {
				step = lasted(max(0, e.At.Sub(before)))
			}
			before = e.At
			h := hop{cells: []string{fmt.Sprintf("%2s", mark), string(e.Stage), e.End, e.At.Local().Format(clock), right("+" + lasted(max(0, e.At.Sub(c.CreatedAt)))), right(step)}}
			if h.below = e.Note; e.Proof != nil && e.Proof.Later() != "" {
				h.below = proofOf(*e.Proof)
			}
			hops = append(hops, h)
		}
		if silent != "" {
			hops = append(hops, unheard(silent))
		}
	}
	return hops
}

// heading names an attempt and its door.
func heading(attempt int, entries []operator.TraceEntry) string {
	by, link, told := wire.Channel(""), "", ""
	for _, e := range entries {
		given := e.Stage == wire.StageClaimed || e.Stage == wire.StageWritten
		if by == "" || given {
			by = cmp.Or(e.Channel, by)
		}
		link = cmp.Or(link, e.Link)
	}
	for _, e := range entries {
		if e.Channel == wire.ChannelOOB && by == wire.ChannelLink {
			told = ", told of by the second door"
		}
	}
	switch by {
	case wire.ChannelLink:
		return fmt.Sprintf("attempt %d by the link %s%s", attempt, link, told)
	case wire.ChannelOOB:
		return fmt.Sprintf("attempt %d by the second door", attempt)
	}
	return fmt.Sprintf("attempt %d", attempt)
}

// station is a stage's place in a command's life; -1: it is none.
func station(s wire.Stage) int { return slices.Index(wire.Stages, s) }

// silentAt is the first stage of an attempt that nothing was heard of, where it stopped; "":
// it went on, or is waited for no more. open: it is the one that is under way.
func silentAt(entries []operator.TraceEntry, open bool) wire.Stage {
	far, over := station(wire.StageAccepted), false
	for _, e := range entries {
		switch e.Stage {
		case "lost", "released":
			over = true
		case "refused", "cancel":
			return ""
		}
		far = max(far, station(e.Stage))
	}
	if far >= station(wire.StageAckRead) || far == 0 || !over && !open {
		return ""
	}
	return wire.Stages[far+1]
}

// unheard is the line of a stage that nothing was heard of.
func unheard(s wire.Stage) hop {
	end := "agent"
	if s == wire.StageClaimed || s == wire.StageWritten || s == wire.StageAckRead {
		end = "server"
	}
	return hop{cells: []string{" *", string(s), end, "*", right("*"), right("*")}}
}

// proofOf says what proves a loss, and who counted.
func proofOf(p operator.Proof) string {
	prove := "prove"
	if p.Pings+p.Heartbeats == 1 {
		prove = "proves"
	}
	at := "at " + p.Last.Local().Format("15:04:05.000")
	if !p.First.Equal(p.Last) {
		at = "from " + p.First.Local().Format("15:04:05.000") + " to " + p.Last.Local().Format("15:04:05.000")
	}
	said := fmt.Sprintf("lost between written and read: %s %s it (%s). ", p.Later(), prove, p.Verdict)
	if p.End == "agent" {
		said += fmt.Sprintf("They came to the agent %s: %d texts written before them, by the server's count, and %d read, by the agent's own.", at, p.Written, p.Read)
	} else {
		said += fmt.Sprintf("They came to the server %s: %d texts written before them, by the server's own count, and %d read, by the agent's.", at, p.Written, p.Read)
	}
	if p.Text > 0 {
		said += fmt.Sprintf(" This command was text %d.", p.Text)
	}
	return said
}

func right(s string) string { return fmt.Sprintf("%10s", s) }

// lasted is a duration with a digit behind the point, in a unit that suits it.
func lasted(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	case d < 10*time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
