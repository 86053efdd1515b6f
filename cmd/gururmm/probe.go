package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/checkup"
	"gururmm/diagnosis"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// probeName is the command whose exit code 1 means that something did not come through.
const probeName = "probe"

// Events are written within two seconds or so.
const (
	notedWithin = 20 * time.Second
	notedEvery  = 250 * time.Millisecond
)

// both is the channel that is not one.
const both = "both"

func probeCommand(f *operatorFlags) *cobra.Command {
	var sizes []string
	channel := both
	var defaults []string
	for _, n := range operator.ProbeSizes {
		defaults = append(defaults, sizeFlag(n))
	}
	cmd := &cobra.Command{
		Use:   probeName + " AGENT [--sizes LIST] [--channel link|oob|both]",
		Short: "Send inert texts of a ladder of sizes down the way of commands",
		Long: "Send inert texts of a ladder of sizes down the way of commands, one after the other,\n" +
			"by the live link and by the second door, and show which came through. Nothing is run\n" +
			"on the endpoint: it reads, verifies and acknowledges each, and sends it back.\n\n" +
			"A link on which all pass is left as it is. A text that is lost is a loss as any other:\n" +
			"the agent comes to its verdict, gives that link up and makes a fresh one, and the\n" +
			"ladder goes on there. A signed text takes some 400 bytes; smaller sizes are sent as\n" +
			"that. What came of it is kept among the agent's events, and diagnose weighs it.\n\n" +
			"Exit codes: 0 all came through, 1 some did not, 2 nothing could be sent: the agent is\n" +
			"quarantined, is being probed already, has no way open, or the server can't be asked.",
		Example: "  gururmm probe web-17\n  gururmm probe web-17 --channel link --sizes 1K,4K,6K,8K\n  gururmm probe web-17 --json",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := newProbe(channel, sizes)
			if err != nil {
				return err
			}
			p, err := f.probe(cmd.Context(), args[0], n, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if f.json {
				err = printJSON(cmd.OutOrStdout(), p)
			} else {
				err = printProbe(cmd.OutOrStdout(), p)
			}
			return cmp.Or(err, probeCode(p))
		},
	}
	cmd.Flags().StringSliceVar(&sizes, "sizes", nil, "bytes, with K for 1024: "+strings.Join(defaults, ",")+" unless told otherwise")
	cmd.Flags().StringVar(&channel, "channel", both, "link, oob or both: by the live link, by the second door")
	return cmd
}

func sizeFlag(n int) string {
	if n%1024 == 0 {
		return strconv.Itoa(n/1024) + "K"
	}
	return strconv.Itoa(n)
}

// newProbe reads the flags.
func newProbe(channel string, sizes []string) (n operator.NewProbe, err error) {
	switch channel {
	case both:
	case string(wire.ChannelLink), string(wire.ChannelOOB):
		n.Channels = []wire.Channel{wire.Channel(channel)}
	default:
		return n, fmt.Errorf("--channel %s: want link, oob or both", quote(channel))
	}
	for _, s := range sizes {
		digits, factor := s, 1
		if rest, ok := strings.CutSuffix(strings.ToUpper(s), "K"); ok {
			digits, factor = rest, 1024
		}
		v, err := strconv.Atoi(digits)
		if err != nil || v < 1 || v > operator.MaxProbeSize {
			return n, fmt.Errorf("--sizes %s: want bytes from %d to %dK, as in 512 or 4K", quote(s), operator.MinProbeSize, operator.MaxProbeSize/1024)
		}
		n.Sizes = append(n.Sizes, v*factor)
	}
	if err := n.Check(); err != nil {
		return n, fmt.Errorf("--%w", err)
	}
	return n, nil
}

