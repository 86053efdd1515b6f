package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

func agentsCommand(f *operatorFlags) *cobra.Command {
	var removed bool
	var sites, tags []string
	cmd := &cobra.Command{
		Use:     "agents [AGENT]",
		Short:   "List the endpoints and how they are, or tell all of one",
		Example: "  gururmm agents\n  gururmm agents --site berlin --tag web\n  gururmm agents web-17",
		Args:    help.Words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return showAgent(cmd, f, client, args[0])
			}
			narrowed := len(sites)+len(tags) > 0
			ask := func(ctx context.Context) ([]operator.Agent, error) { return client.AgentsOf(ctx, sites, tags) }
			if removed {
				ask = client.RemovedAgents
			}
			agents, err := ask(cmd.Context())
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Agent]{Items: agents})
			}
			if len(agents) == 0 && removed {
				fmt.Fprintln(cmd.OutOrStdout(), "No endpoint was removed, or all of those were purged.")
				return nil
			}
			if len(agents) == 0 && narrowed {
				fmt.Fprintln(cmd.OutOrStdout(), "No endpoint is of such a site with all of these tags.")
				return nil
			}
			if len(agents) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "No endpoint is enrolled yet: gururmm enroll-token create")
				return nil
			}
			slices.SortFunc(agents, func(a, b operator.Agent) int {
				return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
			})
			if !removed {
				common, err := client.Fleetwide(cmd.Context())
				if p, ok := errors.AsType[wire.Problem](err); err != nil && !(ok && p.Status == http.StatusNotFound) { // an older server has none
					return explain(err)
				}
				listCommon(cmd.OutOrStdout(), common)
			}
			return listAgents(cmd.OutOrStdout(), agents)
		},
	}
	cmd.Flags().BoolVar(&removed, "removed", false, "list those that were removed, and not purged")
	cmd.Flags().StringSliceVar(&sites, "site", nil, "only of this site, or one of these")
	cmd.Flags().StringSliceVar(&tags, "tag", nil, "only those with this tag, or all of these")
	help.Apart(cmd, "removed", "site")
	help.Apart(cmd, "removed", "tag")
	cmd.AddCommand(&cobra.Command{
		Use:     "show AGENT",
		Short:   "Tell all of one endpoint, and which machines hold its identity",
		Example: "  gururmm agents show web-17",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			return showAgent(cmd, f, client, args[0])
		},
	}, tagCommand(f), resolveCommand(f), quarantineCommand(f), removeCommand(f))
	return cmd
}

func showAgent(cmd *cobra.Command, f *operatorFlags, client *operator.Client, ref string) error {
	a, err := client.Agent(cmd.Context(), ref)
	if err != nil {
		return explain(err)
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), a)
	}
	return describeAgent(cmd.OutOrStdout(), a)
}

// tagCommand changes the tags of endpoints.
func tagCommand(f *operatorFlags) *cobra.Command {
	var change operator.TagChange
	cmd := &cobra.Command{
		Use:   "tag AGENT… [--add TAG,…] [--remove TAG,…]",
		Short: "Put tags on endpoints, or take them off",
		Long: "Put tags on endpoints, or take them off, of all that are named or of none. A tag\n" +
			"groups endpoints, of any site: `gururmm agents --tag web`, `gururmm exec --tag web`.\n" +
			"It is up to 64 of a to z, 0 to 9 and . _ : -; an endpoint has at most 32.",
		Example: "  gururmm agents tag web-17 web-18 --add web,prod\n  gururmm agents tag web-17 --add canary --remove prod",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("which agents? gururmm agents tag AGENT… --add TAG")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(change.Add)+len(change.Remove) == 0 {
				return errors.New("which tags? give --add TAG,… or --remove TAG,…")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			change.Agents = args
			agents, err := client.ChangeTags(cmd.Context(), change)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Agent]{Items: agents})
			}
			for _, a := range agents {
				fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("%s: %s", oneLine(a.Name, 40), cmp.Or(strings.Join(a.Tags, " "), "no tags"))))
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&change.Add, "add", nil, "put these on")
	cmd.Flags().StringSliceVar(&change.Remove, "remove", nil, "take these off")
	return cmd
}

