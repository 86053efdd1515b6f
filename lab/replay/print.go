package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"gururmm/internal/wrap"
)

// Signs of cells, in tables.
var signs = map[Cell]string{Reproduced: "yes", Contradicted: "no", Untouched: "·"}

const legend = "yes: reproduced, the run shows what the case has, and a healthy system does not. no: contradicted. " +
	"·: untouched, as in the case, and so it would be with nothing wrong."

// told are the columns beside the tests: what the case's server threw away, or nobody could see.
var told = []struct {
	name, means string
	of          func(r Row) string
}{
	{"pongs", "whether pongs to the server's pings still came at the end of T4's half hour: the server gets them, and looks at none", func(r Row) string { return yes(r.Pongs) }},
	{"pings read", "whether the agent read pings then: what T4 was taken to show", func(r Row) string { return yes(r.Pings) }},
	{"ran", "whether commands ran there, unacknowledged", func(r Row) string { return yes(r.Ran) }},
	{"links", "how many links agent-a had in that half hour", func(r Row) string { return fmt.Sprint(r.Links) }},
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// heading is the last word of a column's name: what there is room for.
func heading(name string) string { return strings.ToUpper(name[strings.LastIndexByte(name, ' ')+1:]) }

func (r Row) share() string {
	if r.Out {
		return "out"
	}
	if r.Share < 0.01 {
		return "<1%"
	}
	return fmt.Sprintf("%.0f%%", r.Share*100)
}

// Print writes the matrix for a terminal: reading by reading, its cells below it.
func (r Replay) Print(w io.Writer) error {
	fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("%s: %s leads, %.0f%%, %s", r.Case, r.Answer.Ranking[0].ID, r.Answer.Ranking[0].Probability*100, r.Answer.Confidence.Word)))
	fmt.Fprintln(w)
	for _, t := range r.Tests {
		fmt.Fprintln(w, wrap.Behind(fmt.Sprintf("%-7s ", t.Name), t.Case))
	}
	fmt.Fprintf(w, "\n%s\n\n", wrap.Behind("", legend))
	var table bytes.Buffer
	out := tabwriter.NewWriter(&table, 0, 0, 1, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(out, strings.Join(cells, "\t")) }
	var head []string
	for _, t := range r.Tests {
		head = append(head, t.Name)
	}
	for _, t := range told {
		head = append(head, heading(t.name))
	}
	row(head...)
	for _, x := range r.Rows {
		var cells []string
		for _, c := range x.Cells {
			cells = append(cells, signs[c])
		}
		for _, t := range told {
			cells = append(cells, t.of(x))
		}
		row(cells...)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	lines := strings.Split(table.String(), "\n")
	fmt.Fprintf(w, "SHARE MECHANISM, AND ITS READING\n    %s\n", lines[0])
	for i, x := range r.Rows {
		said := x.Mechanism
		if x.Reading != "" {
			said += ": " + x.Reading
		}
		fmt.Fprintf(w, "%s\n    %s\n", wrap.Behind(fmt.Sprintf("%-6s", x.share()), said), lines[i+1])
	}
	fmt.Fprintln(w)
	for _, t := range told {
		fmt.Fprintln(w, wrap.Behind("", heading(t.name)+": "+t.means))
	}
	fmt.Fprintln(w, "\nWithout a row:")
	for _, x := range r.Without {
		if _, err := fmt.Fprintln(w, wrap.Behind(fmt.Sprintf("  %-20s ", x.Mechanism), x.Why)); err != nil {
			return err
		}
	}
	return nil
}

// Markdown is the part of a page that the matrix has.
func (r Replay) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	lead := r.Answer.Ranking
	line("On the case the engine has `%s` first with %.0f%% (%s), then `%s` with %.0f%% and `%s` with %.0f%%.\n",
		lead[0].ID, lead[0].Probability*100, r.Answer.Confidence.Word, lead[1].ID, lead[1].Probability*100, lead[2].ID, lead[2].Probability*100)
	line("| test | in the case |\n|---|---|")
	for _, t := range r.Tests {
		line("| %s | %s |", t.Name, t.Case)
	}
	line("\n%s\n", legend)
	head, rule := "| mechanism, and its reading | share |", "|---|---|"
	for _, t := range r.Tests {
		head, rule = head+" "+t.Name+" |", rule+"---|"
	}
	for _, t := range told {
		head, rule = head+" *"+t.name+"* |", rule+"---|"
	}
	line("%s\n%s", head, rule)
	for _, x := range r.Rows {
		cells := "| `" + x.Mechanism + "`"
		if x.Reading != "" {
			cells += " " + x.Reading
		}
		cells += " | " + x.share() + " |"
		for _, c := range x.Cells {
			if c == Contradicted {
				cells += " **no** |"
			} else {
				cells += " " + signs[c] + " |"
			}
		}
		for _, t := range told {
			cells += " " + t.of(x) + " |"
		}
		line("%s", cells)
	}
	line("\nShare is the engine's, of the mechanism in all its readings; `out` is what it has ruled out.")
	for _, t := range told {
		line("*%s*: %s.", t.name, t.means)
	}
	line("\nWithout a row, for the described system has no room for them:\n")
	for _, x := range r.Without {
		line("- `%s`: %s", x.Mechanism, x.Why)
	}
	return b.String()
}

// The marks of the part of a page that is written from a run.
const (
	markBegin = "<!-- replay: written by gururmm-lab dossier -->"
	markEnd   = "<!-- /replay -->"
)

// ErrPage says that a page has no place for the matrix.
var ErrPage = errors.New("the page has no place for it: a line " + markBegin + " and, below it, " + markEnd)

// Put gives page with the matrix in its place. The error is [ErrPage].
func (r Replay) Put(page []byte) ([]byte, error) {
	before, rest, found := bytes.Cut(page, []byte(markBegin+"\n"))
	_, after, closed := bytes.Cut(rest, []byte(markEnd))
	if !found || !closed {
		return nil, ErrPage
	}
	return bytes.Join([][]byte{before, []byte(markBegin + "\n\n"), []byte(r.Markdown()), []byte("\n" + markEnd), after}, nil), nil
}

// Write puts the matrix into the page of that name.
func (r Replay) Write(page string) error {
	raw, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	made, err := r.Put(bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n")))
	if err != nil || bytes.Equal(made, raw) {
		return err
	}
	return os.WriteFile(page, made, 0o644)
}
