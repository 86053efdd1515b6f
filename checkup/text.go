package checkup

import (
	"fmt"
	"io"
	"strings"
	"time"

	"gururmm/internal/moment"
	"gururmm/internal/wrap"
)

// Style of a rendering.
type Style struct {
	Color bool
	// Verbose shows the notes of what is well, too.
	Verbose bool
}

// Columns of a result's line: indent, status, name, what was seen, time taken.
const (
	nameWidth = 9
	indent    = 2 + 4 + 2 + nameWidth + 1
	tookWidth = 6
	seenWidth = wrap.Width - indent - tookWidth - 1
)

var colors = map[Status]string{Pass: "32", Warn: "1;33", Fail: "1;31", Skip: "2", Unknown: "1;31"}

func (st Style) paint(code, text string) string {
	if !st.Color || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// word is the outcome in four letters.
func (s Status) word() string {
	if s == Unknown {
		return "????"
	}
	return strings.ToUpper(string(s))
}

// Write renders the report for people, in lines of at most 80 columns.
func Write(w io.Writer, r Report, st Style) error {
	var b strings.Builder
	line := func(text string) { b.WriteString(strings.TrimRight(text, " ") + "\n") }
	for i, l := range fold(clean(r.title()), wrap.Width) {
		if i == 0 {
			l = st.paint("1", l)
		}
		line(l)
	}
	group := ""
	for _, one := range r.Results {
		if one.Group != group {
			group = one.Group
			line("")
			for _, l := range fold(clean(group), wrap.Width) {
				line(st.paint("1", l))
			}
		}
		b.WriteString(one.text(st))
	}
	line("")
	for _, l := range wrap.Lines(r.Sum(), wrap.Width) {
		line(st.paint(colors[r.Worst()], l))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) title() string {
	who := "not enrolled"
	if r.Agent != "" {
		who = "agent " + r.Agent
	}
	if r.Host != "" {
		who += " on " + r.Host
	}
	return fmt.Sprintf("Doctor: %s, version %s, %s", who, r.Version, moment.Local(r.At))
}

// text renders one result.
func (r Result) text(st Style) string {
	var b strings.Builder
	took := ""
	if r.Status != Skip {
		took = short(time.Duration(r.TookMS * float64(time.Millisecond)))
	}
	blank := strings.Repeat(" ", indent)
	status := st.paint(colors[r.Status], r.Status.word())
	width := seenWidth
	if took == "" {
		width = wrap.Width - indent
	}
	for i, l := range fold(clean(r.Seen), width) {
		if i > 0 {
			b.WriteString(blank + l + "\n")
			continue
		}
		head := fmt.Sprintf("  %s  %-*s ", status, nameWidth, wrap.Cut(clean(r.Name), nameWidth))
		if took != "" {
			l = pad(l, width) + " " + left(took, tookWidth)
		}
		b.WriteString(strings.TrimRight(head+l, " ") + "\n")
	}
	notes := r.Notes
	if r.Status == Pass && !st.Verbose {
		notes = nil
	}
	for _, note := range notes {
		for _, l := range fold(clean(note), wrap.Width-indent) {
			b.WriteString(strings.TrimRight(blank+l, " ") + "\n")
		}
	}
	if r.Type != "" {
		b.WriteString(blank + "error: " + wrap.Cut(clean(r.Type), wrap.Width-indent-7) + "\n")
	}
	if r.Do != "" {
		for i, l := range fold(clean(r.Do), wrap.Width-indent-4) {
			lead := "    "
			if i == 0 {
				lead = "do: "
			}
			b.WriteString(blank + st.paint("1", lead+l) + "\n")
		}
	}
	return b.String()
}

// Sum is the report in a sentence.
func (r Report) Sum() string {
	n := r.counts()
	var parts []string
	for _, s := range []Status{Pass, Warn, Fail, Unknown, Skip} {
		if n[s] > 0 {
			word := string(s)
			if s == Unknown {
				word = "unknown"
			}
			parts = append(parts, fmt.Sprintf("%d %s", n[s], word))
		}
	}
	if len(parts) == 0 {
		return "Nothing was looked at."
	}
	return strings.Join(parts, ", ") + " in " + short(time.Duration(r.TookMS*float64(time.Millisecond))) + "."
}

// fold breaks text into lines of at most n columns; a word longer than a line is
// broken, too: a URL must not be lost.
func fold(text string, n int) []string {
	var out []string
	for _, l := range wrap.Lines(text, n) {
		for r := []rune(l); ; {
			if len(r) <= n {
				out = append(out, string(r))
				break
			}
			out, r = append(out, string(r[:n])), r[n:]
		}
	}
	return out
}

// clean takes out control characters: an endpoint must not move the reader's cursor.
func clean(s string) string { return strings.NewReplacer("\n", " ", "\t", " ").Replace(wrap.Plain(s)) }

func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-len([]rune(s)))) }
func left(s string, n int) string {
	return strings.Repeat(" ", max(0, n-len([]rune(s)))) + s
}

// short gives a duration in six columns at most.
func short(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%dm", int(min(d, 99999*time.Minute).Minutes()))
}
