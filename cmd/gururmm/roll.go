package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

func rollCommand(f *operatorFlags) *cobra.Command {
	var (
		n           operator.NewRollout
		rings       string
		soak, grace time.Duration
	)
	cmd := &cobra.Command{
		Use:   "roll VERSION",
		Short: "Bring a published version to the endpoints, ring by ring",
		Long: "Bring a published version to the endpoints, ring by ring: the next ring begins when\n" +
			"all of one have told their outcome, at least one runs the version, and --soak is\n" +
			"over. Too many failures in a ring stop the rollout. Endpoints that are away hold\n" +
			"up nothing; they are ordered when they come back. Those that enroll later are\n" +
			"not part of it.",
		Args: cobra.ExactArgs(1),
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
	cmd.Flags().StringVar(&rings, "ring", "1%,10%,100%", "shares of the endpoints, each with those before it")
	cmd.Flags().StringSliceVar(&n.Agents, "agents", nil, "only these (names or ids)")
	cmd.Flags().StringVar(&n.Site, "site", "", "only of this site")
	cmd.Flags().StringVar(&n.MaxFailures, "max-failures", "5%", "a ring may have so many, a share or a number; one more stops it")
	cmd.Flags().DurationVar(&soak, "soak", 10*time.Minute, "watch a ring so long before the next; 0: not at all")
	cmd.Flags().IntVar(&n.Parallel, "parallel", 50, "at most so many endpoints at once")
	cmd.Flags().BoolVar(&n.AllowDowngrade, "allow-downgrade", false, "also endpoints that run a newer version")
	cmd.Flags().DurationVar(&grace, "grace", 0, "the new program must hold a verified link so long, 1s to 10m (default: 20s)")
	cmd.MarkFlagsMutuallyExclusive("agents", "site")
	return cmd
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
		Use:   "status [ID]",
		Short: "Tell how rollouts stand: those under way, else the last one",
		Args:  cobra.MaximumNArgs(1),
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

// printRollout gives each ring a line, and each failure its reason.
func printRollout(w io.Writer, r operator.Rollout) error {
	fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("Rollout %s of %s, by %s %s ago: %s", r.ID, oneLine(r.Version, 40),
		oneLine(r.CreatedBy, 24), span(time.Since(r.CreatedAt)), wrap.Plain(r.Now))))
	rows := [][]string{{"RING", "WANTED", "ORDERED", "RUNNING", "DONE", "FAILED", "WAITING", "AWAY", "SKIPPED"}}
	for i, ring := range r.Rings {
		name := fmt.Sprintf("%d (%g%%)", i+1, ring.Percent)
		if i == r.Ring && r.State == operator.RolloutActive {
			name += " *"
		}
		row := []string{name}
		for _, n := range []int{ring.Wanted, ring.Ordered, ring.Running, ring.Done, ring.Failed, ring.Waiting - ring.Away, ring.Away, ring.Skipped} {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, row)
	}
	for _, line := range columns(rows) {
		fmt.Fprintln(w, line)
	}
	for _, a := range r.Failures {
		fmt.Fprintln(w, wrap.Behind("  ", fmt.Sprintf("%s (ring %d) failed %s: %s", oneLine(a.AgentName, 24), a.Ring+1, ago(a.EndedAt), wrap.Plain(a.Detail))))
	}
	return nil
}

func rolloutStopCommand(f *operatorFlags) *cobra.Command {
	return &cobra.Command{
		Use: "stop ID", Short: "Order nothing more of a rollout; what is taken up goes on", Args: cobra.ExactArgs(1),
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
		Use: "resume ID", Short: "Let a stopped rollout go on; failures so far do not count any more", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			r, err := client.ResumeRollout(cmd.Context(), args[0], how)
			return f.rolloutChanged(cmd.OutOrStdout(), r, err)
		},
	}
	cmd.Flags().BoolVar(&how.Retry, "retry", false, "order those that failed once more")
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
