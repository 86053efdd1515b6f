// Package help makes the help of a program's commands fit a terminal: paragraphs,
// flags and the line of usage are folded, examples are not. [Wide] and [Wrong] hold what
// is written by hand to its width, and examples to what the program takes.
package help

import (
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gururmm/internal/wrap"
)

// Fit folds the help of root and of all commands below it at [wrap.Width]. Call it
// when all of them are there.
func Fit(root *cobra.Command) {
	groups := map[*cobra.Command]bool{} // do nothing by themselves
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	walk(root, func(cmd *cobra.Command) {
		if made := scripts[cmd.Name()]; made != "" && cmd.HasParent() && cmd.Parent().Name() == "completion" {
			cmd.Long = strings.ReplaceAll(made, "TOOL", root.Name())
		}
		cmd.Long = foldText(cmd.Long)
		if refuseUnknown(cmd) {
			groups[cmd] = true
		}
	})
	root.SetFlagErrorFunc(FlagError)
	plain := root.UsageFunc()
	// Not by a template of our own: it would link all that templates can do into a
	// program that idles on an endpoint.
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		to := cmd.OutOrStderr()
		var page strings.Builder
		cmd.SetOut(&page)
		err := plain(cmd)
		cmd.SetOut(to)
		if err != nil {
			return err
		}
		text := page.String()
		if groups[cmd] {
			text = strings.Replace(text, "\n  "+cmd.UseLine()+"\n", "\n", 1)
		}
		text = strings.Replace(text, "\n  "+cmd.UseLine()+"\n", "\n"+foldUse(cmd.UseLine())+"\n", 1)
		for _, flags := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.InheritedFlags()} {
			text = strings.Replace(text, trim(flags.FlagUsages()), trim(flags.FlagUsagesWrapped(wrap.Width)), 1)
		}
		if body, last, more := cutLast(text, "\nUse \""); more {
			text = body + foldText("\nUse \""+last)
		}
		_, err = io.WriteString(to, text)
		return err
	})
}

// scripts is the help of the commands that the library adds to print a shell's script;
// its own does not fit, and names files that a package of ours would own.
var scripts = map[string]string{
	"bash": `Print the script by which bash completes commands and flags. It needs the
package bash-completion.

For this shell:
  source <(TOOL completion bash)

For all, as root:
  TOOL completion bash > /etc/bash_completion.d/TOOL`,
	"zsh": `Print the script by which zsh completes commands and flags.

For this shell:
  source <(TOOL completion zsh)

For each new one (once, if it completes nothing yet: autoload -U compinit; compinit in
~/.zshrc):
  TOOL completion zsh > "${fpath[1]}/_TOOL"`,
	"fish": `Print the script by which fish completes commands and flags.

For this shell:
  TOOL completion fish | source

For each new one:
  TOOL completion fish > ~/.config/fish/completions/TOOL.fish`,
	"powershell": `Print the script by which PowerShell completes commands and flags.

For this shell, and in the profile for each new one:
  TOOL completion powershell | Out-String | Invoke-Expression`,
}

// refuseUnknown has a group of commands fail for one it does not have: the library
// would print its help and call that a success. Without more it only shows its help.
func refuseUnknown(cmd *cobra.Command) (bare bool) {
	if !cmd.HasSubCommands() {
		return false
	}
	if cmd.Name() == "completion" { // the library's own error names no shell
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var shells []string
			for _, below := range cmd.Commands() {
				shells = append(shells, below.Name())
			}
			return fmt.Errorf("there is no script for %q; there are scripts for %s", args[0], strings.Join(shells, ", "))
		}
	}
	if cmd.Args == nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknown(cmd, args[0])
		}
	}
	if cmd.Runnable() {
		return false
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return true
}

// cutLast cuts text where sep stands for the last time.
func cutLast(text, sep string) (before, after string, found bool) {
	i := strings.LastIndex(text, sep)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(sep):], true
}

func trim(s string) string { return strings.TrimRight(s, " \n") }

// foldUse folds a line of usage; what stands in brackets stays together.
func foldUse(use string) string {
	const together = '\x00'
	depth := 0
	use = strings.Map(func(r rune) rune {
		switch r {
		case '[', '(':
			depth++
		case ']', ')':
			depth--
		case ' ':
			if depth > 0 {
				return together
			}
		}
		return r
	}, use)
	folded := strings.Join(wrap.Lines(use, wrap.Width-4), "\n    ")
	return "  " + strings.ReplaceAll(folded, string(together), " ")
}

// foldText folds paragraphs; a line that is indented stays as it is.
func foldText(text string) string {
	var lines, paragraph []string
	end := func() {
		if len(paragraph) > 0 {
			lines = append(lines, wrap.Lines(strings.Join(paragraph, " "), wrap.Width)...)
		}
		paragraph = nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || strings.HasPrefix(line, " ") {
			end()
			lines = append(lines, line)
		} else {
			paragraph = append(paragraph, line)
		}
	}
	end()
	return strings.Join(lines, "\n")
}

func walk(cmd *cobra.Command, each func(*cobra.Command)) {
	each(cmd)
	for _, below := range cmd.Commands() {
		walk(below, each)
	}
}

// Wide gives the lines of help, of root and of all commands below it, hidden ones
// too, that are longer than [wrap.Width], and how many lines there were in all.
func Wide(root *cobra.Command) (wide []string, all int) {
	walk(root, func(cmd *cobra.Command) {
		var page strings.Builder
		cmd.InitDefaultHelpFlag()
		cmd.InitDefaultVersionFlag()
		cmd.SetOut(&page)
		if err := cmd.Help(); err != nil {
			wide = append(wide, cmd.CommandPath()+": "+err.Error())
		}
		for line := range strings.Lines(page.String()) {
			all++
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > wrap.Width {
				wide = append(wide, fmt.Sprintf("%s, %d columns: %s", cmd.CommandPath(), n, strings.TrimSpace(line)))
			}
		}
	})
	return wide, all
}

// Wrong gives what is wrong with the examples of all commands that fresh makes, and
// those commands that want one and have none: whatever takes words or flags of its own.
// Each line is tried on commands of its own, for parsing leaves its flags set.
func Wrong(fresh func() *cobra.Command) (wrong []string, all int) {
	walk(fresh(), func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" || cmd.HasParent() && cmd.Parent().Name() == "completion" {
			return
		}
		text := strings.ReplaceAll(cmd.Example, "\\\n", " ")
		own := strings.Contains(cmd.Use, " ")
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			own = own || !f.Hidden && f.Name != "help" && f.Name != "json"
		})
		if text == "" && own && !cmd.HasSubCommands() {
			wrong = append(wrong, cmd.CommandPath()+" has no example")
		}
		for line := range strings.Lines(text) {
			all++
			if err := Try(fresh(), strings.TrimSpace(line)); err != nil {
				wrong = append(wrong, strings.TrimSpace(line)+": "+err.Error())
			}
		}
	})
	return wrong, all
}

// try has the program take a line as far as can be without running it.
// Try reports what is wrong with a command line that stands in a text: whether root takes it.
func Try(root *cobra.Command, line string) error {
	_, line, found := strings.Cut(" "+line, " "+root.Name()+" ")
	if !found {
		return fmt.Errorf("%s is not called", root.Name())
	}
	quoted := regexp.MustCompile(`'[^']*'|\S+`) // not of the package: the programs would link it
	var words []string
	for _, w := range quoted.FindAllString(line, -1) {
		if w == "|" || w == ">" || w == "&&" {
			break
		}
		words = append(words, strings.Trim(w, "'"))
	}
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}
