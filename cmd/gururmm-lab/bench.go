package main

import (
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/lab/bench"
)

func benchCommand() *cobra.Command {
	o := bench.Options{}
	var out string
	var asJSON, keep bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the server beside raw TCP, NATS and JetStream",
		Long: `Measure the server beside raw TCP, NATS and JetStream.

Each server and what plays its clients runs as a process of its own on this
machine, one comparison after the other; each figure is printed beside what must
hold. Exits 0 only if all hold. Sections:

  idle        memory of an idle connection, plain and TLS
  roundtrips  a text to the server and its answer, 256 in flight
  durable     commands from accepted to result stored, on SQLite
  postgres    the same on a PostgreSQL, which is started for it
  pings       CPU of looking every 30 s whether each of many links lives
  storm       10,000 links cut at once that come back over TLS
  growth      cost with few and with many agents, a table and a plot

A figure says something only beside the others of its run.`,
		Example: "  gururmm-lab bench\n  gururmm-lab bench --only idle,roundtrips --agents 10000\n  gururmm-lab bench --out docs/performance.md",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			o.Out = cmd.OutOrStdout()
			if asJSON {
				o.Out = cmd.ErrOrStderr()
			}
			if o.Dir, err = place(""); err != nil {
				return err
			}
			if keep {
				cmd.PrintErrln("state and logs:", o.Dir)
			} else {
				defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
			}
			if out != "" { // after each section: one that fails takes no other's figures with it
				o.Done = func(r bench.Report) error { return r.Document(out) }
			}
			report, err := bench.Run(cmd.Context(), o)
			if asJSON {
				err = errors.Join(err, printJSON(cmd, report))
			}
			if err == nil && !report.OK {
				err = errNotHeld
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Agents, "agents", 5000, "connections of each comparison")
	flags.IntVar(&o.Fleet, "fleet", 19_000, "links of pings, storm and growth")
	flags.StringVar(&out, "out", "", "write the page FILE.md, and FILE.svg beside it")
	flags.StringSliceVar(&o.Only, "only", nil, "sections, of "+strings.Join(bench.Sections(), ", "))
	flags.BoolVar(&o.Quick, "quick", false, "only see whether it works: turns too short to say anything")
	flags.BoolVar(&keep, "keep", false, "keep state and logs, and say where")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// benchPartCommand is run by bench itself.
func benchPartCommand() *cobra.Command {
	return &cobra.Command{
		Use:    bench.PartWord + " KIND",
		Short:  "Be one part of a benchmark",
		Hidden: true,
		Args:   help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return bench.Part(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
