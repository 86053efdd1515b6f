package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// columns aligns cells by spaces; a line has no blanks at its end.
func columns(rows [][]string) []string {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, len(rows))
	for n, r := range rows {
		var b strings.Builder
		for i, cell := range r {
			fmt.Fprintf(&b, "%-*s  ", widths[i], cell) // pads by runes
		}
		lines[n] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// plural is "1 agent" or "2 agents".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func commandsCommand(f *operatorFlags) *cobra.Command {
	var filter operator.Filter
	var state string
	cmd := &cobra.Command{
		Use:     "commands",
		Short:   "List commands, the newest first",
		Example: "  gururmm commands --agent web-17 --state failed",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkCount("limit", filter.Limit); err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			filter.State = wire.State(state)
			items, err := client.Commands(cmd.Context(), filter)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Command]{Items: items})
			}
			return listCommands(cmd.OutOrStdout(), items)
		},
	}
	cmd.Flags().StringVar(&filter.Agent, "agent", "", "only of this agent (name, id, or its beginning)")
	cmd.Flags().StringVar(&state, "state", "", "only in this state: pending, running, completed, failed, …")
	cmd.Flags().IntVar(&filter.Limit, "limit", 50, "at most so many")
	return cmd
}

// listCommands gives each command a line, and below it its id and script.
func listCommands(w io.Writer, items []operator.Command) error {
	rows := [][]string{{"AGENT", "STATE", "EXIT", "TRIES", "DOOR", "AGE"}}
	for _, c := range items {
		exit := "-"
		if c.ExitCode != nil {
			exit = fmt.Sprint(*c.ExitCode)
		}
		rows = append(rows, []string{oneLine(c.AgentName, 24), string(c.State), exit, fmt.Sprint(c.Attempts),
			cmp.Or(string(c.Channel), "-"), span(time.Since(c.CreatedAt))})
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for i, c := range items {
		fmt.Fprintf(w, "%s\n  %s  %s\n", lines[i+1], c.ID, oneLine(c.Script, wrap.Width-len(c.ID)-4))
	}
	return nil
}

func cancelCommand(f *operatorFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "cancel COMMAND",
		Short:   "Stop a command: it never runs, or its process tree is killed",
		Example: "  gururmm cancel 01a20b84",
		Args:    help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			c, err := client.Cancel(cmd.Context(), args[0])
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), c)
			}
			if c.State.Terminal() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is %s.\n", c.ID, c.State)
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("%s is %s on %s; its cancel is ordered.", c.ID, c.State, oneLine(c.AgentName, 40))))
			}
			return nil
		},
	}
}

func beaconsCommand(f *operatorFlags) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "beacons [AGENT]",
		Short:   "List what endpoints said by the second door",
		Example: "  gururmm beacons\n  gururmm beacons web-17 --limit 5",
		Args:    help.Words(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkCount("limit", limit); err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			agent := ""
			if len(args) == 1 {
				agent = args[0]
			}
			items, err := client.Beacons(cmd.Context(), agent, limit)
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Beacon]{Items: items})
			}
			if len(items) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "No beacon was recorded yet.")
				return nil
			}
			for _, b := range items {
				if err := printBeacon(cmd.OutOrStdout(), b); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many")
	return cmd
}

// beaconFacts is what of an endpoint's report is held against the server's view.
type beaconFacts struct {
	Cause    string             `json:"cause"`
	Findings []operator.Finding `json:"findings"`
	Snapshot struct {
		Link struct {
			ID     wire.LinkID `json:"id"`
			Phase  string      `json:"phase"`
			Ledger struct {
				Local wire.Ledger  `json:"local"`
				Peer  *wire.Ledger `json:"peer"`
			} `json:"ledger"`
			TCP *kernelFacts `json:"tcp"`
		} `json:"link"`
	} `json:"snapshot"`
}

// kernelFacts is what the endpoint's kernel says of the bytes below the link; absent
// is unknown.
type kernelFacts struct {
	RTT           *time.Duration `json:"rtt_ns"`
	Unread        *uint64        `json:"unread_bytes"`
	Unacked       *uint64        `json:"unacked_bytes"`
	Retransmitted *uint64        `json:"retransmitted_bytes"`
}

func (k *kernelFacts) String() string {
	var said []string
	for _, n := range []struct {
		bytes *uint64
		what  string
	}{
		{k.Unread, "not read by the agent"}, {k.Unacked, "not acknowledged by the other end"}, {k.Retransmitted, "sent again"},
	} {
		if n.bytes != nil {
			said = append(said, fmt.Sprintf("%d bytes %s", *n.bytes, n.what))
		}
	}
	if k.RTT != nil {
		said = append(said, fmt.Sprintf("round trip %v", *k.RTT))
	}
	return strings.Join(said, ", ")
}

