package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gururmm/agent"
	"gururmm/agent/probe"
	"gururmm/checkup"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
)

// doctorName is the command whose exit code 1 means that something was found.
const doctorName = "doctor"

func doctorCommand(o *agent.Options) *cobra.Command {
	var d agent.DoctorOptions
	var asJSON, list, verbose, typed, trust bool
	cmd := &cobra.Command{
		Use:   doctorName,
		Short: "Look at this endpoint and its way to the server",
		Long: "Look at this endpoint and its way to the server, step by step, and say what to\n" +
			"do about what is found. It changes nothing and leaves the running agent's link\n" +
			"alone; it works with the agent stopped, and before enrollment with --server.\n\n" +
			"Exit codes: 0 all pass or warn, 1 any fails, 2 could not run. An agent that does\n" +
			"not run is a warning; `status` exits 2 then.",
		Example: "  gururmm-agent doctor\n" +
			"  gururmm-agent doctor --only echo,mtu\n" +
			"  gururmm-agent doctor --server https://rmm.example:8443 --pin sha256/…",
		Args: func(cmd *cobra.Command, args []string) error {
			// The environment has not been looked at yet.
			typed, trust = cmd.Flags().Changed("server"), cmd.Flags().Changed("ca") || cmd.Flags().Changed("pin")
			return help.Words(0, 0)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			// An environment made for `enroll` names a server; an enrolled endpoint has its own.
			if _, none := agent.NoIdentity(*o); !none && !typed {
				if trust {
					return errors.New("--ca and --pin are for --server: this endpoint is enrolled, with what it trusts")
				}
				d.Server, d.CAFile, d.Pin = "", "", ""
			}
			if trust && d.Server == "" {
				return errors.New("--ca and --pin are for --server: give it, too")
			}
			if list {
				return listProbes(cmd.OutOrStdout(), asJSON)
			}
			if d.Timeout < 0 || d.Within < 0 {
				return fmt.Errorf("--timeout %v, --within %v: want more than 0", d.Timeout, d.Within)
			}
			live := &liveLine{w: os.Stderr, on: tty.Is(os.Stderr) && os.Getenv("TERM") != "dumb" && !asJSON, verbose: verbose && !asJSON}
			d.Told = live.told
			report, err := agent.Doctor(cmd.Context(), *o, d)
			live.clear()
			if err != nil && (!errors.Is(err, cmd.Context().Err()) || len(report.Results) == 0) {
				return err
			}
			if err := show(cmd.OutOrStdout(), report, asJSON, verbose); err != nil {
				return err
			}
			if code := report.ExitCode(); code != checkup.ExitWell {
				return exitCode(code)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	flags.BoolVar(&list, "list", false, "list the probes by name")
	flags.BoolVarP(&verbose, "verbose", "v", false, "tell each probe as it ends, and more of what is well")
	flags.StringSliceVar(&d.Only, "only", nil, "run these probes and what they need: name,name…")
	complete(cmd, "only", func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return probesFor(typed), cobra.ShellCompDirectiveNoFileComp
	})
	flags.StringVar(&d.Server, "server", "", "look at this server instead: https://host:port")
	flags.StringVar(&d.CAFile, "ca", "", "trust the roots in this PEM file for it")
	flags.StringVar(&d.Pin, "pin", "", "trust exactly this key for it: sha256/…")
	flags.DurationVar(&d.Timeout, "timeout", 0, "bound each probe (default: each its own, 10s to 85s)")
	flags.DurationVar(&d.Within, "within", 0, "bound the whole; what is not reached by then is skipped (default: no bound)")
	return cmd
}

func show(w io.Writer, r checkup.Report, asJSON, verbose bool) error {
	if asJSON {
		return indented(w, r)
	}
	return checkup.Write(w, r, checkup.Style{Color: tty.Colorful(os.Stdout), Verbose: verbose})
}

func listProbes(w io.Writer, asJSON bool) error {
	if asJSON {
		type item struct {
			Name string `json:"name"`
			What string `json:"what"`
		}
		items := make([]item, len(probe.Names))
		for i, n := range probe.Names {
			items[i] = item{n.Name, n.What}
		}
		return indented(w, map[string][]item{"items": items})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, n := range probe.Names {
		fmt.Fprintf(t, "%s\t%s\n", n.Name, n.What)
	}
	return t.Flush()
}

// probesFor gives what may be typed for --only, each with what it looks at; typed is
// a list of which the last name is under way.
func probesFor(typed string) (offers []string) {
	done := typed[:strings.LastIndexByte(typed, ',')+1]
	for _, n := range probe.Names {
		if !slices.Contains(strings.Split(done, ","), n.Name) {
			offers = append(offers, cobra.CompletionWithDesc(done+n.Name, n.What))
		}
	}
	return offers
}

// liveLine shows on a terminal what is under way, in one line that is taken away
// again; verbose, it tells each probe's end in a line of its own.
type liveLine struct {
	w           io.Writer
	on, verbose bool
	busy        []string
}

// maxLive bounds the line in columns: one that wraps could not be taken away.
const maxLive = 78

func (l *liveLine) told(p probe.Probe, r *checkup.Result, done, total int) {
	what := p.Name
	if p.Endpoint >= 0 {
		what += " of " + p.Target
	}
	if r == nil {
		l.busy = append(l.busy, what)
	} else {
		for i, b := range l.busy {
			if b == what {
				l.busy = append(l.busy[:i:i], l.busy[i+1:]...)
				break
			}
		}
		if l.verbose {
			l.clear()
			status, _ := r.Status.MarshalText() // never fails
			head, tail := fmt.Sprintf("%d/%d ", done, total), fmt.Sprintf(": %s", status)
			fmt.Fprintln(l.w, head+wrap.Cut(what, wrap.Width-len(head)-len(tail))+tail)
		}
	}
	if l.on {
		fmt.Fprint(l.w, "\r\x1b[K"+wrap.Cut(fmt.Sprintf("%d/%d %s", done, total, strings.Join(l.busy, ", ")), maxLive))
	}
}

func (l *liveLine) clear() {
	if l.on {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
}