// probe has the server send the ladder, and tells on progress how far it is.
func (f *operatorFlags) probe(ctx context.Context, agent string, n operator.NewProbe, progress io.Writer) (operator.Probe, error) {
	client, err := f.client()
	if err != nil {
		return operator.Probe{}, err
	}
	live := tty.Is(os.Stderr) && !f.json
	waited := ""
	p, err := client.Probe(ctx, agent, n, func(ev operator.ProbeEvent) {
		switch s := ev.Step; {
		case f.json:
		case s != nil && live:
			fmt.Fprintln(progress, wrap.Behind("gururmm: ", fmt.Sprintf("%s: %s %s", byWay(s.Channel), stepSize(*s), s.State)))
		case ev.Waiting != "" && ev.Waiting != waited:
			waited = ev.Waiting
			fmt.Fprintln(progress, wrap.Behind("gururmm: ", wrap.Plain(ev.Waiting)))
		}
	})
	if err != nil {
		return p, explain(err)
	}
	return p, nil
}

func byWay(c wire.Channel) string {
	if c == wire.ChannelOOB {
		return "second door"
	}
	return string(c)
}

func stepSize(s operator.ProbeStep) string {
	if s.Kind == operator.ProbePing {
		return "ping"
	}
	return operator.Size(s.Bytes)
}

// probeCode is the error that carries the exit code; nil: all came through.
func probeCode(p operator.Probe) error {
	passed := func(s operator.ProbeStep) bool { return s.State == operator.StepPassed }
	untried := func(s operator.ProbeStep) bool { return s.State == operator.StepUntried }
	switch {
	case p.Stopped != "":
		return &exitError{checkup.ExitNotRun, errors.New("the probe was ended early: " + wrap.Plain(p.Stopped))}
	case !slices.ContainsFunc(p.Steps, func(s operator.ProbeStep) bool { return !untried(s) }):
		return &exitError{checkup.ExitNotRun, errors.New("nothing could be sent: the agent has no way open")}
	case slices.ContainsFunc(p.Steps, func(s operator.ProbeStep) bool { return !passed(s) }):
		return &exitError{code: 1}
	}
	return nil
}

// outcomes says in words what a ladder came to.
var outcomes = map[string]string{
	operator.ProbePassed: "all came through", operator.ProbeLargeLost: "the large ones are lost, the small ones come through",
	operator.ProbeTinyLost: "the small ones are lost, the large ones come through", operator.ProbeAllLost: "none came through",
	operator.ProbeSomeLost: "some are lost, whatever their size", operator.ProbeUnanswered: "all were read, and none was answered",
	operator.ProbeUntried: "nothing could be sent", operator.ProbeUnclear: "not clear: not each was lost or came through",
}

