package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gururmm/checkup"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

const (
	// doctorWait is how long doctor waits unless told otherwise: a visit over a bad
	// path takes two or three minutes, one over a good path a second.
	doctorWait = 5 * time.Minute
	// lookBack is how many directives are searched for the last visit: as many as are kept.
	lookBack = 200
)

// doctorName is the command whose exit code 1 means that something was found.
const doctorName = "doctor"

func doctorCommand(f *operatorFlags) *cobra.Command {
	var only []string
	var last, verbose bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   doctorName + " AGENT",
		Short: "Have an endpoint look at its way to the server, and show it",
		Long: "Have an endpoint look at its way to the server and at its machine, and show what\n" +
			"it found and what to do. It is ordered by the second door (see direct), so it\n" +
			"works while the link is deaf; the live link is left alone.\n\n" +
			"Exit codes: 0 all pass or warn, 1 any fails, 2 no report: not come for in time, or\n" +
			"it could not run.",
		Example: "  gururmm doctor web-17\n  gururmm doctor web-17 --only echo,mtu\n  gururmm doctor web-17 --last",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkDuration("wait", wait); err != nil {
				return err
			}
			if last && len(only) > 0 {
				return errors.New("--last shows what was looked at then: leave out --only")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			var d operator.Directive
			if last {
				d, err = lastVisit(cmd.Context(), client, args[0])
			} else {
				d, err = f.visit(cmd, client, args[0], only, wait)
			}
			if err != nil {
				return err
			}
			return f.visited(cmd.OutOrStdout(), d, checkup.Style{Color: tty.Colorful(os.Stdout), Verbose: verbose})
		},
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "run these probes and what they need: name,name… (gururmm-agent doctor --list)")
	cmd.Flags().BoolVar(&last, "last", false, "show the last report instead of ordering one")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show more of what is well")
	cmd.Flags().DurationVar(&wait, "wait", doctorWait, "wait so long for the report")
	return cmd
}

// visit orders a doctor's visit and waits for its end.
func (f *operatorFlags) visit(cmd *cobra.Command, client *operator.Client, agent string, only []string, wait time.Duration) (operator.Directive, error) {
	d, err := client.Direct(cmd.Context(), agent, operator.NewDirective{Kind: wire.DirectiveRunProbes, Only: only})
	if err != nil {
		return d, explain(err)
	}
	progress := cmd.ErrOrStderr()
	if f.json {
		progress = io.Discard
	}
	if d, err = awaitDirective(cmd.Context(), client, d, wait, progress); err != nil {
		return d, explain(err)
	}
	if err := outcome(d, wait); err != nil {
		return d, &exitError{checkup.ExitNotRun, err}
	}
	return d, nil
}

// lastVisit finds the newest visit that brought a report.
func lastVisit(ctx context.Context, client *operator.Client, agent string) (operator.Directive, error) {
	items, err := client.Directives(ctx, agent, lookBack)
	if err != nil {
		return operator.Directive{}, explain(err)
	}
	for _, d := range items { // the newest first
		if d.Kind == wire.DirectiveRunProbes && d.State == string(wire.DirectiveDone) {
			if d, err = client.Directive(ctx, d.ID); err != nil {
				return d, explain(err)
			}
			return d, nil
		}
	}
	return operator.Directive{}, errors.New("no doctor has reported from there yet: leave out --last to order one")
}

// visited prints the report of an ended visit; the error carries its exit code.
func (f *operatorFlags) visited(w io.Writer, d operator.Directive, style checkup.Style) error {
	r, err := checkup.Parse(d.Report)
	if err != nil {
		return fmt.Errorf("directive %s: %w: %s", d.ID, err, cmp.Or(wrap.Plain(d.Detail), "no words with it"))
	}
	if f.json {
		err = printJSON(w, r)
	} else {
		err = checkup.Write(w, r, style)
	}
	if code := r.ExitCode(); err == nil && code != checkup.ExitWell {
		return &exitError{code: code}
	}
	return err
}
