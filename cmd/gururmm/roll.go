package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// What a rollout does unless told otherwise.
const (
	defaultRings       = "1%,10%,100%"
	defaultMaxFailures = "5%"
	defaultSoak        = 10 * time.Minute
	defaultParallel    = 50
)

func rollCommand(f *operatorFlags) *cobra.Command {
	var (
		n           operator.NewRollout
		rings       string
		soak, grace time.Duration
		yes         bool
	)
	cmd := &cobra.Command{
		Use:   "roll VERSION",
		Short: "Bring a published version to the endpoints, ring by ring",
		Long: "Bring a published version to the endpoints, ring by ring: the next ring begins when\n" +
			"all of one have told their outcome, at least one runs the version, and --soak is\n" +
			"over. Too many failures in a ring stop the rollout. Endpoints that are away hold\n" +
			"up nothing; they are ordered when they come back. Those that enroll later are\n" +
			"not part of it.\n\n" +
			"Of more than one endpoint you are asked first; a script gives --yes.",
		Example: "  gururmm update roll v1.2.3\n  gururmm update roll v1.2.3 --site berlin --ring 5%,100% --soak 1h\n  gururmm update roll v1.2.3 --agents web-17,web-18 --soak 0",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if n.Rings, err = percents(rings); err != nil {
				return err
			}
			if n.Version = args[0]; cmd.Flags().Changed("soak") {
				if n.SoakMS = soak.Milliseconds(); soak == 0 {
					n.SoakMS = -1
				} else if err := checkDuration("soak", soak); err != nil {
					return err
				}
			}
			if cmd.Flags().Changed("grace") {
				if err := wire.CheckGrace(grace); err != nil {
					return fmt.Errorf("--grace: %w", err)
				}
				n.GraceMS = grace.Milliseconds()
			}
			if err := checkCount("parallel", n.Parallel); err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			if !yes {
				if n.Expect, err = askRollout(cmd, client, n); err != nil {
					return err
				}
			}
			r, err := client.Roll(cmd.Context(), n)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), r)
			}
			if len(r.NoProgram) > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), wrap.Behind("gururmm: ", fmt.Sprintf("left out, no program of %s for their platform: %s",
					r.Version, wrap.Plain(strings.Join(r.NoProgram, ", ")))))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Rollout %s begins; see: gururmm update status\n\n", r.ID)
			return printRollout(cmd.OutOrStdout(), r)
		},
	}
	cmd.Flags().StringVar(&rings, "ring", defaultRings, "shares of the endpoints, each with those before it")
	cmd.Flags().StringSliceVar(&n.Agents, "agents", nil, "only these (names or ids)")
	cmd.Flags().StringVar(&n.Site, "site", "", "only of this site")
	cmd.Flags().StringVar(&n.MaxFailures, "max-failures", defaultMaxFailures, "a ring may have so many, a share or a number; one more stops it")
	cmd.Flags().DurationVar(&soak, "soak", defaultSoak, "watch a ring so long before the next; 0: not at all")
	cmd.Flags().IntVar(&n.Parallel, "parallel", defaultParallel, "at most so many endpoints at once")
	cmd.Flags().BoolVar(&n.AllowDowngrade, "allow-downgrade", false, "also endpoints that run a newer version")
	cmd.Flags().DurationVar(&grace, "grace", 0, "the new program must hold a verified link so long, 1s to 10m (default: 20s)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	help.Apart(cmd, "agents", "site")
	return cmd
}

// askRollout has a person confirm a rollout to more than one endpoint. It gives how many
// were chosen then.
func askRollout(cmd *cobra.Command, client *operator.Client, n operator.NewRollout) (*int, error) {
	n.Preview = true
	seen, err := client.Roll(cmd.Context(), n)
	if err != nil {
		return nil, explain(err)
	}
	wanted := seen.Wanted()
	if wanted <= 1 {
		return &wanted, nil
	}
	ok, err := confirm(cmd, wrap.Behind("", whomRolled(seen)))
	if err != nil {
		return nil, fmt.Errorf("%s are chosen: %w", plural(wanted, "endpoint"), err)
	}
	if !ok {
		return nil, errors.New("nothing was begun")
	}
	return &wanted, nil
}

