// Command gururmm is the server and the operator's tool: serve runs the
// server, the other commands ask one.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gururmm/checkup"
	"gururmm/internal/help"
	"gururmm/internal/logsink"
	"gururmm/internal/version"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command line and gives its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand(args)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	code := 1
	if cmd.Name() == execName { // whatever is wrong with exec itself is no code of the command's
		code = exitNoCode
	} else if cmd.Name() == doctorName || cmd.Name() == probeName { // nor is it a fault that was found
		code = checkup.ExitNotRun
	} else if cmd.Name() == diagnoseName {
		code = exitBadInput
	}
	exit, ok := errors.AsType[*exitError](err)
	if ok {
		code = exit.code
	}
	if !ok || exit.err != nil {
		if cmd.Name() == serveName { // it must end, too, where nobody reads
			sink := logsink.New(stderr)
			defer sink.Close()
			stderr = sink
		}
		tell(stderr, err, help.WantsJSON(args))
	}
	return code
}

// rootCommand has all commands below it; typed is the command line, for hints.
func rootCommand(typed []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "gururmm",
		Short: "The GuruRMM server, and the operator's tool",
		Long: "The GuruRMM server, and the operator's tool.\n\n" +
			"AGENT is a host name or an agent's id, COMMAND a command's id; of an id the\n" +
			"beginning is enough, from four characters on, if it fits one alone.\n\n" +
			"With --json an error is one line on standard error, {\"error\": …, \"code\": …}; the\n" +
			"code is stable.",
		Version: version.Version,
		// An error is printed once, by run; usage only where it was asked for.
		SilenceErrors: true, SilenceUsage: true,
	}
	addServe(root)
	root.AddCommand(versionCommand())
	addOperator(root, typed)
	help.Fit(root)
	return root
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"version": version.Version})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version.Version)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
