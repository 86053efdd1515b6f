package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/lab/demo"
	"gururmm/lab/harness"
)

// errNotHeld says that the demo ran, and that a claim or a figure did not hold.
var errNotHeld = errors.New("not all held")

func demoCommand() *cobra.Command {
	var bin, dir string
	var asJSON, keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a command arriving over a path that swallows text",
		Long: `Show a command arriving over a path that swallows text.

Starts a server, a box on the path and an agent as processes on this machine,
breaks the path from server to agent, mends it, and tells what server and agent
say of it. Exits 0 only if every claim and every figure held.`,
		Example: "  gururmm-lab demo\n  gururmm-lab demo --dir /tmp/demo --keep",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if bin == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				bin = filepath.Dir(self)
			}
			o := demo.Options{}
			if o.Bin, err = harness.Find(bin); err != nil {
				return err
			}
			if o.Dir, err = place(dir); err != nil {
				return err
			}
			if !keep {
				defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
			}
			if !asJSON {
				o.Out, o.Colour = cmd.OutOrStdout(), tty.Colorful(os.Stdout)
			}
			report, err := demo.Run(cmd.Context(), o)
			if keep {
				report.Dir = o.Dir
			}
			return show(cmd, report, asJSON, err)
		},
	}
	cmd.Flags().StringVar(&bin, "bin", "", "directory of gururmm and gururmm-agent (default: where this program is)")
	cmd.Flags().StringVar(&dir, "dir", "", "directory to make the state in (default: a temporary one)")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep state and logs, and say where")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the steps, claims and figures as JSON")
	return cmd
}

// place makes a fresh directory with a short name: a unix socket's path has about 100 bytes.
func place(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "gururmm-demo")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(abs, 0o700); err != nil {
		return "", fmt.Errorf("--dir must not exist yet: %w", err)
	}
	return abs, nil
}

func show(cmd *cobra.Command, r demo.Report, asJSON bool, err error) error {
	if asJSON {
		err = errors.Join(err, printJSON(cmd, r))
	} else {
		demo.Print(cmd.OutOrStdout(), r)
	}
	if err == nil && !r.OK {
		err = errNotHeld
	}
	return err
}
