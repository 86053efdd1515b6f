package main

import (
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

	"gururmm/agent"
	"gururmm/agent/history"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/selfcheck"
)

// actWait is the longest an order is watched: a dial over a bad path and its verification.
const actWait = 90 * time.Second

// watchAct is how often what came of an order is looked for.
const watchAct = 200 * time.Millisecond

func eventsCommand(o *agent.Options) *cobra.Command {
	var asJSON, follow bool
	var f history.Filter
	var since time.Duration
	var kinds []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List what this agent saw, did and was told",
		Long: "List what this agent saw, did and was told: verdicts with their evidence, steps\n" +
			"and what came of them, ends of the worker, directives. Works with the service\n" +
			"stopped; takes the right to read the state directory.",
		Example: "  gururmm-agent events --since 2h\n  gururmm-agent events --code link -n 5\n  gururmm-agent events --follow",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Last < 0 || since < 0 {
				return fmt.Errorf("-n %d, --since %v: must not be negative", f.Last, since)
			}
			if since > 0 {
				f.Since = time.Now().Add(-since)
			}
			for _, k := range kinds {
				if !slices.Contains(history.Kinds(), history.Kind(k)) {
					return fmt.Errorf("no event is ever of the kind %q; they are %s", k, kindNames())
				}
				f.Kinds = append(f.Kinds, history.Kind(k))
			}
			dir, err := agent.StatePath(*o)
			if err != nil {
				return err
			}
			if _, err := os.ReadDir(dir); err != nil {
				return fmt.Errorf("no history can be read: %w; %s", fileerr.Why(err), state.ElseRoot(err, "name the agent's own directory with --state-dir"))
			}
			list, err := history.Read(dir, f)
			if err != nil {
				return err
			}
			out, style := cmd.OutOrStdout(), agent.Style{Color: tty.Colorful(os.Stdout)}
			if !follow {
				if asJSON {
					return indented(out, list)
				}
				return agent.WriteEvents(out, list, style)
			}
			each := func(e history.Event) error {
				if asJSON {
					return json.NewEncoder(out).Encode(e)
				}
				return agent.WriteEvent(out, e, style)
			}
			for _, e := range list.Events {
				if err := each(e); err != nil {
					return err
				}
			}
			return history.Follow(cmd.Context(), dir, f, each)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "print JSON; with --follow a line an event")
	flags.BoolVarP(&follow, "follow", "f", false, "go on with what happens from now on")
	flags.IntVarP(&f.Last, "last", "n", 20, "at most so many, the newest; 0 is all")
	flags.DurationVar(&since, "since", 0, "of the last so long: 2h, 30m")
	flags.StringSliceVar(&f.Codes, "code", nil, "of these codes, or below: link takes link.silent too")
	flags.StringSliceVar(&kinds, "kind", nil, "of these kinds: verdict, step, worker, directive, …")
	words := func(of func() []string) cobra.CompletionFunc {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return of(), cobra.ShellCompDirectiveNoFileComp
		}
	}
	complete(cmd, "code", words(func() []string { return keptCodes(*o) }))
	complete(cmd, "kind", words(func() (names []string) {
		for _, k := range history.Kinds() {
			names = append(names, string(k))
		}
		return names
	}))
	return cmd
}

func kindNames() string {
	var names []string
	for _, k := range history.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// complete registers what a shell offers for a flag that is known to be there.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // a flag of that name does not exist: seen by every test
	}
}

// keptCodes are those in the history, for completion.
func keptCodes(o agent.Options) (codes []string) {
	if o.StateDir == "" { // a shell that completes runs no command, which would look there
		o.StateDir = os.Getenv(envPrefix + "STATE_DIR")
	}
	dir, err := agent.StatePath(o)
	if err != nil {
		return nil
	}
	list, err := history.Read(dir, history.Filter{})
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, e := range list.Events {
		if e.Code != "" && !seen[e.Code] {
			seen[e.Code] = true
			codes = append(codes, e.Code)
		}
	}
	return codes
}

func indented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func localClient(o *agent.Options) (*local.Client, error) {
	socket, err := agent.FindSocket(*o)
	if err != nil {
		return nil, err
	}
	return local.NewClient(socket), nil
}

// watchUntil asks for the status until done says so; what it says on the way is
// told once.
func watchUntil(ctx context.Context, c *local.Client, w io.Writer, done func(local.Status) (line string, over bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, actWait)
	defer cancel()
	tick := time.NewTicker(watchAct)
	defer tick.Stop()
	said := ""
	for {
		s, err := c.Status(ctx)
		if err == nil {
			line, over, failed := done(s)
			if line != said && line != "" {
				fmt.Fprintln(w, wrap.Behind("  ", line))
				said = line
			}
			if over || failed != nil {
				return failed
			}
		} else if ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			seen := ""
			if said != "" {
				seen = "; the last seen: " + said
			}
			return fmt.Errorf("not within %v%s (gururmm-agent status says more)", actWait, seen)
		case <-tick.C:
		}
	}
}

