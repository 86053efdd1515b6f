package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

const (
	// jobEvery is how often a job that is followed is asked for.
	jobEvery = time.Second
	// tellJobEvery is how often its progress is told where lines can't be drawn anew.
	tellJobEvery = 10 * time.Second
)

// manyFlags choose many endpoints, and how a job treats them.
type manyFlags struct {
	pick        operator.Pick
	atOnce      int
	stopAfter   string
	yes, output bool
}

func (m *manyFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&m.pick.All, "all", false, "on all endpoints")
	fs.StringSliceVar(&m.pick.Sites, "site", nil, "on those of this site, or of one of these")
	fs.StringSliceVar(&m.pick.Tags, "tag", nil, "on those with this tag, or with all of these")
	fs.StringSliceVar(&m.pick.Agents, "agents", nil, "on these (names or ids)")
	fs.StringSliceVar(&m.pick.Except, "except", nil, "but not on these (names or ids)")
	fs.IntVar(&m.atOnce, "at-once", 0, "of many: at most so many at the same time, of those that are there (default: all)")
	fs.StringVar(&m.stopAfter, "stop-after-failures", "", "of many: once so many failed, a number or a share (5%), no other begins")
	fs.BoolVar(&m.yes, "yes", false, "of many: do not ask")
	fs.BoolVar(&m.output, "output", false, "of many: print at the end what they wrote, the same once")
	help.Apart(cmd, "all", "site", "agents")
	help.Apart(cmd, "all", "tag", "agents")
}

// chosen tells whether many endpoints are chosen, by what they have in common or one by one.
func (m *manyFlags) chosen() bool {
	return m.pick.All || len(m.pick.Sites)+len(m.pick.Tags)+len(m.pick.Agents) > 0
}

// check refuses what means nothing of one endpoint.
func (m *manyFlags) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("at-once") {
		if err := checkCount("at-once", m.atOnce); err != nil {
			return err
		}
	}
	for _, flag := range []string{"except", "at-once", "stop-after-failures", "yes", "output"} {
		if cmd.Flags().Changed(flag) && !m.chosen() {
			return fmt.Errorf("--%s is for many endpoints: give --all, --site, --tag or --agents", flag)
		}
	}
	return nil
}

// manyWords checks the words of a job's command line: all of them are the command.
func manyWords(cmd *cobra.Command, args []string) error {
	file := cmd.Flags().Changed("file")
	switch {
	case len(args) == 0 && !file:
		return errors.New("what is to be run? gururmm exec --all -- CMD")
	case len(args) > 0 && file:
		return errors.New("give either --file or words after --, not both")
	case len(args) > 0 && cmd.ArgsLenAtDash() != 0:
		return fmt.Errorf("%s: give an AGENT, or --all, --site, --tag or --agents; and put -- before the command", quote(args[0]))
	}
	return nil
}

// run begins a job and follows it.
func (m *manyFlags) run(cmd *cobra.Command, f *operatorFlags, client *operator.Client, detach bool, n operator.NewJob) error {
	n.Pick, n.AtOnce, n.StopAfterFailures = m.pick, m.atOnce, m.stopAfter
	if !m.yes {
		n.Preview = true
		seen, err := client.Run(cmd.Context(), n)
		if err != nil {
			return explain(err)
		}
		if seen.Endpoints > 1 {
			ok, err := confirm(cmd, wrap.Behind("", whom(seen)), "", indent(n.Script), "")
			if err != nil {
				return fmt.Errorf("%s are chosen: %w", plural(seen.Endpoints, "endpoint"), err)
			}
			if !ok {
				return errors.New("nothing was begun")
			}
		}
		n.Preview, n.Expect = false, &seen.Endpoints
	}
	j, err := client.Run(cmd.Context(), n)
	if err != nil {
		return explain(err)
	}
	if detach {
		if f.json {
			return printJSON(cmd.OutOrStdout(), j)
		}
		fmt.Fprintln(cmd.OutOrStdout(), j.ID)
		return nil
	}
	w := &jobWatch{client: client, last: j, err: cmd.ErrOrStderr(), quiet: f.json}
	if err := w.run(cmd.Context()); err != nil {
		return err
	}
	v := jobView{client: client, out: cmd.OutOrStdout(), json: f.json, output: m.output, most: shownEndpoints}
	if err := v.show(cmd.Context(), w.last); err != nil {
		return &exitError{exitNoCode, explain(err)}
	}
	if w.last.Counts.Completed != w.last.Counts.Total() {
		return &exitError{code: 1}
	}
	return nil
}