// resolveCommand tells which of several machines keeps an identity.
func resolveCommand(f *operatorFlags) *cobra.Command {
	var keep string
	var yes bool
	cmd := &cobra.Command{
		Use:   "resolve AGENT --keep INSTANCE",
		Short: "Say which of several machines keeps an identity",
		Long: "Say which of several machines with one identity keeps it. Each other one takes a\n" +
			"new identity at its next call, at the same site, and shows up as a new agent;\n" +
			"what it had of the old one it keeps aside. Commands that wait then run on the\n" +
			"machine that is kept. `gururmm agents show AGENT` names the instances.",
		Example: "  gururmm agents show web-17\n  gururmm agents resolve web-17 --keep 5c3e91",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep == "" {
				return errors.New("--keep is missing: the instance of the machine that keeps the identity (gururmm agents show)")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			if !yes {
				a, err := client.Agent(cmd.Context(), args[0])
				if err != nil {
					return explain(err)
				}
				ok, err := confirmResolve(cmd, a, keep)
				if err != nil || !ok {
					return cmp.Or(err, errors.New("nothing was changed"))
				}
			}
			r, err := client.Resolve(cmd.Context(), args[0], keep)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), r)
			}
			out := cmd.OutOrStdout()
			fmt.Fprintln(out, wrap.Behind("", fmt.Sprintf("%s keeps the identity %s.", machineName(r.Kept), r.Agent)))
			for _, o := range r.Others {
				fmt.Fprintln(out, wrap.Behind("", machineName(o)+" takes a new one at its next call by the second door."))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&keep, "keep", "", "instance of the machine that keeps the identity, or its beginning")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// quarantineCommand keeps an endpoint from running commands.
func quarantineCommand(f *operatorFlags) *cobra.Command {
	n := operator.NewDirective{Kind: wire.DirectiveQuarantine}
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "quarantine AGENT [--lift]",
		Short: "Have an endpoint run no commands, until the same with --lift",
		Long: "Have an endpoint run no commands, until the same with --lift. The server gives it\n" +
			"none, and no link, from now on; the endpoint remembers it too and would refuse\n" +
			"them. Commands that run already go on, and can be cancelled. By the second door it\n" +
			"can still be examined: gururmm direct AGENT run_probes.\n\n" +
			"Exit codes: 0 the endpoint has confirmed it, 1 it refused, 2 it has not been heard\n" +
			"yet; the server's part holds in any case.",
		Example: "  gururmm agents quarantine web-17 --reason stolen\n  gururmm agents quarantine web-17 --lift",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
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
			progress := cmd.ErrOrStderr()
			if f.json {
				progress = io.Discard
			}
			if d, err = awaitDirective(cmd.Context(), client, d, wait, progress); err != nil {
				return explain(err)
			}
			if err := f.directed(cmd.OutOrStdout(), d); err != nil {
				return err
			}
			return outcome(d, wait)
		},
	}
	cmd.Flags().BoolVar(&n.Lift, "lift", false, "end it")
	cmd.Flags().StringVar(&n.Reason, "reason", "", "kept with it, and shown on the endpoint")
	cmd.Flags().DurationVar(&wait, "wait", directWait, "wait so long for the endpoint's word")
	return cmd
}