// whomRolled says how many endpoints a rollout would order, and in which steps.
func whomRolled(r operator.Rollout) string {
	rings := make([]string, len(r.Rings))
	for i, ring := range r.Rings {
		rings[i] = strconv.Itoa(ring.Wanted - ring.Skipped)
	}
	said := fmt.Sprintf("This brings %s to %s", oneLine(r.Version, 40), plural(r.Wanted(), "endpoint"))
	if r.Plan.OfSite != "" {
		said += " of site " + oneLine(r.Plan.OfSite, 40)
	}
	if len(rings) > 1 {
		said += ", ring by ring: " + strings.Join(rings, ", then ")
	}
	return said + "."
}

// percents reads "1%,10%,100%"; the sign may be left out.
func percents(s string) (out []float64, err error) {
	for part := range strings.SplitSeq(s, ",") {
		v, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(part), "%"), 64)
		if err != nil {
			return nil, fmt.Errorf("--ring %q: want shares such as 1%%,10%%,100%%", s)
		}
		out = append(out, v)
	}
	return out, nil
}

func rolloutStatusCommand(f *operatorFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "status [ID]",
		Short:   "Tell how rollouts stand: those under way, else the last one",
		Example: "  gururmm update status\n  gururmm update status 01a20b84",
		Args:    help.Words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			var ids []string
			if len(args) == 1 {
				ids = args
			} else {
				all, err := client.Rollouts(cmd.Context())
				if err != nil {
					return explain(err)
				}
				for i, r := range all {
					if r.State == operator.RolloutActive || r.State == operator.RolloutStopped && i == 0 {
						ids = append(ids, r.ID)
					}
				}
				if len(ids) == 0 && len(all) > 0 {
					ids = []string{all[0].ID}
				}
			}
			shown := make([]operator.Rollout, len(ids))
			for i, id := range ids {
				if shown[i], err = client.Rollout(cmd.Context(), id); err != nil {
					return explain(err)
				}
			}
			switch {
			case f.json:
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Rollout]{Items: shown})
			case len(shown) == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "There was no rollout yet: gururmm update roll VERSION")
			}
			for i, r := range shown {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := printRollout(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// shownEndpoints bounds the endpoints that a page names; --json has more of them.
const shownEndpoints = 20

// printRollout gives each ring a line, each endpoint that did not run it through
// its state and the reason, and at last what can be done.
func printRollout(w io.Writer, r operator.Rollout) error {
	fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("Rollout %s of %s, by %s %s ago: %s.", r.ID, oneLine(r.Version, 40),
		oneLine(r.CreatedBy, 24), span(time.Since(r.CreatedAt)), strings.TrimRight(wrap.Plain(r.Now), "."))))
	rows := [][]string{{"RING", "ALL", "DONE", "UNDER WAY", "WAITING", "AWAY", "FAILED", "UNTRIED", "SKIPPED"}}
	for i, ring := range r.Rings {
		name := fmt.Sprintf("%d (%g%%)", i+1, ring.Percent)
		if i == r.Ring && r.State == operator.RolloutActive {
			name += " *"
		}
		row := []string{name}
		for _, n := range []int{ring.Wanted, ring.Done, ring.Ordered + ring.Running, ring.Waiting - ring.Away, ring.Away, ring.Failed, ring.Untried, ring.Skipped} {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, row)
	}
	for _, line := range columns(rows) {
		fmt.Fprintln(w, line)
	}
	active := r.State == operator.RolloutActive
	printParts(w, active, r.Failures, 0)
	printParts(w, active, r.Open, r.OpenMore)
	_, err := io.WriteString(w, nextFor(r))
	return err
}

