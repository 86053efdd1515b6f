package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/diagnosis/timeline"
	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/operator"
)

const (
	// around a command's life is shown what happened just before and after it.
	aroundCommand = 10 * time.Second
	// commandLife is how much older than the window a command may be that has stages in it.
	commandLife = time.Hour
)

// when is a flag for a moment: so long back, or a date.
type when struct {
	back time.Duration
	at   time.Time
	text string
}

func (w *when) String() string { return w.text }
func (w *when) Type() string   { return "time" }

func (w *when) Set(s string) error {
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		*w = when{back: d, text: s}
		return nil
	}
	for _, form := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(form, s, time.Local); err == nil {
			*w = when{at: t, text: s}
			return nil
		}
	}
	return errors.New("neither so long back nor a time")
}

// time is the moment meant, as of now; zero: none was given.
func (w *when) time(now time.Time) time.Time {
	if w.back > 0 {
		return now.Add(-w.back)
	}
	return w.at
}

func timelineCommand(f *operatorFlags) *cobra.Command {
	var since, until when
	var command string
	var limit int
	var all bool
	cmd := &cobra.Command{
		Use:   "timeline AGENT|--command ID",
		Short: "Tell what both ends saw of an endpoint, in order of time",
		Long: "Merge what both ends saw of an endpoint, the oldest first and on the server's clock:\n" +
			"stages of its commands, links, presence, its own verdicts, reports with both ends'\n" +
			"counts, the steps it took and what came of them, its processes, and your orders. Each\n" +
			"line says who saw it, and how long after the line before.\n\n" +
			"What goes as it should has one line; -v shows all of it. --command narrows it to one\n" +
			"command's life, with each stage. With --json everything in the window is there.",
		Example: "  gururmm timeline web-17 --since 2h\n  gururmm timeline web-17 --since 2026-11-24T03:00 --until 2026-11-24T04:00\n  gururmm timeline --command 01a20b84",
		Args:    help.Words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkCount("limit", limit); err != nil {
				return err
			}
			if len(args) == 0 && command == "" {
				return errors.New("of what? give AGENT, or --command ID")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			now := time.Now()
			w := timeline.Window{Since: since.time(now), Until: until.time(now)}
			ref := ""
			if len(args) == 1 {
				ref = args[0]
			}
			if command != "" {
				t, err := client.Trace(cmd.Context(), command)
				if err != nil {
					return explain(err)
				}
				if w.Command = t.Command.ID; ref == "" {
					ref = t.Command.Agent
				}
				if w.Since.IsZero() {
					w.Since = t.Command.CreatedAt.Add(-aroundCommand)
				}
				if w.Until.IsZero() && t.Command.EndedAt != nil {
					w.Until = t.Command.EndedAt.Add(aroundCommand)
				}
			}
			if w.Since.IsZero() {
				w.Since = now.Add(-24 * time.Hour)
			}
			if !w.Until.IsZero() && !w.Until.After(w.Since) {
				return fmt.Errorf("--until %s is not after --since", until.text)
			}
			h, err := heldTimeline(cmd.Context(), client, ref, w.Since)
			if err != nil {
				return explain(err)
			}
			entries := timeline.Of(h, w)
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[timeline.Entry]{Items: append([]timeline.Entry{}, entries...)})
			}
			return printTimeline(cmd.OutOrStdout(), h, w, entries, limit, all || command != "")
		},
	}
	cmd.Flags().Var(&since, "since", "from then on: so long back, or a time (default: 24h)")
	cmd.Flags().Var(&until, "until", "up to then")
	cmd.Flags().StringVar(&command, "command", "", "one command's life, by its id or the beginning or end of it")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many lines, the newest; not with --json")
	cmd.Flags().BoolVarP(&all, "verbose", "v", false, "show what goes as it should, too")
	return cmd
}

// heldTimeline asks the server for what it holds of an agent since then.
func heldTimeline(ctx context.Context, client *operator.Client, ref string, since time.Time) (h timeline.Held, err error) {
	if h.Agent, err = client.Agent(ctx, ref); err != nil {
		return h, err
	}
	id := h.Agent.ID
	h.Now = time.Now()
	back := max(time.Second, h.Now.Sub(since))
	if h.Events, err = client.AgentEvents(ctx, operator.EventFilter{Agent: id, Within: min(back, maxBack), Limit: operator.MaxEvents}); err != nil {
		return h, err
	}
	if h.Traces, err = client.Traces(ctx, id, min(back+commandLife, maxBack), operator.MaxEvents); err != nil {
		return h, err
	}
	if h.Beacons, err = client.Beacons(ctx, id, operator.MaxEvents); err != nil {
		return h, err
	}
	h.Directives, err = client.Directives(ctx, id, operator.MaxEvents)
	return h, err
}

// maxBack is how far back a server can be asked: it keeps no event for longer.
const maxBack = 90 * 24 * time.Hour

func printTimeline(w io.Writer, h timeline.Held, window timeline.Window, entries []timeline.Entry, limit int, all bool) error {
	shown := entries
	if !all {
		shown = timeline.Major(entries)
	}
	minor := len(entries) - len(shown)
	left := max(0, len(shown)-limit)
	shown = shown[left:]
	until := window.Until
	if until.IsZero() || until.After(h.Now) {
		until = h.Now
	}
	fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("%s, %s to %s", oneLine(h.Agent.Name, 40), moment.Local(window.Since), moment.Local(until))))
	clock := "Times are by the server's clock"
	if off := h.Agent.ClockSkew; off != nil {
		clock += "; what the agent timed is set right by its clock's distance, " + (time.Duration(*off) * time.Millisecond).String()
	}
	fmt.Fprintln(w, wrap.Behind("", clock+"."))
	switch {
	case len(shown) == 0 && minor == 0:
		fmt.Fprintln(w, "Nothing was seen.")
	case minor > 0:
		fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("What went as it should is left out: %d more with -v.", minor)))
	}
	if left > 0 {
		fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("Of what was before, %d more with a higher --limit.", left)))
	}
	day, before := "", time.Time{}
	var said []string // lately, so that nobody has to read it twice
	for _, e := range shown {
		if d := e.At.Local().Format(time.DateOnly); d != day {
			fmt.Fprintln(w, "\n"+d)
			day = d
		}
		gap := ""
		if !before.IsZero() {
			gap = "+" + gapOf(e.At.Sub(before))
		}
		before = e.At
		head := fmt.Sprintf("%s %9s  %-8s  ", e.At.Local().Format("15:04:05.000"), gap, e.End)
		if _, err := fmt.Fprintln(w, wrap.Behind(head, wrap.Plain(e.What))); err != nil {
			return err
		}
		why := e.Why
		for _, s := range said {
			why = strings.Replace(why, s, "(as above)", 1)
		}
		if why == "" || why == "(as above)" {
			continue
		}
		if len(e.Why) > sentence {
			said = append(said[max(0, len(said)-9):], e.Why)
		}
		if _, err := fmt.Fprintln(w, wrap.Behind(strings.Repeat(" ", len(head)+2), wrap.Plain(why))); err != nil {
			return err
		}
	}
	return nil
}

// sentence: shorter words than these are told again.
const sentence = 40

// gapOf is how long after the line before.
func gapOf(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	case d < 100*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
