package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/wrap"
	"gururmm/lab/blind"
	"gururmm/lab/harness"
	"gururmm/lab/replay"
)

func scenariosCommand() *cobra.Command {
	o := blind.Options{}
	var bin string
	var asJSON, poor bool
	cmd := &cobra.Command{
		Use:   "scenarios",
		Short: "Put faults into a real system, and have the diagnosis name them",
		Long: `Put faults into a real system, and have the diagnosis name them.

Each run enrolls an endpoint behind a box of its own, orders commands of it, puts
one fault in at a random moment, and asks some 20 s later what "gururmm diagnose"
would answer. The diagnosis sees what the server holds, and nothing of the fault.
Printed are what was named by what was put in, and each figure beside its limit.
Exits 0 only if all hold.

--poor names each mechanism by the first case's protocol instead, for comparison:
its agent and server, as a model (see dossier), have no ledger, no stages, no
verdicts and no second door. It takes a second and puts nothing in.

It takes programs with the seams for faults: make faults builds them, make
scenarios builds and runs.`,
		Example: "  gururmm-lab scenarios --seed 7\n  gururmm-lab scenarios --poor\n  gururmm-lab scenarios --only path.halfopen,path.mtu --runs 8 --well 0",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if poor {
				all := replay.Poor()
				if asJSON {
					return printJSON(cmd, all)
				}
				return replay.PrintPoor(cmd.OutOrStdout(), all)
			}
			if bin == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				bin = filepath.Join(filepath.Dir(self), "faults")
			}
			if o.Runs < 0 || o.Well < 0 || o.Runs+o.Well == 0 || o.AtOnce < 1 {
				return errors.New("want --runs and --well from 0, not both 0, and --at-once from 1")
			}
			if o.Bin, err = harness.FindFaults(bin); err != nil {
				return fmt.Errorf("programs with the seams for faults: %w", err)
			}
			if o.Dir, err = place(""); err != nil {
				return err
			}
			if o.Keep {
				cmd.PrintErrln("cases and logs:", o.Dir)
			} else {
				defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
			}
			o.Progress = func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), wrap.Behind("", s)) }
			report, err := blind.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, report)
			} else {
				err = report.Print(cmd.OutOrStdout())
			}
			if err == nil && !report.OK {
				err = errNotHeld
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&bin, "faults", "", "directory of gururmm and gururmm-agent, built with the tag faults (default: faults beside this program)")
	flags.Uint64Var(&o.Seed, "seed", 1, "what is drawn is drawn from this")
	flags.IntVar(&o.Runs, "runs", 220, "runs with a fault, dealt evenly to the mechanisms")
	flags.IntVar(&o.Well, "well", 100, "runs without one")
	flags.StringSliceVar(&o.Only, "only", nil, "mechanisms, of "+strings.Join(blind.Mechanisms(), ", "))
	flags.IntVar(&o.AtOnce, "at-once", 24, "runs under way together")
	flags.BoolVar(&poor, "poor", false, "name them by the first case's protocol instead, which has no ledger")
	flags.BoolVar(&o.Keep, "keep", false, "keep each run's case, and the logs, and say where")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	err := cmd.RegisterFlagCompletionFunc("only", func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		i := strings.LastIndexByte(typed, ',') + 1 // the last of a list
		done := strings.Split(typed[:i], ",")
		var words []cobra.Completion
		for _, id := range blind.Mechanisms() {
			if strings.HasPrefix(id, typed[i:]) && !slices.Contains(done, id) {
				words = append(words, typed[:i]+id)
			}
		}
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	if err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}
