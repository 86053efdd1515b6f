package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// outputsAtOnce bounds the outputs that are fetched together.
const outputsAtOnce = 8

// jobView shows a job and its endpoints.
type jobView struct {
	client *operator.Client
	out    io.Writer
	json   bool
	output bool // what the endpoints wrote, too
	unwell bool // only of those that did not complete
	most   int  // endpoints that are named
}

// jobPart is an endpoint's part with what it wrote.
type jobPart struct {
	operator.JobAgent
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
}

// jobReport is what --json prints of a job: its endpoints are those that did not complete,
// with --output all of them.
type jobReport struct {
	operator.Job
	Agents []jobPart `json:"agents"`
}

func (v *jobView) show(ctx context.Context, j operator.Job) error {
	var wrote []jobPart
	var err error
	if v.output {
		if wrote, err = v.parts(ctx, j.ID, v.unwell, operator.MaxJobAgents); err != nil {
			return err
		}
		if err := v.fetch(ctx, wrote); err != nil {
			return err
		}
	}
	if v.json && v.output {
		return printJSON(v.out, jobReport{j, wrote})
	}
	most := v.most
	if v.json {
		most = operator.MaxJobAgents
	}
	unwell, err := v.parts(ctx, j.ID, true, most)
	if err != nil {
		return err
	}
	if v.json {
		return printJSON(v.out, jobReport{j, unwell})
	}
	if err := printOutputs(v.out, wrote); err != nil {
		return err
	}
	return printJob(v.out, j, unwell)
}

// parts gives up to most of a job's endpoints.
func (v *jobView) parts(ctx context.Context, id string, unwell bool, most int) ([]jobPart, error) {
	all := []jobPart{}
	for len(all) < most {
		after := 0
		if len(all) > 0 {
			after = all[len(all)-1].N
		}
		want := min(operator.MaxJobPage, most-len(all))
		page, err := v.client.JobAgents(ctx, id, operator.JobAgentFilter{After: after, Unwell: unwell, Limit: want})
		if err != nil {
			return nil, err
		}
		for _, a := range page {
			all = append(all, jobPart{JobAgent: a})
		}
		if len(page) < want {
			break
		}
	}
	return all, nil
}

// fetch asks for what the endpoints wrote.
func (v *jobView) fetch(ctx context.Context, parts []jobPart) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, outputsAtOnce)
	var under sync.WaitGroup
	for i := range parts {
		p := &parts[i]
		if p.StdoutBytes+p.StderrBytes == 0 {
			continue
		}
		slots <- struct{}{}
		under.Go(func() {
			defer func() { <-slots }()
			for _, s := range []struct {
				stream wire.Stream
				bytes  int64
				to     *[]byte
			}{{wire.Stdout, p.StdoutBytes, &p.Stdout}, {wire.Stderr, p.StderrBytes, &p.Stderr}} {
				if s.bytes == 0 || ctx.Err() != nil {
					continue
				}
				var err error
				if *s.to, err = v.client.Output(ctx, p.Command, s.stream); err != nil {
					cancel(fmt.Errorf("output of %s: %w", oneLine(p.AgentName, 40), err))
				}
			}
		})
	}
	under.Wait()
	return context.Cause(ctx)
}

// printOutputs prints what endpoints wrote: the same once, with the names of all who did,
// what most wrote first.
func printOutputs(w io.Writer, parts []jobPart) error {
	type group struct {
		jobPart
		names []string
	}
	var groups []*group
	by := map[string]*group{}
	names := namesOf(parts)
	for i, p := range parts {
		if p.State == operator.JobAgentLeftOut || p.State == operator.JobAgentWaiting {
			continue
		}
		key := fmt.Sprintf("%s\n%d\n%s%s", outcomeOf(p.JobAgent), len(p.Stdout), p.Stdout, p.Stderr)
		if by[key] == nil {
			by[key] = &group{jobPart: p}
			groups = append(groups, by[key])
		}
		by[key].names = append(by[key].names, names[i])
	}
	slices.SortStableFunc(groups, func(a, b *group) int { return cmp.Compare(len(b.names), len(a.names)) })
	for _, g := range groups {
		fmt.Fprintln(w, wrap.Behind("== ", fmt.Sprintf("%s (%s): %s", plural(len(g.names), "endpoint"), outcomeOf(g.JobAgent), strings.Join(g.names, ", "))))
		if len(g.Stdout)+len(g.Stderr) == 0 {
			fmt.Fprintln(w, "(no output)")
		}
		for _, s := range []struct {
			head string
			text []byte
		}{{"", g.Stdout}, {"-- stderr\n", g.Stderr}} {
			if len(s.text) == 0 {
				continue
			}
			// What one endpoint wrote must not pass for another's.
			text := wrap.Plain(string(s.text))
			if !strings.HasSuffix(text, "\n") {
				text += "\n"
			}
			if _, err := io.WriteString(w, s.head+text); err != nil {
				return err
			}
		}
		fmt.Fprintln(w)
	}
	return nil
}

// namesOf names each part's endpoint so that it can be told from the others.
func namesOf(parts []jobPart) []string {
	names, ids := make([]string, len(parts)), make([]string, len(parts))
	for i, p := range parts {
		names[i], ids[i] = oneLine(p.AgentName, 40), p.Agent
	}
	return operator.Distinct(names, ids)
}

// outcomeOf is an endpoint's state, with the exit code if that says more.
func outcomeOf(a operator.JobAgent) string {
	state := strings.ReplaceAll(a.State, "_", " ")
	if a.ExitCode != nil && *a.ExitCode != 0 {
		return fmt.Sprintf("%s, exit %d", state, *a.ExitCode)
	}
	return state
}

// printJob says how a job stands, and gives each endpoint that did not complete a line, and
// below it its command and the reason.
func printJob(w io.Writer, j operator.Job, unwell []jobPart) error {
	said := fmt.Sprintf("Job %s, by %s at %s, is %s", j.ID, oneLine(j.CreatedBy, 24), moment.Aged(j.CreatedAt, time.Now()), j.State)
	if j.EndedAt != nil {
		said += " after " + span(j.EndedAt.Sub(j.CreatedAt))
	}
	fmt.Fprintln(w, wrap.Behind("", said+": "+standOf(j)+"."))
	if len(unwell) > 0 {
		rows := [][]string{{"AGENT", "STATE", "EXIT"}}
		names := namesOf(unwell)
		for i, p := range unwell {
			exit := "-"
			if p.ExitCode != nil {
				exit = fmt.Sprint(*p.ExitCode)
			}
			rows = append(rows, []string{names[i], strings.ReplaceAll(p.State, "_", " "), exit})
		}
		lines := columns(rows)
		fmt.Fprintln(w, lines[0])
		for i, p := range unwell {
			fmt.Fprintln(w, lines[i+1])
			if below := strings.TrimSpace(p.Command + " " + wrap.Plain(p.Reason)); below != "" {
				fmt.Fprintln(w, wrap.Behind("  ", below))
			}
		}
	}
	c := j.Counts
	if more := c.Total() - c.Open() - c.Completed - len(unwell); more > 0 {
		fmt.Fprintf(w, "and %d more:\n  gururmm jobs show %s --failed\n", more, j.ID)
	}
	var err error
	if j.State != operator.JobDone {
		_, err = fmt.Fprintf(w, "To follow it:\n  gururmm jobs show %s --follow\nTo stop it:\n  gururmm jobs cancel %s\n", j.ID, j.ID)
	}
	return err
}
