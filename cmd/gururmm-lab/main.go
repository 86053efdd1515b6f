// Command gururmm-lab breaks the path between endpoints and server on purpose
// and shows what comes of it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gururmm-lab:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "gururmm-lab",
		Short:         "Break the path between endpoints and server on purpose",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(demoCommand(), proxyCommand(), figuresCommand(), floorCommand(), fleetCommand(), benchCommand(), benchPartCommand(), dossierCommand(), scenariosCommand())
	help.Fit(cmd)
	return cmd
}

// printJSON prints what a command came to, for programs.
func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
