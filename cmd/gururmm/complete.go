package main

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/operator"
	"gururmm/wire"
)

// completeWithin bounds what a shell waits for the server: a key was pressed, and
// nobody sees a reason.
const completeWithin = 2 * time.Second

// offered bounds the commands that are offered, the newest first.
const offered = 50

// plainWord is what a shell takes as it is: what endpoints call themselves is put on
// the command line, and must not be more than a word there.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// lister asks the server for the words that may stand in one place; before are the
// arguments typed so far.
type lister func(ctx context.Context, c *operator.Client, before []string) ([]cobra.Completion, error)

// source is where words come from: the server, or a list that needs none.
type source struct {
	ask   lister
	fixed []cobra.Completion
}

func fixed[S ~string](words ...S) source {
	var s source
	for _, w := range words {
		s.fixed = append(s.fixed, string(w))
	}
	return s
}

// offer has a shell complete what the server knows: arguments by their place, flags by
// their name. Paths leave out the program's own name.
func (f *operatorFlags) offer(root *cobra.Command) {
	agent, version, rollouts := source{ask: agentNames}, source{ask: versionNames}, func(states ...string) source { return source{ask: rolloutIDs(states...)} }
	for path, places := range map[string][]source{
		execName: {agent}, "agents": {agent}, "agents show": {agent}, "agents tag": {agent, agent, agent, agent}, "agents resolve": {agent}, "agents quarantine": {agent},
		"agents remove": {agent}, "bundles": {agent}, "beacons": {agent}, "events": {agent}, "directives": {agent}, doctorName: {agent}, probeName: {agent}, diagnoseName: {agent}, "timeline": {agent}, "dossier": {agent},
		"direct": {agent, directiveNames()}, "trace": {{ask: commandIDs(false)}}, "cancel": {{ask: commandIDs(true)}}, "jobs show": {{ask: jobIDs(false)}}, "jobs cancel": {{ask: jobIDs(true)}},
		"enroll-token revoke": {{ask: tokenIDs}}, "update roll": {version}, "update remove": {version},
		"update status": {rollouts()}, "update stop": {rollouts(operator.RolloutActive)},
		"update resume": {rollouts(operator.RolloutStopped, operator.RolloutActive)},
	} {
		cmd := commandAt(root, path)
		cmd.ValidArgs = nil
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) >= len(places) {
				if cmd.Name() == execName { // what follows are words of a script
					return nil, cobra.ShellCompDirectiveDefault
				}
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return beginning(typed, f.words(cmd, places[len(args)], args)), cobra.ShellCompDirectiveNoFileComp
		}
	}
	for at, from := range map[[2]string]source{
		{"commands", "agent"}: agent, {"timeline", "command"}: {ask: commandIDs(false)}, {"update roll", "agents"}: agent,
		{"agents", "site"}: {ask: siteNames}, {"agents", "tag"}: {ask: tagNames},
		{"agents tag", "add"}: {ask: tagNames}, {"agents tag", "remove"}: {ask: tagNames},
		{execName, "site"}: {ask: siteNames}, {execName, "tag"}: {ask: tagNames}, {execName, "agents"}: agent, {execName, "except"}: agent,
		{"update roll", "site"}: {ask: siteNames}, {"enroll-token create", "site"}: {ask: siteNames},
		{"bundles", "download"}: {ask: bundleIDs}, {"bundles", "delete"}: {ask: bundleIDs}, {"agents resolve", "keep"}: {ask: instances},
		{"commands", "state"}: fixed(wire.StatePending, wire.StateRunning, wire.StateCompleted, wire.StateFailed,
			wire.StateCancelled, wire.StateExpired, wire.StateInterrupted, wire.StateUndeliverable),
		{probeName, "channel"}: fixed(string(wire.ChannelLink), string(wire.ChannelOOB), both),
		{execName, "shell"}:    fixed(wire.ShellSh, wire.ShellBash, wire.ShellPowerShell, wire.ShellCmd, wire.ShellPython),
	} {
		cmd := commandAt(root, at[0])
		err := cmd.RegisterFlagCompletionFunc(at[1], func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			words := f.words(cmd, from, args)
			if flag := cmd.Flag(at[1]); flag.Value.Type() == "stringSlice" { // the last one of a list
				words = behindComma(words, typed)
			}
			return beginning(typed, words), cobra.ShellCompDirectiveNoFileComp
		})
		if err != nil {
			panic(err) // a flag of that name does not exist: seen by every test
		}
	}
}

func commandAt(root *cobra.Command, path string) *cobra.Command {
	cmd, _, err := root.Find(strings.Fields(path))
	if err != nil || cmd.CommandPath() != root.Name()+" "+path {
		panic("no command " + path) // seen by every test
	}
	return cmd
}

// words is silent on errors: what it wrote would stand in the middle of a command line.
func (f *operatorFlags) words(cmd *cobra.Command, from source, before []string) []cobra.Completion {
	if from.ask == nil {
		return from.fixed
	}
	client, err := f.client()
	if err != nil {
		return nil
	}
	defer client.Close()
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completeWithin)
	defer cancel()
	words, err := from.ask(ctx, client, before)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(words, func(w cobra.Completion) bool {
		word, _, _ := strings.Cut(w, "\t")
		return !plainWord.MatchString(word)
	})
}

