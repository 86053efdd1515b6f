package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gururmm/diagnosis"
	"gururmm/diagnosis/evidence"
	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/internal/wrap"
)

// diagnoseName is the command whose exit code 2 means that its input can't be used.
const (
	diagnoseName = "diagnose"
	exitBadInput = 2
)

func diagnoseCommand(f *operatorFlags) *cobra.Command {
	var file, agent string
	var markdown, list, all, asCase, andProbe bool
	cmd := &cobra.Command{
		Use:   diagnoseName + " AGENT|--case FILE [--json|--markdown|--as-case]",
		Short: "Say what may have lost a command, how surely, and what to test",
		Long: "Say which stage lost a command, how sure that is, and what to look at next: of an\n" +
			"agent, from what the server holds of it now, or from a case file, which asks no\n" +
			"server. What is measured proves and excludes; what is inferred or reported only\n" +
			"weighs. --as-case writes what would be weighed, to be added to and given to --case.\n" +
			"--probe makes that of the next tests which is a probe of the way of commands (see probe)\n" +
			"at once, where the agent has a way open, and then answers again.\n\n" +
			"A case is YAML: `case: 1`, a subject, agents, and observations, each with its value,\n" +
			"grade (both_ends, one_end, reported, inferred) and source. --list tells what can be\n" +
			"observed. What is not known is left out, or given as unknown, which changes nothing.\n\n" +
			"Exit codes: 0 answered, 2 not: the case can't be read (the error names the line), or the\n" +
			"server can't be asked.",
		Example: "  gururmm diagnose web-17\n  gururmm diagnose web-17 --probe\n  gururmm diagnose web-17 --as-case > case.yaml\n  gururmm diagnose --list\n  gururmm diagnose --case lab/cases/commands-unacknowledged.yaml\n" +
			"  gururmm diagnose --case case.yaml --agent agent-a -v\n  gururmm diagnose --case - --markdown > answer.md",
		Args: help.Words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			if f.json && markdown {
				return errors.New("give --json or --markdown, not both")
			}
			if list {
				return listVocabulary(out, f.json)
			}
			var c diagnosis.Case
			var err error
			switch {
			case andProbe && (asCase || len(args) == 0):
				return errors.New("--probe makes the next test of an AGENT, and answers: leave out --case and --as-case")
			case file != "" && len(args) > 0:
				return errors.New("give AGENT or --case, not both: of a case's agents, --agent narrows it to one")
			case file != "":
				c, err = readCase(file, cmd.InOrStdin())
			case len(args) == 0:
				return errors.New("of what? give AGENT, or --case FILE, - for standard input (gururmm diagnose --list tells what can be observed)")
			default:
				c, err = f.gather(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			if agent != "" {
				one := c.Of(agent)
				if len(one.Agents) == 0 {
					var names []string
					for _, a := range c.Agents {
						names = append(names, a.Name)
					}
					return fmt.Errorf("--agent %s: the case has %s", quote(agent), orNone(strings.Join(names, ", ")))
				}
				c = one
			}
			if asCase && f.json { // which is YAML, too
				return printJSON(out, c)
			}
			if asCase {
				raw, err := c.Write()
				if err == nil {
					_, err = out.Write(raw)
				}
				return err
			}
			write := func(a diagnosis.Answer) error {
				switch {
				case f.json:
					return printJSON(out, a)
				case markdown:
					return a.WriteMarkdown(out)
				}
				return a.WriteText(out, all)
			}
			a := diagnosis.Diagnose(c)
			if !andProbe {
				return write(a)
			}
			return f.diagnoseAgain(cmd, args[0], a, write)
		},
	}
	cmd.Flags().StringVar(&file, "case", "", "the case file, - for standard input")
	cmd.Flags().StringVar(&agent, "agent", "", "of a case, go by what was observed of this agent and of all together")
	cmd.Flags().BoolVar(&andProbe, "probe", false, "if a next test is a probe (gururmm probe) and safe now, make it and answer again")
	cmd.Flags().BoolVar(&asCase, "as-case", false, "write a case file instead of an answer")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "write a page in Markdown")
	cmd.Flags().BoolVar(&list, "list", false, "list what can be observed, with its values")
	cmd.Flags().BoolVarP(&all, "verbose", "v", false, "tell all that was weighed")
	// Agents of the case that is named before it; never files.
	err := cmd.RegisterFlagCompletionFunc("agent", func(*cobra.Command, []string, string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
		if file != "" && file != "-" {
			c, _ := readCase(file, nil) // of one that can't be read there are none
			for _, a := range c.Agents {
				if plainWord.MatchString(a.Name) {
					names = append(names, a.Name)
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the flag is defined above
	}
	help.Apart(cmd, "markdown", "as-case")
	help.Apart(cmd, "list", "case")
	help.Apart(cmd, "list", "markdown")
	return cmd
}

func orNone(s string) string {
	if s == "" {
		return "no agents"
	}
	return s
}

// gather asks the server for all that it holds of an agent, and makes a case of it.
func (f *operatorFlags) gather(ctx context.Context, ref string) (diagnosis.Case, error) {
	client, err := f.client()
	if err != nil {
		return diagnosis.Case{}, err
	}
	h, err := evidence.Ask(ctx, client, ref)
	if err != nil {
		return diagnosis.Case{}, explain(err)
	}
	return evidence.Case(h), nil
}

func readCase(file string, stdin io.Reader) (diagnosis.Case, error) {
	in, name := stdin, "standard input"
	if file != "-" {
		name = file
		f, err := os.Open(file)
		if err != nil {
			return diagnosis.Case{}, fmt.Errorf("--case: %w", fileerr.Why(err))
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, diagnosis.MaxCase+1))
	if err != nil {
		return diagnosis.Case{}, fmt.Errorf("--case: %w", fileerr.Why(err))
	}
	c, err := diagnosis.ReadCase(raw)
	if err != nil {
		return c, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// listVocabulary prints what can be observed.
func listVocabulary(w io.Writer, asJSON bool) error {
	terms := diagnosis.Vocabulary()
	if asJSON {
		return printJSON(w, terms)
	}
	for i, t := range terms {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, wrap.Behind(t.ID+"  ", t.Asks+" ("+t.SeenBy+")"))
		for _, v := range t.Values {
			fmt.Fprintln(w, wrap.Behind(fmt.Sprintf("  %-14s ", v.Value), v.Means))
		}
	}
	var grades []string
	for _, g := range diagnosis.Grades() {
		grades = append(grades, string(g))
	}
	_, err := fmt.Fprintln(w, "\n"+wrap.Behind("", "Each may also be unknown. Grades: "+strings.Join(grades, ", ")+"."))
	return err
}