// whom names the endpoints of a job that was not begun.
func whom(j operator.Job) string {
	var names []string
	for _, n := range j.Names {
		names = append(names, oneLine(n, 40))
	}
	said := fmt.Sprintf("This runs on %s: %s", plural(j.Endpoints, "endpoint"), strings.Join(names, ", "))
	if more := j.Endpoints - len(j.Names); more > 0 {
		said += fmt.Sprintf(" and %d more", more)
	}
	return said + "."
}

// indent shows the beginning of a script, apart from what is said about it.
func indent(script string) string {
	const most = 10
	lines := strings.Split(strings.TrimRight(wrap.Plain(script), "\n"), "\n")
	more := len(lines) - most
	if more > 0 {
		lines = lines[:most]
	}
	for i, l := range lines {
		lines[i] = "  " + oneLineKept(l, wrap.Width-2)
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("  … and %s more", plural(more, "line")))
	}
	return strings.Join(lines, "\n")
}

// oneLineKept cuts a line and keeps its blanks.
func oneLineKept(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}

// jobWatch follows a job until it has ended.
type jobWatch struct {
	client *operator.Client
	last   operator.Job
	err    io.Writer
	quiet  bool

	drawn  bool // a line that is drawn anew stands there
	said   string
	saidAt time.Time
}

func (w *jobWatch) run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !w.quiet {
		fmt.Fprintf(w.err, "gururmm: job %s, %s\n", w.last.ID, plural(w.last.Endpoints, "endpoint"))
	}
	answered := time.Now()
	for wait := jobEvery / 4; w.last.State != operator.JobDone; wait = jobEvery {
		w.progress()
		select {
		case <-ctx.Done():
			w.clear()
			return &exitError{exitDetached, fmt.Errorf("left running; follow: gururmm jobs show %s --follow, stop: gururmm jobs cancel %s", w.last.ID, w.last.ID)}
		case <-time.After(wait):
		}
		j, err := w.client.Job(ctx, w.last.ID)
		p, refused := errors.AsType[wire.Problem](err)
		switch {
		case err == nil:
			w.last, answered = j, time.Now()
		case ctx.Err() != nil: // told above
		case refused && p.Status < 500, time.Since(answered) > reconnectEvents:
			w.clear()
			return &exitError{exitNoCode, fmt.Errorf("the job %s goes on, but can't be followed: %w", w.last.ID, explain(err))}
		}
	}
	w.clear()
	return nil
}

// progress tells how the job stands: on a terminal in one line that is drawn anew.
func (w *jobWatch) progress() {
	if w.quiet {
		return
	}
	said := standOf(w.last)
	if f, ok := w.err.(*os.File); ok && tty.Is(f) && os.Getenv("TERM") != "dumb" {
		fmt.Fprintf(w.err, "\r%s\x1b[K", oneLine(said, wrap.Width-1))
		w.drawn = true
		return
	}
	if said == w.said || time.Since(w.saidAt) < tellJobEvery {
		return
	}
	w.said, w.saidAt = said, time.Now()
	fmt.Fprintln(w.err, wrap.Behind("gururmm: ", said))
}

// clear takes the line away that is drawn anew.
func (w *jobWatch) clear() {
	if w.drawn {
		fmt.Fprint(w.err, "\r\x1b[K")
	}
	w.drawn = false
}