func printBeacon(w io.Writer, b operator.Beacon) error {
	var r beaconFacts
	if err := json.Unmarshal(b.Report, &r); err != nil {
		return fmt.Errorf("beacon %s: %w", b.ReportID, err)
	}
	fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("%s %s: %s (%s)", moment.Aged(b.ReceivedAt, time.Now()), oneLine(b.AgentName, 24),
		cmp.Or(oneLine(b.Verdict, 40), "no verdict"), oneLine(r.Cause, 20))))
	if b.Sentence != "" {
		fmt.Fprintln(w, wrap.Behind("  ", wrap.Plain(b.Sentence)))
	}
	for _, f := range r.Findings {
		fmt.Fprintln(w, wrap.Behind("  found:  ", oneLine(f.Code, 40)+": "+wrap.Plain(f.Sentence)))
	}
	link := r.Snapshot.Link
	said := "no link"
	if link.ID != 0 {
		said = fmt.Sprintf("link %s %s, written %d, read %d", link.ID, oneLine(link.Phase, 20), link.Ledger.Local.Written, link.Ledger.Local.Read)
		if p := link.Ledger.Peer; p != nil {
			said += fmt.Sprintf("; server said written %d, read %d", p.Written, p.Read)
		}
	} else if link.Phase != "" {
		said += ", " + oneLine(link.Phase, 20)
	}
	fmt.Fprintln(w, wrap.Behind("  agent:  ", said))
	if link.TCP != nil {
		fmt.Fprintln(w, wrap.Behind("  kernel: ", link.TCP.String()))
	}
	said = "no view recorded"
	if b.View != nil {
		said = fmt.Sprintf("%s, owes %s", b.View.Presence, plural(b.View.Owed, "command"))
		for _, l := range b.View.Links {
			said += fmt.Sprintf("; link %s %s, written %d, read %d, queued %s", l.Link, l.State, l.Written, l.Read, queued(l))
		}
	}
	_, err := fmt.Fprintln(w, wrap.Behind("  server: ", said))
	return err
}

func enrollTokenCommand(f *operatorFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "enroll-token", Short: "Make, list and revoke tokens that let endpoints enroll"}
	var site string
	var uses int
	var expires time.Duration
	var showInstall bool
	create := &cobra.Command{
		Use:     "create",
		Short:   "Make a token; its secret is shown this once",
		Example: "  gururmm enroll-token create --show-install\n  gururmm enroll-token create --site berlin --uses 50 --expires 8h",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(checkCount("uses", uses), checkDuration("expires", expires)); err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			t, err := client.CreateEnrollToken(cmd.Context(), operator.NewEnrollToken{Site: site, Uses: uses, ExpiresInMS: expires.Milliseconds()})
			if err != nil {
				return explain(err)
			}
			if f.json && showInstall {
				return printJSON(cmd.OutOrStdout(), struct {
					operator.EnrollToken
					Install []installLine `json:"install"`
				}{t, installLines(t)})
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("Token %s, site %s, good for %s until %s. On the endpoint:",
				t.ID, oneLine(t.Site, 40), plural(t.UsesLeft, "use"), moment.Aged(t.ExpiresAt, time.Now()))))
			if showInstall {
				tellInstallLines(cmd.OutOrStdout(), t)
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "\n  gururmm-agent enroll --server %s --token %s", t.URL, t.Token)
			if t.Pin != "" {
				fmt.Fprintf(cmd.OutOrStdout(), " --pin %s", t.Pin)
			}
			fmt.Fprint(cmd.OutOrStdout(), "\n\n")
			return nil
		},
	}
	create.Flags().StringVar(&site, "site", "default", "site the endpoints will belong to")
	create.Flags().IntVar(&uses, "uses", 1, "how many endpoints may use it")
	create.Flags().DurationVar(&expires, "expires", time.Hour, "good for so long")
	create.Flags().BoolVar(&showInstall, "show-install", false, "print, for each platform, the line that installs an agent with it")
	list := &cobra.Command{
		Use: "list", Short: "List the tokens", Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			items, err := client.EnrollTokens(cmd.Context())
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.EnrollToken]{Items: items})
			}
			return listTokens(cmd.OutOrStdout(), items)
		},
	}
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Make a token useless", Example: "  gururmm enroll-token list\n  gururmm enroll-token revoke 01a20b84",
		Args: help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			if err := client.RevokeEnrollToken(cmd.Context(), args[0]); err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"revoked": args[0]})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Token %s is useless now.\n", args[0])
			return nil
		},
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}

// listTokens gives each token a line, and below it its id.
func listTokens(w io.Writer, items []operator.EnrollToken) error {
	rows := [][]string{{"SITE", "USES LEFT", "EXPIRES"}}
	for _, t := range items {
		rows = append(rows, []string{oneLine(t.Site, 24), fmt.Sprint(t.UsesLeft), moment.Aged(t.ExpiresAt, time.Now())})
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for i, t := range items {
		fmt.Fprintf(w, "%s\n  %s\n", lines[i+1], t.ID)
	}
	return nil
}