// beginning are the words that begin with what was typed.
func beginning(typed string, words []cobra.Completion) (out []cobra.Completion) {
	for _, w := range words {
		if strings.HasPrefix(w, typed) {
			out = append(out, w)
		}
	}
	return out
}

// behindComma puts each word behind the list typed so far, but for those in it.
func behindComma(words []cobra.Completion, typed string) (out []cobra.Completion) {
	i := strings.LastIndexByte(typed, ',') + 1
	done := strings.Split(typed[:i], ",")
	for _, w := range words {
		if word, _, _ := strings.Cut(w, "\t"); !slices.Contains(done, word) {
			out = append(out, typed[:i]+w)
		}
	}
	return out
}

// described is a word and what it is, which others may have written.
func described(word string, what ...string) cobra.Completion {
	return cobra.CompletionWithDesc(word, oneLine(strings.Join(what, " "), 60))
}

// agentNames gives each agent's name, or its id where the name fits several or is not a plain word.
func agentNames(ctx context.Context, c *operator.Client, _ []string) (words []cobra.Completion, err error) {
	all, err := c.Agents(ctx)
	named := map[string]int{}
	for _, a := range all {
		named[strings.ToLower(a.Name)]++
	}
	for _, a := range all {
		if named[strings.ToLower(a.Name)] == 1 && plainWord.MatchString(a.Name) {
			words = append(words, described(a.Name, a.Presence, a.Version))
		} else {
			words = append(words, described(a.ID, a.Name, a.Presence, a.Version))
		}
	}
	return words, err
}

func siteNames(ctx context.Context, c *operator.Client, _ []string) (words []cobra.Completion, err error) {
	all, err := c.Agents(ctx)
	for _, a := range all {
		if !slices.Contains(words, a.Site) {
			words = append(words, a.Site)
		}
	}
	return words, err
}

func tagNames(ctx context.Context, c *operator.Client, _ []string) (words []cobra.Completion, err error) {
	all, err := c.Agents(ctx)
	for _, a := range all {
		words = append(words, a.Tags...)
	}
	slices.Sort(words)
	return slices.Compact(words), err
}

func commandIDs(open bool) lister {
	return func(ctx context.Context, c *operator.Client, _ []string) (words []cobra.Completion, err error) {
		all, err := c.Commands(ctx, operator.Filter{Limit: offered})
		for _, cmd := range all {
			if !open || !cmd.State.Terminal() {
				words = append(words, described(cmd.ID, cmd.AgentName, string(cmd.State)+":", cmd.Script))
			}
		}
		return words, err
	}
}

func jobIDs(open bool) lister {
	return func(ctx context.Context, c *operator.Client, _ []string) (words []cobra.Completion, err error) {
		all, err := c.Jobs(ctx, offered)
		for _, j := range all {
			if !open || j.State != operator.JobDone {
				words = append(words, described(j.ID, j.State, plural(j.Endpoints, "endpoint")+":", j.Script))
			}
		}
		return words, err
	}
}

func versionNames(ctx context.Context, c *operator.Client, _ []string) ([]cobra.Completion, error) {
	all, err := c.Builds(ctx)
	var versions []string
	platforms := map[string][]string{}
	for _, b := range all {
		if platforms[b.Version] == nil {
			versions = append(versions, b.Version)
		}
		platforms[b.Version] = append(platforms[b.Version], b.OS+"/"+b.Arch)
	}
	words := make([]cobra.Completion, len(versions))
	for i, v := range versions {
		words[i] = described(v, platforms[v]...)
	}
	return words, err
}

// rolloutIDs gives those in one of the states; none: in any.
func rolloutIDs(states ...string) lister {
	return func(ctx context.Context, c *operator.Client, _ []string) (words []cobra.Completion, err error) {
		all, err := c.Rollouts(ctx)
		for _, r := range all {
			if len(states) == 0 || slices.Contains(states, r.State) {
				words = append(words, described(r.ID, r.Version, r.State))
			}
		}
		return words, err
	}
}

func tokenIDs(ctx context.Context, c *operator.Client, _ []string) (words []cobra.Completion, err error) {
	all, err := c.EnrollTokens(ctx)
	for _, t := range all {
		words = append(words, described(t.ID, t.Site))
	}
	return words, err
}

func bundleIDs(ctx context.Context, c *operator.Client, before []string) (words []cobra.Completion, err error) {
	if len(before) == 0 {
		return nil, nil
	}
	all, err := c.Bundles(ctx, before[0])
	for _, b := range all {
		words = append(words, described(b.ID, cmp.Or(b.Reason, "-")))
	}
	return words, err
}

func instances(ctx context.Context, c *operator.Client, before []string) (words []cobra.Completion, err error) {
	if len(before) == 0 {
		return nil, nil
	}
	a, err := c.Agent(ctx, before[0])
	for _, m := range a.Copies {
		words = append(words, described(m.Instance, m.Hostname))
	}
	return words, err
}

func directiveNames() (s source) {
	for _, d := range directives {
		s.fixed = append(s.fixed, described(string(d.kind), d.does))
	}
	return s
}