// printProbe prints the table of what got through, and what that says.
func printProbe(w io.Writer, p operator.Probe) error {
	rows := [][]string{{"CHANNEL", "TYPE", "SIZE", "RESULT", "WRITTEN", "READ BY", "ROUND TRIP"}}
	var notes []string
	for _, s := range p.Steps {
		wrote, trip := "no", "-"
		if s.Written != nil {
			wrote = "yes"
		}
		if s.RoundTripMS != nil {
			trip = fmt.Sprintf("%.1f ms", *s.RoundTripMS)
		}
		if s.State == operator.StepUntried {
			wrote = "-"
		}
		rows = append(rows, []string{byWay(s.Channel), s.Kind, operator.Size(s.Bytes), s.State, wrote, cmp.Or(s.ReadBy, "-"), trip})
		notes = append(notes, wrap.Plain(strings.TrimPrefix(strings.TrimSuffix(s.Verdict+": "+s.Detail, ": "), ": ")))
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for i, line := range lines[1:] {
		fmt.Fprintln(w, line)
		if notes[i] != "" && (i == 0 || notes[i] != notes[i-1]) {
			fmt.Fprintln(w, wrap.Behind("  ", notes[i]))
		}
	}
	fmt.Fprintln(w)
	for _, ch := range []wire.Channel{wire.ChannelLink, wire.ChannelOOB} {
		if of, ok := p.Outcomes[ch]; ok {
			fmt.Fprintln(w, wrap.Behind("By the "+byWay(ch)+": ", cmp.Or(outcomes[of], of)+"."))
		}
	}
	var err error
	if probeCode(p) != nil && p.Stopped == "" {
		_, err = fmt.Fprintln(w, wrap.Behind("", "What that may be: gururmm diagnose "+quote(wrap.Plain(cmp.Or(p.AgentName, p.Agent)))))
	}
	return err
}

// unsafeNow says why an agent is not to be probed unasked; empty: it may be.
func unsafeNow(a operator.Agent) string {
	switch {
	case a.RemovedAt != nil:
		return "it was removed"
	case a.Presence == "verified", a.Presence == "degraded", a.Presence == "out-of-band":
		return ""
	}
	return "it is " + a.Presence + ", and has no way open that is known to be one"
}

// rankedAgain is an answer, the probe that was its next test, and the answer after it.
type rankedAgain struct {
	Before diagnosis.Answer  `json:"before"`
	Probe  *operator.Probe   `json:"probe,omitempty"`
	After  *diagnosis.Answer `json:"after,omitempty"`
	// NotProbed tells why there is no probe.
	NotProbed string `json:"not_probed,omitempty"`
}

// diagnoseAgain makes the next test of a that is a probe, if there is one and it is safe, and
// answers again.
func (f *operatorFlags) diagnoseAgain(cmd *cobra.Command, agent string, a diagnosis.Answer, write func(diagnosis.Answer) error) error {
	out := cmd.OutOrStdout()
	both := rankedAgain{Before: a}
	stay := func(why string) error {
		if both.NotProbed = why; f.json {
			return printJSON(out, both)
		}
		_, err := fmt.Fprintln(cmd.ErrOrStderr(), wrap.Behind("gururmm: ", "not probed: "+why))
		return err
	}
	if !f.json {
		if err := write(a); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(a.Next, diagnosis.Test.Probes) {
		return stay("none of the tests that would tell more is a probe; gururmm probe " + quote(agent) + " sends one all the same")
	}
	client, err := f.client()
	if err != nil {
		return err
	}
	now, err := client.Agent(cmd.Context(), agent)
	if err != nil {
		return explain(err)
	}
	if why := unsafeNow(now); why != "" {
		return stay(why)
	}
	p, err := f.probe(cmd.Context(), agent, operator.NewProbe{}, cmd.ErrOrStderr())
	if problem, ok := errors.AsType[wire.Problem](err); ok && problem.Status == http.StatusConflict {
		return stay(problem.Detail)
	}
	if err != nil {
		return err
	}
	if err := f.awaitNoted(cmd.Context(), client, p); err != nil {
		return err
	}
	c, err := f.gather(cmd.Context(), agent)
	if err != nil {
		return err
	}
	after := diagnosis.Diagnose(c)
	if both.Probe, both.After = &p, &after; f.json {
		return printJSON(out, both)
	}
	fmt.Fprintln(out)
	if err := printProbe(out, p); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return write(after)
}

// awaitNoted waits until what a probe came to is among the agent's events, which are written
// in batches.
func (f *operatorFlags) awaitNoted(ctx context.Context, client *operator.Client, p operator.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, notedWithin)
	defer cancel()
	for {
		items, err := client.AgentEvents(ctx, operator.EventFilter{Agent: p.Agent, Within: time.Hour, Limit: operator.MaxEvents})
		if err != nil && ctx.Err() == nil {
			return explain(err)
		}
		noted := 0
		for _, e := range items {
			if e.Kind == operator.EventProbe && !e.At.Before(p.StartedAt) {
				noted++
			}
		}
		if noted >= len(p.Outcomes) {
			return nil
		}
		select {
		case <-time.After(notedEvery):
		case <-ctx.Done():
			return errors.New("the server has not kept what the probe came to; ask again: gururmm diagnose " + quote(p.AgentName))
		}
	}
}
