package help

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func tree() *cobra.Command {
	root := &cobra.Command{Use: "tool", Short: "A tool"}
	root.PersistentFlags().String("everywhere", "", "of all commands: "+strings.Repeat("word ", 20))
	run := func(*cobra.Command, []string) {}
	cmd := &cobra.Command{Use: "do " + strings.Repeat("[--flag VALUE] ", 10), Short: "Do it", Run: run,
		Long: "Fits, though\nits lines are ragged.\n\n" + strings.Repeat("Does not. ", 20) + "\n  left as it is"}
	cmd.Flags().Bool("now", false, "at once, and not later: "+strings.Repeat("word ", 20))
	root.AddCommand(cmd, &cobra.Command{Use: "hidden", Hidden: true, Run: run, Example: "  " + strings.Repeat("x", 79)})
	return root
}

func TestHelpIsFolded(t *testing.T) {
	root := tree()
	if wide, _ := Wide(root); len(wide) < 5 {
		t.Fatalf("before: %q", wide)
	}
	root = tree()
	Fit(root)
	wide, all := Wide(root)
	if all < 50 || len(wide) != 1 || !strings.HasPrefix(wide[0], "tool hidden, 81 columns: xxx") { // an example is never folded
		t.Errorf("of %d lines %q", all, wide)
	}
	root = tree()
	Fit(root)
	var page strings.Builder
	root.SetOut(&page)
	root.SetArgs([]string{"do", "--help"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Fits, though its lines are ragged.\n\nDoes not. ", "\n  left as it is\n", "Usage:\n  tool do [--flag VALUE]", "\n    [--flag VALUE] [--flag VALUE]", "Flags:\n  -h, --help   ", "--now    at once, and", "Global Flags:\n      --everywhere string   of all",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, page.String())
		}
	}
	if n := strings.Count(page.String(), "word"); n != 40 {
		t.Errorf("%d words of 40 are shown", n)
	}
}

func TestEveryCommandIsMeasured(t *testing.T) {
	root := tree()
	Fit(root)
	var names []string
	walk(root, func(cmd *cobra.Command) { names = append(names, cmd.Name()) })
	for _, want := range []string{"tool", "do", "hidden", "help", "completion", "zsh"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s among %q", want, names)
		}
	}
}

func TestAGroupRefusesACommandItDoesNotHave(t *testing.T) {
	root := &cobra.Command{Use: "tool", SilenceErrors: true, SilenceUsage: true}
	group := &cobra.Command{Use: "group"}
	group.AddCommand(&cobra.Command{Use: "known", Run: func(*cobra.Command, []string) {}})
	root.AddCommand(group)
	Fit(root)
	root.SetOut(io.Discard)
	for line, fails := range map[string]bool{"group": false, "group known": false, "group foo": true, "completion foo": true} {
		root.SetArgs(strings.Fields(line))
		if err := root.Execute(); (err != nil) != fails {
			t.Errorf("tool %s: %v", line, err)
		}
	}
	root.SetArgs([]string{"completion", "tcsh"})
	if err := root.Execute(); err == nil || err.Error() != `there is no script for "tcsh"; there are scripts for bash, fish, powershell, zsh` {
		t.Error(err)
	}
}

func TestExamplesAreTried(t *testing.T) {
	root := func() *cobra.Command {
		root := &cobra.Command{Use: "tool", SilenceErrors: true, SilenceUsage: true}
		run := func(*cobra.Command, []string) {}
		do := &cobra.Command{Use: "do WORD", Args: Words(1, 1), Run: run, Example: "  tool do it\n  tool do 'two words' --now\n  echo x | tool do \\\n    it > file\n" +
			"  tool do it --later\n  tool do\n  tool nosuch\n  tol do it"}
		do.Flags().Bool("now", false, "at once")
		root.AddCommand(do, &cobra.Command{Use: "mute WORD", Run: run}, &cobra.Command{Use: "plain", Run: run}, &cobra.Command{Use: "hidden WORD", Hidden: true, Run: run})
		Fit(root)
		return root
	}
	wrong, all := Wrong(root)
	if all != 7 || len(wrong) != 5 || wrong[4] != "tool mute has no example" {
		t.Errorf("of %d: %q", all, wrong)
	}
}

// What is typed wrongly is answered in sentences, with the line as it should be.
func TestWhatIsTypedWronglyIsSaid(t *testing.T) {
	for line, want := range map[string]string{
		"nosuch":                 `there is no command "nosuch"; see: tool --help`,
		"sho":                    `there is no command "sho"; do you mean show?; see: tool --help`,
		"show":                   "AGENT is missing: tool show AGENT [REST] (see: tool show --help)",
		"show a b c":             `"c" is one word too many: tool show AGENT [REST] (see: tool show --help)`,
		"none x":                 `"x" is one word too many: tool none (see: tool none --help)`,
		"show a --nosuch":        "there is no flag --nosuch; see: tool show --help",
		"show a -x":              "there is no flag -x; see: tool show --help",
		"show a --wait":          "--wait needs a value, a length of time such as 30s, 10m or 2h; see: tool show --help",
		"show a --wait soon":     `--wait can't be "soon"; it wants a length of time such as 30s, 10m or 2h; see: tool show --help`,
		"show a --n x":           `--n can't be "x"; it wants a whole number; see: tool show --help`,
		"show a --n 1 --wait 1s": "give --n or --wait, not both; see: tool show --help",
		"show a --=x":            `"--=x" is not a flag; see: tool show --help`,
	} {
		root := &cobra.Command{Use: "tool", SilenceErrors: true, SilenceUsage: true}
		show := &cobra.Command{Use: "show AGENT [REST]", Args: Words(1, 2), Run: func(*cobra.Command, []string) {}}
		show.Flags().Duration("wait", 0, "")
		show.Flags().Int("n", 0, "")
		Apart(show, "n", "wait")
		root.AddCommand(show, &cobra.Command{Use: "none", Args: Words(0, 0), Run: func(*cobra.Command, []string) {}})
		Fit(root)
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SetArgs(strings.Fields(line))
		if err := root.Execute(); err == nil || err.Error() != want {
			t.Errorf("tool %s: %v, want %s", line, err, want)
		}
	}
}
