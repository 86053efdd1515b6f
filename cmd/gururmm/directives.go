package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/checkup"
	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// exitUnknown is direct's exit code when the endpoint has not told the outcome in time.
const exitUnknown = 2

const (
	// directWait is how long direct waits for the outcome unless told otherwise: an
	// endpoint with a verified link is called at once and answers in seconds; one that is
	// not well, or quarantined, comes within 33 s by the default policy.
	directWait = 45 * time.Second
	// askEvery is how often the server is asked what became of a directive.
	askEvery = 300 * time.Millisecond
)

// directives that an operator may give by hand, and what each orders.
var directives = []struct {
	kind wire.DirectiveKind
	does string
}{
	{wire.DirectiveReconnect, "dial the link afresh"},
	{wire.DirectiveUseEndpoint, "use the link URL given by --endpoint"},
	{wire.DirectiveRestartWorker, "restart the worker, which holds the link and the jobs"},
	{wire.DirectiveRestartService, "restart the whole agent"},
	{wire.DirectivePoll, "take commands by the second door"},
	{wire.DirectiveRelease, "end that; a link that was proven deaf is tried again"},
	{wire.DirectiveRunProbes, "run the doctor's probes, all or those given by --only"},
	{wire.DirectiveSendBundle, "send a support bundle"},
	{wire.DirectiveRollback, "go back to the program that ran before the last update"},
	{wire.DirectiveQuarantine, "run no commands, until the same with --lift"},
}

func directCommand(f *operatorFlags) *cobra.Command {
	var (
		n      operator.NewDirective
		wait   time.Duration
		noWait bool
	)
	names, lines := make([]string, len(directives)), ""
	for i, d := range directives {
		names[i] = string(d.kind)
		lines += fmt.Sprintf("\n  %-16s %s", d.kind, d.does)
	}
	cmd := &cobra.Command{
		Use:   "direct AGENT DIRECTIVE",
		Short: "Order something of an endpoint's guardian, and wait for it",
		Long: "Order something of an endpoint's guardian by the second door: it is signed, and\n" +
			"handed over with the answer to the endpoint's next beacon or poll. One with a\n" +
			"verified link is called for it at once; another comes with its next beacon, within\n" +
			"seconds to 17 min.\n\n" +
			"Exit codes: 0 done, 1 failed or refused, 2 not known yet after --wait.\n\nDirectives:" + lines,
		Example:   "  gururmm direct web-17 restart_worker --reason 'hangs since noon'\n  gururmm direct web-17 run_probes --only tcp,tls\n  gururmm direct web-17 quarantine --lift",
		Args:      help.Words(2, 2),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Kind = wire.DirectiveKind(args[1])
			if n.Kind == wire.DirectiveUpdate {
				return fmt.Errorf("an update is ordered by a rollout: gururmm update roll VERSION --agents %s", quote(args[0]))
			}
			if !slices.Contains(names, args[1]) {
				return fmt.Errorf("there is no directive %q; they are %s", args[1], strings.Join(names, ", "))
			}
			if n.Kind == wire.DirectiveUseEndpoint && n.Endpoint == "" {
				return errors.New("use_endpoint needs --endpoint wss://…")
			}
			if err := checkDuration("wait", wait); err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			d, err := client.Direct(cmd.Context(), args[0], n)
			if err != nil {
				return explain(err)
			}
			if noWait {
				return f.directed(cmd.OutOrStdout(), d)
			}
			progress := cmd.ErrOrStderr()
			if f.json {
				progress = io.Discard
			}
			if d, err = awaitDirective(cmd.Context(), client, d, wait, progress); err != nil {
				return err
			}
			if err := f.directed(cmd.OutOrStdout(), d); err != nil {
				return err
			}
			return outcome(d, wait)
		},
	}
	cmd.Flags().StringVar(&n.Endpoint, "endpoint", "", "of use_endpoint: the link URL to use")
	cmd.Flags().StringSliceVar(&n.Only, "only", nil, "of run_probes: names of probes (default all)")
	cmd.Flags().BoolVar(&n.Lift, "lift", false, "of quarantine: end it")
	cmd.Flags().StringVar(&n.Reason, "reason", "", "kept with the directive")
	cmd.Flags().DurationVar(&wait, "wait", directWait, "wait so long for the outcome")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "don't wait for the outcome")
	help.Apart(cmd, "wait", "no-wait")
	return cmd
}

