package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

const (
	// eventsEvery is how often --follow asks: the server writes events every two seconds.
	eventsEvery = time.Second
	// eventsPatience is how long --follow bears a server that does not answer: a restart.
	eventsPatience = time.Minute
)

func eventsCommand(f *operatorFlags) *cobra.Command {
	var filter operator.EventFilter
	var follow bool
	cmd := &cobra.Command{
		Use:   "events [AGENT]",
		Short: "List what changed about endpoints, and why",
		Long: "List what changed about endpoints, the oldest first: presence, their own verdict,\n" +
			"links, instance (a start of the guardian), process (of its worker), version, steps it\n" +
			"took against its verdict and their outcomes, and findings (what stands beside the\n" +
			"verdict: an update that was rolled back, a clock that is wrong), each with its reason.\n" +
			"With --follow what comes is printed as it comes, until Ctrl-C: in order of arrival, for\n" +
			"an endpoint tells late of what it did without a link; with --json then a line for each.",
		Example: "  gururmm events web-17 --since 24h\n  gururmm events --follow",
		Args:    help.Words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkCount("limit", filter.Limit); err != nil {
				return err
			}
			if cmd.Flags().Changed("since") {
				if err := checkDuration("since", filter.Within); err != nil {
					return err
				}
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				filter.Agent = args[0]
			}
			items, err := client.AgentEvents(cmd.Context(), filter)
			if err != nil {
				return explain(err)
			}
			slices.Reverse(items)
			if !follow { // which goes by arrival: what comes next may be older
				slices.SortStableFunc(items, func(a, b operator.AgentEvent) int { return a.At.Compare(b.At) })
			}
			out := cmd.OutOrStdout()
			if follow {
				ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
				defer stop()
				return followEvents(ctx, client, filter, items, func(e operator.AgentEvent) error {
					if f.json {
						return json.NewEncoder(out).Encode(e)
					}
					return printEvent(out, e)
				})
			}
			if f.json {
				return printJSON(out, operator.List[operator.AgentEvent]{Items: items})
			}
			if len(items) == 0 {
				fmt.Fprintln(out, "Nothing has changed.")
			}
			for _, e := range items {
				if err := printEvent(out, e); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&filter.Within, "since", 0, "only of so long back, by the server's clock (24h)")
	cmd.Flags().IntVar(&filter.Limit, "limit", 50, "at most so many, the newest")
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with what comes, until Ctrl-C")
	return cmd
}

// followEvents gives each what was listed and what comes after it, in order, each once,
// until ctx ends (nil).
func followEvents(ctx context.Context, client *operator.Client, filter operator.EventFilter, listed []operator.AgentEvent, each func(operator.AgentEvent) error) error {
	filter.After, filter.Limit = new(int64), operator.MaxEvents
	items, answered := listed, time.Now()
	for {
		for _, e := range items {
			*filter.After, filter.Within = max(*filter.After, e.Seq), 0 // until then it keeps the older ones away
			if err := each(e); err != nil {
				return err
			}
		}
		if len(items) < operator.MaxEvents { // else more wait already
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(eventsEvery):
			}
		}
		var err error
		items, err = client.AgentEvents(ctx, filter)
		p, refused := errors.AsType[wire.Problem](err)
		switch {
		case err == nil:
			answered = time.Now()
		case ctx.Err() != nil:
			return nil
		case refused && p.Status < 500 && p.Status != http.StatusTooManyRequests, time.Since(answered) > eventsPatience:
			return explain(err)
		}
	}
}

// printEvent gives an event a line, and below it why.
func printEvent(w io.Writer, e operator.AgentEvent) error {
	said := oneLine(e.To, 40)
	if e.From != "" {
		said = oneLine(e.From, 40) + " → " + said
	}
	_, err := fmt.Fprintln(w, wrap.Behind(moment.Local(e.At)+"  ", fmt.Sprintf("%s  %s: %s", oneLine(e.AgentName, 24), e.Kind, said)))
	if e.Reason != "" && err == nil {
		_, err = fmt.Fprintln(w, wrap.Behind("    ", wrap.Plain(e.Reason)))
	}
	return err
}