// standOf is how a job stands, in a line.
func standOf(j operator.Job) string {
	c := j.Counts
	said := []string{fmt.Sprintf("%d of %d completed", c.Completed, c.Total())}
	for _, s := range []struct {
		n    int
		what string
	}{
		{c.Failed, "failed"}, {c.Interrupted, "interrupted"}, {c.Undeliverable, "undeliverable"}, {c.Expired, "expired"},
		{c.Cancelled, "cancelled"}, {c.LeftOut, "left out"}, {c.Running, "running"}, {c.Pending, "pending"}, {c.Waiting, "waiting"},
	} {
		if s.n > 0 {
			said = append(said, fmt.Sprintf("%d %s", s.n, s.what))
		}
	}
	if j.Reason != "" {
		said = append(said, "the job was "+wrap.Plain(j.Reason))
	}
	return strings.Join(said, ", ")
}

func jobsCommand(f *operatorFlags) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "jobs",
		Short:   "List the commands that went to many endpoints, the newest first",
		Example: "  gururmm jobs --limit 5",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkCount("limit", limit); err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			all, err := client.Jobs(cmd.Context(), limit)
			switch {
			case err != nil:
				return explain(err)
			case f.json:
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Job]{Items: all})
			case len(all) == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "There was no job yet: gururmm exec --all -- CMD")
				return nil
			}
			return listJobs(cmd.OutOrStdout(), all)
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many")
	cmd.AddCommand(jobShowCommand(f), &cobra.Command{
		Use:   "cancel JOB",
		Short: "Begin nothing more of a job, and stop what has begun",
		Long: "Begin nothing more of a job, and stop what has begun: a command that waits never runs,\n" +
			"the process tree of one that runs is killed.",
		Example: "  gururmm jobs cancel 01a20b84",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			j, err := client.CancelJob(cmd.Context(), args[0])
			switch {
			case err != nil:
				return explain(err)
			case f.json:
				return printJSON(cmd.OutOrStdout(), j)
			case j.State == operator.JobDone:
				fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("%s has ended: %s.", j.ID, standOf(j))))
			default:
				fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("%s begins nothing more, and its commands are cancelled: %s.", j.ID, standOf(j))))
			}
			return nil
		},
	})
	return cmd
}

// listJobs gives each job a line, and below it its id and script.
func listJobs(w io.Writer, all []operator.Job) error {
	rows := [][]string{{"STATE", "COMPLETED", "NOT", "OPEN", "BY", "AGE"}}
	for _, j := range all {
		c := j.Counts
		rows = append(rows, []string{j.State, fmt.Sprintf("%d of %d", c.Completed, c.Total()), fmt.Sprint(c.Total() - c.Completed - c.Open()),
			fmt.Sprint(c.Open()), oneLine(j.CreatedBy, 20), span(time.Since(j.CreatedAt))})
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for i, j := range all {
		fmt.Fprintf(w, "%s\n  %s  %s\n", lines[i+1], j.ID, oneLine(j.Script, wrap.Width-len(j.ID)-4))
	}
	return nil
}

func jobShowCommand(f *operatorFlags) *cobra.Command {
	v := jobView{}
	var failed, follow bool
	cmd := &cobra.Command{
		Use:   "show JOB",
		Short: "Tell how a job stands, and what did not complete",
		Long: "Tell how a job stands, and what did not complete: the first 20 endpoints, with --failed\n" +
			"all of them. --output prints what they wrote, the same once; with --failed only of\n" +
			"those that did not complete. --follow waits for its end.",
		Example: "  gururmm jobs show 01a20b84 --failed\n  gururmm jobs show 01a20b84 --output",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			j, err := client.Job(cmd.Context(), args[0])
			if err != nil {
				return explain(err)
			}
			if follow {
				w := &jobWatch{client: client, last: j, err: cmd.ErrOrStderr(), quiet: f.json}
				if err := w.run(cmd.Context()); err != nil {
					return err
				}
				j = w.last
			}
			v.client, v.out, v.json, v.most, v.unwell = client, cmd.OutOrStdout(), f.json, shownEndpoints, failed
			if failed {
				v.most = operator.MaxJobAgents
			}
			if err := v.show(cmd.Context(), j); err != nil {
				return explain(err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&failed, "failed", false, "name all that did not complete")
	cmd.Flags().BoolVar(&v.output, "output", false, "print what they wrote, the same once")
	cmd.Flags().BoolVar(&follow, "follow", false, "wait for its end")
	return cmd
}
