package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gururmm/agent"
	"gururmm/agent/bundle"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
)

func bundleCommand(o *agent.Options) *cobra.Command {
	var order agent.BundleOrder
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bundle [-o FILE]",
		Short: "Gather what support needs in one file, without secrets",
		Long: "Gather what support needs in one file: status, history, stacks and traces of both\n" +
			"processes, reports, logs, configuration, journal, machine. It works while the worker\n" +
			"is frozen and while nothing runs, from what is there. It holds no key, token or\n" +
			"password, and nothing of what commands ran or printed.\n\n" +
			"With --output - it goes to standard output, and what is in it is told on standard\n" +
			"error.\n\n" +
			"Run it as root, or as the account that the agent runs as.",
		Example: "  gururmm-agent bundle\n  ssh web-17 gururmm-agent bundle -o - > web-17.tar.gz",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if order.Reason == "" {
				order.Reason = "made by hand"
			}
			if order.File == "-" {
				return streamBundle(cmd, *o, order, asJSON)
			}
			file, m, err := agent.MakeBundle(cmd.Context(), *o, order)
			if err != nil {
				return err
			}
			if asJSON {
				return indented(cmd.OutOrStdout(), struct {
					File     string          `json:"file"`
					Manifest bundle.Manifest `json:"manifest"`
				}{file, m})
			}
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			return tellBundle(cmd.OutOrStdout(), filepath.Clean(file), info.Size(), m)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&order.File, "output", "o", "", "file to write, - for standard output; one that is there is not replaced")
	flags.StringVar(&order.Reason, "reason", "", "kept in the bundle's manifest")
	flags.BoolVar(&asJSON, "json", false, "print the manifest as JSON")
	flags.BoolVar(&order.NoDoctor, "no-doctor", false, "leave out the doctor's visit, which dials and takes longest")
	flags.StringVar(&order.ID, "id", "", "of the bundle")
	if err := flags.MarkHidden("id"); err != nil {
		panic(err) // the flag is the one above
	}
	return cmd
}

// streamBundle writes a bundle to standard output.
func streamBundle(cmd *cobra.Command, o agent.Options, order agent.BundleOrder, asJSON bool) error {
	if asJSON {
		return errors.New("--json prints the manifest where --output - writes the bundle: leave one out (manifest.json is in the bundle)")
	}
	out := cmd.OutOrStdout()
	if f, ok := out.(*os.File); ok && tty.Is(f) {
		return errors.New("a bundle is no text for a terminal: send it to a file or a pipe, or give --output FILE")
	}
	m, bytes, err := agent.StreamBundle(cmd.Context(), o, order, out)
	if err != nil {
		return err
	}
	return tellBundle(cmd.ErrOrStderr(), "the bundle", int64(bytes), m)
}

// tellBundle says what is in a bundle, and what is not; file is its name for people.
func tellBundle(w io.Writer, file string, bytes int64, m bundle.Manifest) error {
	there, missing := 0, []bundle.Member(nil)
	for _, member := range m.Members {
		if member.Missing == "" {
			there++
		} else {
			missing = append(missing, member)
		}
	}
	fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("%s (%d bytes, %d members; the guardian %s)", file, bytes, there, m.Guardian)))
	for _, member := range missing {
		fmt.Fprintln(w, wrap.Behind("  without "+member.Name+": ", member.Missing))
	}
	_, err := fmt.Fprintln(w, "Unpack it in a folder of its own; sha256sum -c "+bundle.SumsName+" checks it there, and\n"+
		bundle.ManifestName+" says what each member is.")
	return err
}