func reconnectCommand(o *agent.Options) *cobra.Command {
	var r local.ReconnectRequest
	var noWait bool
	cmd := &cobra.Command{
		Use:   "reconnect",
		Short: "Make the agent drop its link and verify a new one",
		Long: "Make the running agent drop its link and dial anew, and wait until the new link\n" +
			"is verified. It takes root or the account that the agent runs as; the group\n" +
			"gururmm may look, not act.\n\nExit codes: 0 a new link is verified (with --no-wait:\nordered), 1 it is not.",
		Example: "  gururmm-agent reconnect\n  gururmm-agent reconnect --alternative --reason 'try the other network'",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := localClient(o)
			if err != nil {
				return err
			}
			began := time.Now()
			acted, err := c.Reconnect(cmd.Context(), r)
			if err != nil {
				return err
			}
			if acted.Refused != "" {
				return errors.New("not reconnected: " + acted.Refused)
			}
			out := cmd.OutOrStdout()
			if noWait {
				fmt.Fprintln(out, "Ordered; not waited for. See: gururmm-agent status")
				return nil
			}
			fmt.Fprintf(out, "Ordered; waiting for a new link to be verified, %v at the longest.\n", actWait)
			err = watchUntil(cmd.Context(), c, out, func(s local.Status) (string, bool, error) {
				line, done := agent.Progress(s, acted.Link)
				return line, done, nil
			})
			if err != nil {
				return fmt.Errorf("no new link is verified: %w", err)
			}
			fmt.Fprintf(out, "A new link is verified, after %v.\n", time.Since(began).Round(10*time.Millisecond))
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "is told to the server and kept in the history")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "order it, and don't wait for the new link")
	cmd.Flags().BoolVar(&r.Alternative, "alternative", false, "by another endpoint, or the other IP family")
	return cmd
}

func beaconCommand(o *agent.Options) *cobra.Command {
	cmd := &cobra.Command{Use: "beacon", Short: "Try the second door"}
	var asJSON bool
	test := &cobra.Command{
		Use:   "test",
		Short: "Ask at each second door, and send a beacon if the agent runs",
		Long: "Ask at each configured second door in turn, with this endpoint's identity, whether\n" +
			"the agent runs or not; this takes the right to read the state directory. If the\n" +
			"agent runs, its guardian then sends a beacon as it would in need.\n\n" +
			"Exit codes: 0 each door answered, and the beacon arrived; else 1.",
		Example: "  gururmm-agent beacon test",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := agent.TestDoors(cmd.Context(), *o)
			if err != nil {
				return err
			}
			c, err := localClient(o)
			if err != nil {
				return err
			}
			r.Guardian = guardiansBeacon(cmd.Context(), c, cmd.ErrOrStderr())
			if asJSON {
				err = indented(cmd.OutOrStdout(), r)
			} else {
				err = agent.WriteDoorTest(cmd.OutOrStdout(), r)
			}
			if err == nil && !r.Well() {
				return exitCode(exitFailed)
			}
			return err
		},
	}
	test.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(test)
	return cmd
}

// guardiansBeacon lets a running guardian beacon, and gives what came of it; w is told
// that it is waited for.
func guardiansBeacon(ctx context.Context, c *local.Client, w io.Writer) agent.GuardianBeacon {
	before, err := c.Status(ctx)
	if errors.Is(err, local.ErrNotRunning) {
		return agent.GuardianBeacon{Why: "the agent does not run"}
	}
	var acted local.Acted
	if err == nil {
		acted, err = c.Beacon(ctx)
	}
	if err == nil && acted.Refused != "" {
		err = errors.New(acted.Refused)
	}
	b := agent.GuardianBeacon{Running: true}
	if err == nil {
		fmt.Fprintln(w, wrap.Behind("  ", fmt.Sprintf("waiting for the guardian's beacon, %v at the longest", actWait)))
		err = watchUntil(ctx, c, w, func(s local.Status) (string, bool, error) {
			last := s.LastBeacon
			if last == nil || before.LastBeacon != nil && last.ReportID == before.LastBeacon.ReportID {
				return "", false, nil
			}
			if !last.OK {
				return "", true, errors.New(last.Error)
			}
			b.Door = last.Door
			return "", true, nil
		})
	}
	if b.OK = err == nil; err != nil {
		b.Why = err.Error()
	}
	return b
}

func policyCommand(o *agent.Options) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Tell of the policy in force"}
	var asJSON bool
	show := &cobra.Command{
		Use:     "show",
		Short:   "Show the policy in force, its source, and what each value means",
		Example: "  gururmm-agent policy show",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := localClient(o)
			if err != nil {
				return err
			}
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if s.Mode == local.ModeNotEnrolled || s.Verdict.Severity == selfcheck.SeverityUnknown && s.PolicySource == "" {
				return errors.New("no policy is in force: " + s.Detail)
			}
			r := agent.ReportPolicy(s.Policy, s.PolicySource)
			if asJSON {
				return indented(cmd.OutOrStdout(), r)
			}
			return agent.WritePolicy(cmd.OutOrStdout(), r)
		},
	}
	show.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(show)
	return cmd
}