// removeCommand retires an endpoint.
func removeCommand(f *operatorFlags) *cobra.Command {
	var purge, yes bool
	cmd := &cobra.Command{
		Use:   "remove AGENT [--purge] [--yes]",
		Short: "Retire an endpoint: it is let in no more, at once and for good",
		Long: "Retire an endpoint: it is let in no more, at once and for good. Its link\n" +
			"ends, and what it had not finished ends as cancelled or interrupted. What it ran\n" +
			"and said is kept (`gururmm agents --removed`, `gururmm commands --agent ID`);\n" +
			"--purge deletes it, now or later.\n\n" +
			"The program stays on the endpoint. At its next call it is told that it was\n" +
			"removed; its status says so, and it asks again every few minutes. To bring it\n" +
			"back: gururmm-agent enroll --force; it is a new agent then.",
		Example: "  gururmm agents remove old-laptop\n  gururmm agents remove 01a20b84 --purge --yes",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			if !yes {
				a, err := client.Agent(cmd.Context(), args[0])
				if err != nil {
					return explain(err)
				}
				ok, err := confirmRemove(cmd, a, purge)
				if err != nil || !ok {
					return cmp.Or(err, errors.New("nothing was changed"))
				}
			}
			r, err := client.RemoveAgent(cmd.Context(), args[0], purge)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return tellRemoval(cmd.OutOrStdout(), r)
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "delete what it ran and said, too")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func tellRemoval(w io.Writer, r operator.Removal) error {
	said := fmt.Sprintf("%s (%s) was removed by %s at %s.", oneLine(r.Name, 40), r.Agent, oneLine(r.RemovedBy, 24), moment.Aged(r.RemovedAt, time.Now()))
	if r.Ended > 0 {
		said += fmt.Sprintf(" %s had not ended, and have now.", plural(r.Ended, "command"))
		if r.Ended == 1 {
			said = strings.TrimSuffix(said, "have now.") + "has now."
		}
	}
	if r.Purged {
		said += " What it ran and said is deleted."
	} else {
		said += " What it ran and said is kept; see: gururmm commands --agent " + r.Agent
	}
	_, err := fmt.Fprintln(w, wrap.Behind("", said))
	return err
}

// confirmRemove tells a person what would go, and asks.
func confirmRemove(cmd *cobra.Command, a operator.Agent, purge bool) (bool, error) {
	said := fmt.Sprintf("%s (%s) is %s, last seen %s. It is removed for good: to come back it must enroll again.",
		oneLine(a.Name, 40), a.ID, a.Presence, seenBy(a, time.Now()))
	if a.Owed > 0 {
		said += fmt.Sprintf(" %s that wait for it are given up.", plural(a.Owed, "command"))
	}
	if purge {
		said += " All that it ran and said is deleted."
	}
	return confirm(cmd, wrap.Behind("", said))
}

// confirm shows a person what would happen, and asks; without one there it fails.
func confirm(cmd *cobra.Command, lines ...string) (bool, error) {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !tty.Is(in) {
		return false, errors.New("nobody is there to ask: give --yes to go ahead")
	}
	out := cmd.ErrOrStderr()
	for _, l := range lines {
		fmt.Fprintln(out, l)
	}
	fmt.Fprint(out, "Go ahead? [y/N] ")
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(line))), nil
}

// confirmResolve shows a person what would happen, and asks.
func confirmResolve(cmd *cobra.Command, a operator.Agent, keep string) (bool, error) {
	var lines []string
	kept := false
	for _, c := range a.Copies {
		does := "takes a new identity"
		switch {
		case c.Standing == operator.CopyLeft:
			continue
		case strings.HasPrefix(c.Instance, keep):
			kept, does = true, "keeps "+a.ID
		case c.Standing == operator.CopyGone:
			continue
		}
		lines = append(lines, wrap.Behind("  ", machineName(c)+" "+does+"."))
	}
	switch { // as the server would say it: nobody is asked about what can't be done
	case len(a.Copies) == 0, kept && len(lines) < 2:
		return false, errors.New("there is nothing to resolve: only one machine holds this identity")
	case !kept:
		return false, fmt.Errorf("no machine with this identity is known by the instance %s: gururmm agents show %s", oneLine(keep, 40), a.ID)
	}
	return confirm(cmd, lines...)
}

// machineName names one of several machines.
func machineName(c operator.Copy) string {
	return fmt.Sprintf("%s (instance %s)", cmp.Or(oneLine(c.Hostname, 40), "a machine without a name"), oneLine(c.Instance, 40))
}

// short is enough of a hash to tell two apart.
func short(s string) string {
	if len(s) > 12 {
		return s[:12]
	}
	return cmp.Or(s, "unknown")
}

// standings are what an operator reads of each of several machines.
var standings = map[operator.CopyStanding]string{
	operator.CopyRival:   "alive, and one of several: commands wait",
	operator.CopyAsked:   "asked whether it lives: commands wait",
	operator.CopyKept:    "keeps the identity, by an operator's word",
	operator.CopyLeaving: "takes a new identity at its next call",
	operator.CopyLeft:    "has taken a new identity",
	operator.CopyGone:    "not heard any more",
	operator.CopyAlone:   "alone now",
}