func printParts(w io.Writer, active bool, parts []operator.RolloutAgent, more int) {
	shown := parts[:min(len(parts), shownEndpoints)]
	names, ids := make([]string, len(shown)), make([]string, len(shown))
	for i, a := range shown {
		names[i], ids[i] = oneLine(a.AgentName, 24), a.Agent
	}
	names = operator.Distinct(names, ids)
	for i, a := range shown {
		fmt.Fprintln(w, wrap.Behind("  ", fmt.Sprintf("%s (ring %d) %s", names[i], a.Ring+1, partOf(a, active))))
	}
	if more += len(parts) - min(len(parts), shownEndpoints); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

// partOf says where an endpoint stands, and why; active: its rollout goes on.
func partOf(a operator.RolloutAgent, active bool) string {
	why := wrap.Plain(a.Detail)
	switch {
	case a.State == operator.RollFailed:
		return fmt.Sprintf("failed %s: %s", ago(a.EndedAt), why)
	case a.State == operator.RollUntried:
		return fmt.Sprintf("could not be tried, given up %s: %s", ago(a.EndedAt), why)
	case a.State == operator.RollRunning:
		return fmt.Sprintf("has taken it up, ordered %s", ago(a.OrderedAt))
	case a.State == operator.RollOrdered && a.Standing == operator.RollAway:
		return fmt.Sprintf("was ordered %s and is away; it may answer when it comes back", ago(a.OrderedAt))
	case a.State == operator.RollOrdered:
		return fmt.Sprintf("was ordered %s, and has not answered yet", ago(a.OrderedAt))
	case !active && a.NotBefore != nil:
		return fmt.Sprintf("put it off (%s), and is not ordered any more: %s", times(a.Attempts), why)
	case !active:
		return "was not ordered"
	case a.Standing == operator.RollAway:
		return "is away; it is ordered when it comes back"
	case a.Standing == operator.RollPresenceUnknown:
		return "was not heard of since the server's start; it is waited for, two minutes"
	case a.NotBefore != nil:
		return fmt.Sprintf("put it off (%s), is ordered again %s: %s", times(a.Attempts), in(*a.NotBefore), why)
	}
	return "waits for its turn"
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// in tells a moment to come as people do.
func in(t time.Time) string {
	if left := time.Until(t); left > 0 {
		return "in " + span(left)
	}
	return "now"
}

// nextFor says what can be done about a rollout as it stands; each command on a line of its own.
func nextFor(r operator.Rollout) string {
	line := func(what, command string) string { return fmt.Sprintf("%s:\n  gururmm update %s\n", what, command) }
	again := slices.ContainsFunc(r.Rings, func(ring operator.RolloutRing) bool { return ring.Failed+ring.Untried > 0 })
	vain := slices.ContainsFunc(r.Rings, func(ring operator.RolloutRing) bool { // no limit helps where nobody is left
		return ring.Failed+ring.Untried > 0 && ring.Failed+ring.Untried+ring.Skipped == ring.Wanted
	})
	var out strings.Builder
	switch r.State {
	case operator.RolloutActive:
		if again {
			out.WriteString(line("To order those that failed or could not be tried once more", "resume "+r.ID+" --retry"))
		}
		out.WriteString(line("To stop it", "stop "+r.ID))
	case operator.RolloutStopped:
		if again {
			out.WriteString(line("To go on, and order those that failed or could not be tried once more", "resume "+r.ID+" --retry"))
		}
		switch {
		case r.Resumable:
			out.WriteString(line("To go on as it is", "resume "+r.ID))
		case vain:
			out.WriteString(line("To begin afresh, with rings that are drawn anew", rollAgain(r)))
		default:
			out.WriteString(line("To go on with more failures allowed in a ring", "resume "+r.ID+" --max-failures N"))
		}
	case operator.RolloutDone:
		if again {
			out.WriteString(line("To begin another one, for those that do not run it", rollAgain(r)))
		}
	}
	return out.String()
}

// rollAgain is the command that begins r once more: the same endpoints and options, those
// that are the default left out. It is broken where a shell joins it again.
func rollAgain(r operator.Rollout) string {
	p := r.Plan
	words := []string{"roll " + quote(r.Version)}
	for _, id := range p.OfAgents {
		words = append(words, "--agents "+quote(id))
	}
	if p.OfSite != "" {
		words = append(words, "--site "+quote(p.OfSite))
	}
	rings := make([]string, len(p.Rings))
	for i, share := range p.Rings {
		rings[i] = strconv.FormatFloat(share, 'g', -1, 64) + "%"
	}
	if said := strings.Join(rings, ","); said != "" && said != defaultRings {
		words = append(words, "--ring "+said)
	}
	if p.MaxFailures != "" && p.MaxFailures != defaultMaxFailures {
		words = append(words, "--max-failures "+quote(p.MaxFailures))
	}
	switch soak := time.Duration(p.SoakMS) * time.Millisecond; {
	case soak < 0:
		words = append(words, "--soak 0s")
	case soak > 0 && soak != defaultSoak:
		words = append(words, "--soak "+soak.String())
	}
	if p.Parallel != 0 && p.Parallel != defaultParallel {
		words = append(words, "--parallel "+strconv.Itoa(p.Parallel))
	}
	if p.GraceMS != 0 {
		words = append(words, "--grace "+(time.Duration(p.GraceMS)*time.Millisecond).String())
	}
	if p.AllowDowngrade {
		words = append(words, "--allow-downgrade")
	}
	const margin = len("  gururmm update ") + len(" \\")
	line, said := words[0], ""
	for _, w := range words[1:] {
		if len(line)+len(" ")+len(w)+margin > wrap.Width {
			said, line = said+line+" \\\n    ", w
			continue
		}
		line += " " + w
	}
	return said + line
}

func rolloutStopCommand(f *operatorFlags) *cobra.Command {
	return &cobra.Command{
		Use: "stop ID", Short: "Order nothing more of a rollout, until it is resumed",
		Example: "  gururmm update stop 01a20b84", Args: help.Words(1, 1),
		Long: "Order nothing more of a rollout, until it is resumed. What was not fetched is taken\n" +
			"back; what endpoints have taken up already goes on, and is told.",
		SuggestFor: []string{"pause", "cancel", "abort"},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			r, err := client.StopRollout(cmd.Context(), args[0])
			return f.rolloutChanged(cmd.OutOrStdout(), r, err)
		},
	}
}

func rolloutResumeCommand(f *operatorFlags) *cobra.Command {
	var how operator.ResumeRollout
	cmd := &cobra.Command{
		Use: "resume ID", Short: "Let a stopped rollout go on",
		Example: "  gururmm update resume 01a20b84 --retry\n  gururmm update resume 01a20b84 --max-failures 10%", Args: help.Words(1, 1),
		Long: "Let a stopped rollout go on, if it would not stop at once for the same reason:\n" +
			"failures so far count until their endpoints are ordered once more (--retry), or\n" +
			"more of them are allowed (--max-failures). No ring passes of which nobody runs\n" +
			"the version. With --retry a rollout that is active is taken, too.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			r, err := client.ResumeRollout(cmd.Context(), args[0], how)
			return f.rolloutChanged(cmd.OutOrStdout(), r, err)
		},
	}
	cmd.Flags().BoolVar(&how.Retry, "retry", false, "order those that failed, or could not be tried, once more")
	cmd.Flags().StringVar(&how.MaxFailures, "max-failures", "", "a ring may have so many from now on, a share or a number")
	return cmd
}

func (f *operatorFlags) rolloutChanged(w io.Writer, r operator.Rollout, err error) error {
	if err != nil {
		return explain(err)
	}
	if f.json {
		return printJSON(w, r)
	}
	return printRollout(w, r)
}
