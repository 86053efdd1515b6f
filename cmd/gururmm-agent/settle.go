package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gururmm/agent"
	"gururmm/agent/local"
	"gururmm/internal/help"
	"gururmm/internal/version"
	"gururmm/internal/wrap"
)

// settleCommand is what each package asks at its end.
func settleCommand(o *agent.Options) *cobra.Command {
	var within time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "settle",
		Short: "Wait until this version has verified its link",
		Long: "Wait until the service of this version has verified its link, and say so, or what\n" +
			"else is the case. An installer asks this at its end.\n\n" +
			"Exit codes: 0 verified, 1 not verified or not running, 2 waits to be enrolled.",
		Example: "  gururmm-agent settle --within 60s\n  gururmm-agent settle --json",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if within <= 0 {
				return fmt.Errorf("--within %v: give a time, as 60s", within)
			}
			got, err := settle(cmd.Context(), *o, within)
			if err != nil {
				return err
			}
			if asJSON {
				err = indented(cmd.OutOrStdout(), got)
			} else {
				err = tellSettled(cmd.OutOrStdout(), got)
			}
			switch {
			case err != nil:
				return err
			case got.Outcome == agent.SettledWaits:
				return exitCode(exitNotEnrolled)
			case got.Outcome != agent.SettledVerified:
				return exitCode(exitFailed)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&within, "within", time.Minute, "wait so long at most")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// settle asks the service, for so long at most. Who waits longer than a moment is told what for.
func settle(ctx context.Context, o agent.Options, within time.Duration) (agent.Settled, error) {
	socket, err := agent.FindSocket(o)
	if err != nil {
		return agent.Settled{}, err
	}
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	client := local.NewClient(socket)
	var denied error
	asks := 0
	got := agent.Settle(limited, func(ctx context.Context) (local.Status, error) {
		if asks++; asks == 4 {
			fmt.Fprintf(os.Stderr, "gururmm-agent: waiting for a verified link, %v at the longest\n", within)
		}
		asked := time.Now()
		st, err := client.Status(ctx)
		if errors.Is(err, os.ErrPermission) { // which says nothing of the service
			denied = err
			cancel()
		}
		return st, agent.Silent(o, asked, err)
	}, version.Version)
	switch {
	case denied != nil:
		return got, denied
	case ctx.Err() != nil:
		return got, errors.New("interrupted; nothing was changed")
	}
	return got, nil
}

// tellSettled says it for people, and for an installer's log.
func tellSettled(out io.Writer, got agent.Settled) error {
	line := func(text string) error {
		_, err := fmt.Fprintln(out, wrap.Behind("gururmm-agent: ", text))
		return err
	}
	who := got.Installed
	if got.Guards != "" && got.Guards != got.Installed {
		who = got.Guards + " (the installed program is " + got.Installed + ")"
	}
	switch got.Outcome {
	case agent.SettledVerified:
		return line("version " + who + " guards this endpoint, and its link is verified. It is agent " + got.Agent + ".")
	case agent.SettledWaits:
		if err := line("version " + who + " is installed and runs, waiting to be enrolled: " + got.Reason + "."); err != nil {
			return err
		}
	case agent.SettledNot:
		if err := line("version " + who + " is installed and runs, but its link is not verified: " + got.Reason); err != nil {
			return err
		}
	default:
		if err := line("version " + who + " is installed, but the service does not answer: " + got.Reason + ". See gururmm-agent doctor, and the service's log."); err != nil {
			return err
		}
	}
	if got.Retried {
		if err := line("It goes on trying; gururmm-agent status tells how it is."); err != nil {
			return err
		}
	}
	if got.Action == "" {
		return nil
	}
	return line(got.Action)
}