// copyRows tell of one of several machines.
func copyRows(c operator.Copy) [][]string {
	is := standings[c.Standing]
	if c.NewAgent != "" {
		is += ", " + c.NewAgent
	}
	heard := "not heard by this server process"
	if !c.LastSeen.IsZero() {
		door := "second door"
		if c.Door == wire.ChannelLink {
			door = "link"
		}
		heard = fmt.Sprintf("%s by the %s from %s, since %s", ago(&c.LastSeen), door, cmp.Or(c.Addr, "an unknown address"), moment.Local(c.Since))
	}
	return [][]string{
		{"machine", machineName(c)},
		{"", is},
		{"", fmt.Sprintf("fingerprint %s, boot %s", short(wrap.Plain(c.Fingerprint)), short(wrap.Plain(c.BootID)))},
		{"", "heard " + heard},
	}
}

// listAgents gives each endpoint a line, and below it its id and, unless all is
// well, what is wrong.
// listCommon tells of verdicts that many agents have come to.
func listCommon(w io.Writer, all []operator.Fleetwide) {
	for _, f := range all {
		paced := "Their recovery is not paced."
		switch f.Recovery {
		case "spread":
			paced = fmt.Sprintf("The server spreads their recovery over %v.", time.Duration(f.OverMS)*time.Millisecond)
		case "hold":
			paced = "The server holds their recovery: no forced reconnects and restarts."
		}
		fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("FLEET-WIDE: %d of the %d agents that are there say %s (%s), since %s. So many have one cause, and it is not theirs: look at what changed last at the server, its proxy and its network. %s",
			f.Agents, f.Of, f.Verdict, f.Title, moment.UTC(f.Since), paced)))
	}
	if len(all) > 0 {
		fmt.Fprintln(w)
	}
}

