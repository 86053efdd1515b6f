package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/lab/demo"
	"gururmm/lab/figures"
	"gururmm/lab/harness"
)

func figuresCommand() *cobra.Command {
	var bin, faults string
	var idle time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "figures",
		Short: "Measure what an endpoint costs, and how soon it is served again",
		Long: `Measure what an endpoint costs, and how soon it is served again.

Runs servers and agents as processes on this machine, one after the other, and
prints each figure beside its requirement. Exits 0 only if all are kept. "make
figures" builds what it needs.`,
		Example: "  gururmm-lab figures --idle 5m",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if bin == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				bin = filepath.Dir(self)
			}
			if faults == "" {
				faults = filepath.Join(bin, "faults")
			}
			if idle < time.Second {
				return fmt.Errorf("--idle %v: want at least 1s", idle)
			}
			o := figures.Options{Idle: idle, Out: cmd.ErrOrStderr()}
			if o.Bin, err = harness.Find(bin); err != nil {
				return err
			}
			if o.Faults, err = harness.FindFaults(faults); err != nil {
				return fmt.Errorf("programs with the seams for faults: %w", err)
			}
			if o.Dir, err = place(""); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
			report, err := figures.Run(cmd.Context(), o)
			if asJSON {
				err = errors.Join(err, printJSON(cmd, report))
			} else {
				demo.PrintFindings(cmd.OutOrStdout(), demo.Report{Figures: report.Figures})
			}
			if err == nil && !report.OK {
				err = errNotHeld
			}
			return err
		},
	}
	cmd.Flags().StringVar(&bin, "bin", "", "directory of gururmm and gururmm-agent (default: where this program is)")
	cmd.Flags().StringVar(&faults, "faults", "", "the same, built with the tag faults (default: faults in there)")
	cmd.Flags().DurationVar(&idle, "idle", time.Minute, "how long an idle endpoint is watched")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// floorCommand is run by figures itself.
func floorCommand() *cobra.Command {
	var send bool
	cmd := &cobra.Command{
		Use:    figures.FloorWord,
		Short:  "Be one end of what an idle endpoint is measured beside",
		Hidden: true,
		Args:   help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return figures.Floor(send, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&send, "send", false, "the end that sends")
	return cmd
}