// awaitDirective asks until d has ended or limit is over, and tells each step.
func awaitDirective(ctx context.Context, client *operator.Client, d operator.Directive, limit time.Duration, progress io.Writer) (operator.Directive, error) {
	over := time.NewTimer(limit)
	defer over.Stop()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for told := ""; ; {
		if said := progressOf(d); said != told && !d.Ended() {
			told = said
			fmt.Fprintln(progress, wrap.Behind("gururmm: ", said))
		}
		if d.Ended() {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-over.C:
			return d, nil
		case <-ctx.Done():
			return d, ctx.Err()
		}
		next, err := client.Directive(ctx, d.ID)
		if err != nil { // the order stands: a server that restarts is waited for
			if said := "not known how it stands: " + explain(err).Error(); said != told {
				told = said
				fmt.Fprintln(progress, wrap.Behind("gururmm: ", wrap.Plain(said)))
			}
			continue
		}
		d = next
	}
}

// progressOf says where a directive is that has not ended.
func progressOf(d operator.Directive) string {
	name := oneLine(d.AgentName, 24)
	switch d.State {
	case operator.DirectiveWaiting:
		return string(d.Kind) + " waits for " + name + " to come for it"
	case operator.DirectiveDelivered:
		return "handed to " + name + ", which has not answered yet"
	}
	said := name + " has taken it up"
	if d.Detail != "" {
		said += ": " + wrap.Plain(d.Detail)
	}
	return said
}

// receipts tells when a directive was ordered, and what its endpoint told of it since.
func receipts(d operator.Directive) string {
	said := "ordered " + moment.Aged(d.CreatedAt, time.Now())
	for _, step := range []struct {
		name string
		at   *time.Time
	}{{"handed over", d.DeliveredAt}, {"accepted", d.AcceptedAt}, {d.State, d.EndedAt}} {
		if step.at != nil {
			said += fmt.Sprintf(", %s after %.1f s", step.name, step.at.Sub(d.CreatedAt).Seconds())
		}
	}
	if d.Kind == wire.DirectiveReconnect || d.Kind == wire.DirectiveUseEndpoint {
		said += "; whether the new link is verified: gururmm agents show " + quote(wrap.Plain(d.AgentName))
	}
	return said
}

// directed prints a directive as it is now.
func (f *operatorFlags) directed(w io.Writer, d operator.Directive) error {
	if f.json {
		return printJSON(w, d)
	}
	switch {
	case d.EndedAt == nil:
		fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("Directive %s (%s) is %s, good until %s; see: gururmm directives %s",
			d.ID, d.Kind, d.State, moment.Aged(d.ExpiresAt, time.Now()), quote(wrap.Plain(d.AgentName)))))
		return nil
	case d.State == string(wire.DirectiveDone):
		name, took := oneLine(d.AgentName, 24), d.EndedAt.Sub(d.CreatedAt).Seconds()
		said := fmt.Sprintf("%s is done on %s after %.1f s", d.Kind, name, took)
		switch {
		case d.Kind == wire.DirectiveQuarantine && d.Lift:
			said = fmt.Sprintf("%s: its quarantine is lifted, after %.1f s", name, took)
		case d.Kind == wire.DirectiveQuarantine:
			said = fmt.Sprintf("%s is quarantined, after %.1f s", name, took)
		}
		if d.Detail != "" {
			said += ": " + wrap.Plain(d.Detail)
		}
		fmt.Fprintln(w, wrap.Behind("", said))
		fmt.Fprintln(w, wrap.Behind("  ", receipts(d)))
	}
	if d.Kind == wire.DirectiveSendBundle {
		var sent struct{ Bundle string }
		if json.Unmarshal(d.Report, &sent) == nil && sent.Bundle != "" && d.State == string(wire.DirectiveDone) {
			id := oneLine(sent.Bundle, 64)
			fmt.Fprintf(w, "Bundle %s; fetch it:\n  gururmm bundles %s --download %s\n", id, quote(wrap.Plain(cmp.Or(d.Agent, d.AgentName))), quote(id)) // a name may fit several
			return nil
		}
	}
	if d.Kind == wire.DirectiveRunProbes {
		if r, err := checkup.Parse(d.Report); err == nil {
			return checkup.Write(w, r, checkup.Style{Color: tty.Colorful(os.Stdout)})
		}
	}
	if len(d.Report) > 0 {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, d.Report, "", "  "); err != nil {
			return fmt.Errorf("report of directive %s: %w", d.ID, err)
		}
		fmt.Fprintln(w, wrap.Plain(pretty.String()))
	}
	return nil
}