func listAgents(w io.Writer, agents []operator.Agent) error {
	rows := [][]string{{"NAME", "PRESENCE", "TEXT VERIFIED", "LAST SEEN", "OWED"}}
	// Of one that was removed nothing is owed, and when text was verified is not kept.
	removed := !slices.ContainsFunc(agents, func(a operator.Agent) bool { return a.RemovedAt == nil })
	if removed {
		rows = [][]string{{"NAME", "PRESENCE", "LAST SEEN"}}
	}
	for _, a := range agents {
		seen := ago(a.LastSeen)
		if a.LastVia != "" {
			seen += " by " + a.LastVia
		}
		if removed {
			rows = append(rows, []string{oneLine(a.Name, 24), a.Presence, seen})
			continue
		}
		rows = append(rows, []string{oneLine(a.Name, 24), a.Presence, ago(a.VerifiedAt), seen, fmt.Sprint(a.Owed)})
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for i, a := range agents {
		fmt.Fprintln(w, lines[i+1])
		fmt.Fprintln(w, wrap.Behind("  ", strings.Join(append([]string{a.ID}, a.Tags...), " ")))
		if a.Presence != "verified" {
			for _, said := range standing(a, time.Now()) {
				fmt.Fprintln(w, wrap.Behind("  ", said))
			}
		}
	}
	return nil
}

// lastSigns names the door and the class of the last sign of life.
var lastSigns = map[string]string{
	"text": "a text on the link", "ping": "a ping on the link",
	"beacon": "a beacon at the second door", "poll": "a poll at the second door",
}

func aged(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	return moment.Aged(*t, now)
}

func seenBy(a operator.Agent, now time.Time) string {
	said := aged(a.LastSeen, now)
	if a.LastVia != "" {
		said += ", " + cmp.Or(lastSigns[a.LastVia], oneLine(a.LastVia, 20))
	}
	return said
}

// standing tells how an endpoint is. What it said itself counts as of when it said so:
// the "ok" of one that is gone is history.
func standing(a operator.Agent, now time.Time) (lines []string) {
	word := oneLine(a.Verdict, 60) // the endpoint's text, as the sentence is
	if a.Sentence != "" {
		word = strings.TrimPrefix(word+": ", ": ") + wrap.Plain(a.Sentence)
	}
	well := a.Verdict == "ok" || a.Verdict == "ok.idle"
	if a.Presence == "offline" {
		is := "Never heard of since it enrolled."
		if a.LastSeen != nil {
			is = fmt.Sprintf("Offline since %s; last seen by %s.", moment.Aged(*a.LastSeen, now), cmp.Or(lastSigns[a.LastVia], "an unknown door"))
		}
		if a.Stopped {
			is += " It was stopped in order, and comes back when somebody starts it."
		}
		lines = append(lines, is)
	}
	current := a.VerdictAt == nil || a.Presence == "verified" || a.Presence == "degraded" && !well
	switch {
	case word == "" || a.Presence == "verified" && a.Sentence == "":
	case current:
		lines = append(lines, word)
	default:
		lines = append(lines, fmt.Sprintf("Its word as of %s: %s", moment.Aged(*a.VerdictAt, now), word))
	}
	return lines
}

func describeAgent(w io.Writer, a operator.Agent) error {
	now := time.Now()
	fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("%s is %s.", wrap.Plain(a.Name), a.Presence)))
	for _, said := range standing(a, now) {
		fmt.Fprintln(w, wrap.Behind("", said))
	}
	rows := [][]string{
		{"id", a.ID}, {"site", wrap.Plain(a.Site)}, {"tags", strings.Join(a.Tags, " ")},
		{"platform", wrap.Plain(fmt.Sprintf("%s/%s %s", a.Platform.OS, a.Platform.Arch, a.Platform.Release))},
		{"version", wrap.Plain(a.Version)}, {"address", a.Addr},
		{"enrolled", moment.Aged(a.EnrolledAt, now)},
		{"text verified", aged(a.VerifiedAt, now)}, {"last seen", seenBy(a, now)},
		{"commands owed", fmt.Sprint(a.Owed)},
	}
	if a.ClockSkew != nil {
		skew, which := time.Duration(*a.ClockSkew)*time.Millisecond, "behind"
		if skew < 0 {
			skew, which = -skew, "ahead of"
		}
		said := fmt.Sprintf("the endpoint's is %v %s the server's", skew, which)
		if skew < 50*time.Millisecond { // no more than the way there and back
			said = "the endpoint's agrees with the server's"
		}
		rows = append(rows, []string{"clock", said})
	}
	for _, f := range a.Findings {
		rows = append(rows, []string{"found", oneLine(f.Code, 40) + ": " + wrap.Plain(f.Sentence)})
	}
	if a.Was != "" {
		rows = append(rows, []string{"was", "a copy of agent " + a.Was})
	}
	for _, c := range a.Copies {
		rows = append(rows, copyRows(c)...)
	}
	for _, l := range a.Links {
		if l.Node != "" {
			rows = append(rows, []string{"link", fmt.Sprintf("%s %s for %v at node %s %s", l.Link, l.State, span(time.Duration(l.AgeMS)*time.Millisecond), oneLine(l.Node, 40), l.Verdict)})
			continue
		}
		peer := "not told"
		if l.PeerRead != nil {
			peer = fmt.Sprint(*l.PeerRead)
		}
		pong := "none yet"
		if l.PongAgeMS != nil {
			pong = span(time.Duration(*l.PongAgeMS)*time.Millisecond) + " ago"
		}
		if l.PingPendingMS != nil {
			pong += fmt.Sprintf(", a ping awaits one for %v", span(time.Duration(*l.PingPendingMS)*time.Millisecond))
		}
		rows = append(rows, []string{"link", fmt.Sprintf("%s %s for %v: written %d (agent read %s), read %d, queued %s, last pong %s %s", l.Link,
			l.State, span(time.Duration(l.AgeMS)*time.Millisecond), l.Written, peer, l.Read, queued(l), pong, l.Verdict)})
	}
	for _, r := range rows {
		if r[1] == "" || a.RemovedAt != nil && (r[0] == "text verified" || r[0] == "commands owed") {
			continue
		}
		fmt.Fprintln(w, wrap.Behind(fmt.Sprintf("%-15s", r[0]), r[1]))
	}
	return nil
}

// queued says how many messages wait in a link's queue, and for how long the server itself keeps them.
func queued(l wire.LinkView) string {
	said := fmt.Sprint(l.Queued)
	if kept := l.Kept(); kept > 0 {
		said += fmt.Sprintf(" (kept back for %v)", span(kept))
	}
	return said
}
