// Package help makes the help of a program's commands fit a terminal: flags and the
// line of usage are folded; what is written by hand must fit by itself, and [Wide]
// holds it to that.
package help

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gururmm/internal/wrap"
)

// Fit folds the help of root and of all commands below it at [wrap.Width]. Call it
// when all of them are there.
func Fit(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	walk(root, func(cmd *cobra.Command) {
		cmd.Long = foldText(cmd.Long)
		refuseUnknown(cmd)
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
		text := strings.Replace(page.String(), "\n  "+cmd.UseLine()+"\n", "\n"+foldUse(cmd.UseLine())+"\n", 1)
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

// refuseUnknown has a group of commands fail for one it does not have: the library
// would print its help and call that a success.
func refuseUnknown(cmd *cobra.Command) {
	if !cmd.HasSubCommands() {
		return
	}
	if cmd.Args == nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknown(cmd, args[0])
		}
	}
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
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

// foldText folds the lines that are too long, each by itself; of a library's text
// nobody else takes care.
func foldText(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if len([]rune(line)) > wrap.Width {
			lines = append(lines, wrap.Lines(line, wrap.Width)...)
		} else {
			lines = append(lines, line)
		}
	}
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
