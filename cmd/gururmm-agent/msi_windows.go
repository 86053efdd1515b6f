package main

import (
	"bytes"
	"time"

	"github.com/spf13/cobra"

	"gururmm/agent"
	"gururmm/internal/help"
	"gururmm/internal/version"
)

func init() { ofThisPlatform = append(ofThisPlatform, msiCommand) }

// settleWithin is how long the package waits for a verified link at its end.
const settleWithin = time.Minute

// msiCommand is called by the package for Windows (installer/msi.go), and by nobody else. Windows
// Installer throws away what a program says: it goes to the log of installations.
func msiCommand(o *agent.Options) *cobra.Command {
	cmd := &cobra.Command{Use: "msi", Short: "What the package for Windows calls", Hidden: true}
	step := func(use string, args cobra.PositionalArgs, do func(cmd *cobra.Command, args []string) error) {
		cmd.AddCommand(&cobra.Command{Use: use, Args: args, Hidden: true, RunE: func(cmd *cobra.Command, args []string) error {
			err := do(cmd, args)
			if err != nil {
				_ = agent.LogInstall(use+": "+err.Error(), true) // the step's own failure is what counts
			}
			return err
		}})
	}
	step("note", help.Words(0, 0), func(*cobra.Command, []string) error { return agent.NoteService() })
	step("configure", help.Words(0, 0), func(*cobra.Command, []string) error { return agent.ConfigureService() })
	step("order", cobra.ArbitraryArgs, func(_ *cobra.Command, words []string) error { return agent.OrderToEnroll(words) })
	step("drop-order", help.Words(0, 0), func(*cobra.Command, []string) error { return agent.DropOrder() })
	step("finish", help.Words(0, 0), func(cmd *cobra.Command, _ []string) error {
		kept, err := agent.StartNoted()
		if err != nil {
			return err
		}
		if kept != "" {
			return agent.LogInstall("gururmm-agent: version "+version.Version+" is installed, and not started: "+kept+". Start it with: gururmm-agent start", false)
		}
		got, err := settle(cmd.Context(), *o, settleWithin)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := tellSettled(&text, got); err != nil {
			return err
		}
		return agent.LogInstall(text.String(), got.Outcome == agent.SettledSilent)
	})
	// No log: it would be left behind.
	cmd.AddCommand(&cobra.Command{Use: "purge", Args: help.Words(0, 0), Hidden: true, RunE: func(*cobra.Command, []string) error { return agent.Purge() }})
	return cmd
}
