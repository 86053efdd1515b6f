package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"gururmm/diagnosis/dossier"
	"gururmm/diagnosis/evidence"
	"gururmm/internal/help"
	"gururmm/operator"
	"gururmm/wire"
)

// maxReports of doctors are asked for, the newest.
const maxReports = 3

func dossierCommand(f *operatorFlags) *cobra.Command {
	var since when
	var o dossier.Options
	cmd := &cobra.Command{
		Use:   "dossier AGENT",
		Short: "Write down what is known of an endpoint, for an outside expert",
		Long: "Write a page in Markdown for somebody who knows nothing of your system: how it is built,\n" +
			"the symptom, what each end measured, what was tried and what came of it, and what is\n" +
			"not known. It holds facts and names no cause.\n\n" +
			"Names of machines, sites and people, addresses and ids are replaced, the same by the\n" +
			"same word each time; --names keeps them. Secrets, texts of commands, their output and\n" +
			"what operators wrote by hand are never in it. Read it before you give it away: words of\n" +
			"an endpoint may hold a name that nobody knows as one.\n\n" +
			"With --json it is a case file, which diagnose --case weighs as diagnose weighs the agent.",
		Example: "  gururmm dossier web-17 --since 6h > dossier.md\n  gururmm dossier web-17 --json > case.json",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			now := time.Now()
			from := since.time(now)
			if from.IsZero() {
				from = now.Add(-24 * time.Hour)
			}
			h, err := heldDossier(cmd.Context(), client, args[0], from)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), dossier.Case(h, o))
			}
			return dossier.WriteMarkdown(cmd.OutOrStdout(), h, o)
		},
	}
	cmd.Flags().Var(&since, "since", "from then on: so long back, or a time (default: 24h)")
	cmd.Flags().BoolVar(&o.Names, "names", false, "keep names of machines, sites and people, and addresses")
	return cmd
}

func heldDossier(ctx context.Context, client *operator.Client, ref string, since time.Time) (h dossier.Held, err error) {
	if h.Held, err = evidence.Ask(ctx, client, ref); err != nil {
		return h, err
	}
	h.Since = since
	if h.Timeline, err = heldTimeline(ctx, client, h.Agent.ID, since); err != nil {
		return h, err
	}
	h.Timeline.Agent, h.Timeline.Now = h.Agent, h.Now // one moment in all chapters
	h.Reports = map[string][]byte{}
	for _, d := range h.Timeline.Directives { // the newest first
		if d.Kind != wire.DirectiveRunProbes || d.State != string(wire.DirectiveDone) || d.CreatedAt.Before(since) || len(h.Reports) == maxReports {
			continue
		}
		whole, err := client.Directive(ctx, d.ID)
		if err != nil {
			return h, err
		}
		h.Reports[d.ID] = whole.Report
	}
	return h, nil
}
