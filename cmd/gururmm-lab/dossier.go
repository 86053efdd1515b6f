package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gururmm/diagnosis"
	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/lab/replay"
)

func dossierCommand() *cobra.Command {
	var file, page string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "dossier",
		Short: "Replay the first case under each mechanism",
		Long: `Replay the first case under each mechanism, and compare with what was seen.

Runs a model of the agent and the server that the case describes, in virtual
time, once for each mechanism of the diagnosis and each reading of what the
case leaves open; makes the case's tests in each run; and prints which come out
as they did: reproduced, contradicted, or untouched, which is as they would
with nothing wrong. Beside them: what the case's server did not look at.

It takes about a second and prints the same each time.`,
		Example: "  gururmm-lab dossier\n  gururmm-lab dossier --write docs/diagnosis.md",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("--case: %w (run it where the project is, or name the file)", fileerr.Why(err))
			}
			defer f.Close()
			raw, err := io.ReadAll(io.LimitReader(f, diagnosis.MaxCase+1))
			if err != nil {
				return fmt.Errorf("--case: %w", fileerr.Why(err))
			}
			c, err := diagnosis.ReadCase(raw)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			r, err := replay.Of(c)
			if err != nil {
				return err
			}
			if page != "" {
				if err := r.Write(page); err != nil {
					return fmt.Errorf("--write %s: %w", page, fileerr.Why(err))
				}
			}
			if asJSON {
				return printJSON(cmd, r)
			}
			return r.Print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&file, "case", "lab/cases/commands-unacknowledged.yaml", "the case file")
	cmd.Flags().StringVar(&page, "write", "", "write the matrix into its place in FILE.md, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