// outcome is the error of a directive that is not done.
func outcome(d operator.Directive, waited time.Duration) error {
	switch {
	case d.State == string(wire.DirectiveDone):
		return nil
	case !d.Ended():
		return &exitError{exitUnknown, fmt.Errorf("no outcome within %v: %s", waited, progressOf(d))}
	}
	why := cmp.Or(d.Detail, string(d.Code), "no reason given")
	if d.State == operator.DirectiveExpired {
		why = "expired: the endpoint never told an outcome"
	} else if d.Code != "" && d.Detail != "" {
		why = string(d.Code) + ": " + d.Detail
	}
	return fmt.Errorf("%s failed on %s: %s", d.Kind, oneLine(d.AgentName, 24), wrap.Plain(why))
}

func directivesCommand(f *operatorFlags) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "directives AGENT | directives --id ID",
		Short:   "List orders to an endpoint's guardian, and what became of them",
		Example: "  gururmm directives web-17\n  gururmm directives --id 01a20b84",
		Args:    help.Words(0, 1),
	}
	var id string
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkCount("limit", limit); err != nil {
			return err
		}
		if (len(args) == 1) == (id != "") {
			return errors.New("give an AGENT, or --id of one directive")
		}
		client, err := f.client()
		if err != nil {
			return err
		}
		if id != "" {
			d, err := client.Directive(cmd.Context(), id)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), d)
			}
			if err := listDirectives(cmd.OutOrStdout(), []operator.Directive{d}); err != nil || len(d.Report) == 0 {
				return err
			}
			return f.directed(cmd.OutOrStdout(), d)
		}
		items, err := client.Directives(cmd.Context(), args[0], limit)
		if err != nil {
			return explain(err)
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), operator.List[operator.Directive]{Items: items})
		}
		if len(items) == 0 {
			fmt.Fprintln(cmd.OutOrStdout(), "Nothing was ordered of its guardian yet.")
			return nil
		}
		return listDirectives(cmd.OutOrStdout(), items)
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many")
	cmd.Flags().StringVar(&id, "id", "", "only this one, with its report")
	return cmd
}

// listDirectives gives each a line, and below it its id and what the agent said.
func listDirectives(w io.Writer, items []operator.Directive) error {
	rows := [][]string{{"DIRECTIVE", "BY", "STATE", "AGE"}}
	for _, d := range items {
		rows = append(rows, []string{string(d.Kind), cmp.Or(oneLine(d.CreatedBy, 24), "-"), d.State, span(time.Since(d.CreatedAt))})
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for i, d := range items {
		fmt.Fprintf(w, "%s\n  %s\n", lines[i+1], d.ID)
		said := d.Detail
		if d.Code != "" {
			said = strings.TrimSuffix(string(d.Code)+": "+said, ": ")
		}
		if said != "" {
			fmt.Fprintln(w, wrap.Behind("  ", wrap.Plain(said)))
		}
		if d.Reason != "" {
			fmt.Fprintln(w, wrap.Behind("  reason: ", wrap.Plain(d.Reason)))
		}
	}
	return nil
}
