package help

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Words wants from least to most words behind a command; most below 0 is any number.
// What is wrong is said with the line as it should be.
func Words(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("%s is missing: %s", placeholder(cmd.Use, len(args)), usage(cmd))
		case most >= 0 && len(args) > most:
			return fmt.Errorf("%q is one word too many: %s", args[most], usage(cmd))
		}
		return nil
	}
}

// usage is a command's line, and where more is said.
func usage(cmd *cobra.Command) string {
	line := cmd.CommandPath()
	if _, rest, more := strings.Cut(cmd.Use, " "); more {
		line += " " + rest
	}
	return fmt.Sprintf("%s (see: %s --help)", line, cmd.CommandPath())
}

// placeholder is the name that a line of usage has for the n-th word, "AGENT".
func placeholder(use string, n int) string {
	words := strings.Fields(use)
	for _, w := range words[min(1, len(words)):] {
		if w != strings.ToUpper(w) || strings.ContainsAny(w, "[]-|") {
			continue
		}
		if n == 0 {
			return w
		}
		n--
	}
	return "a word"
}

// unknown says that a group has no such command, and which one may have been meant.
func unknown(cmd *cobra.Command, word string) error {
	cmd.SuggestionsMinimumDistance = 2
	mean := ""
	if like := cmd.SuggestionsFor(word); len(like) > 0 {
		mean = fmt.Sprintf("; do you mean %s?", strings.Join(like, " or "))
	}
	return fmt.Errorf("there is no command %q%s; see: %s --help", word, mean, cmd.CommandPath())
}

// FlagError puts what is wrong with a flag in a sentence.
func FlagError(cmd *cobra.Command, err error) error {
	see := fmt.Sprintf("; see: %s --help", cmd.CommandPath())
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := "--" + e.GetSpecifiedName()
		if e.GetSpecifiedShortnames() != "" {
			name = "-" + e.GetSpecifiedName()
		}
		return fmt.Errorf("there is no flag %s%s", name, see)
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Errorf("--%s needs a value, %s%s", e.GetFlag().Name, wanted(e.GetFlag()), see)
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return fmt.Errorf("--%s can't be %q; it wants %s%s", e.GetFlag().Name, e.GetValue(), wanted(e.GetFlag()), see)
	}
	if e, ok := errors.AsType[*pflag.InvalidSyntaxError](err); ok {
		return fmt.Errorf("%q is not a flag%s", e.GetSpecifiedFlag(), see)
	}
	return err
}

func wanted(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "duration":
		return "a length of time such as 30s, 10m or 2h"
	case "time":
		return "so long back, such as 90m, or a time, such as 2026-11-24T03:05 (local)"
	case "int", "int64", "uint", "uint64":
		return "a whole number"
	case "bool":
		return "true or false"
	case "stringSlice":
		return "words with commas between them"
	}
	return "a word"
}

// Apart refuses flags of which one excludes the others.
func Apart(cmd *cobra.Command, names ...string) {
	cmd.MarkFlagsMutuallyExclusive(names...) // for completion; ours is asked first
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		var given []string
		for _, n := range names {
			if cmd.Flags().Changed(n) {
				given = append(given, "--"+n)
			}
		}
		if len(given) > 1 {
			return fmt.Errorf("give %s, not both; see: %s --help", strings.Join(given, " or "), cmd.CommandPath())
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}
