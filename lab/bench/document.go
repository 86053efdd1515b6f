package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gururmm/internal/atomicfile"
)

// printRow writes one line of the table, or its head.
func printRow(w io.Writer, row *Row) {
	if row == nil {
		fmt.Fprintf(w, "%8s %9s %8s %7s %9s %7s %9s %8s %7s\n", "agents", "B a link", "RSS MB", "idle %", "trips/s", "µs", "commands", "µs", "p99 ms")
		return
	}
	fmt.Fprintf(w, "%8d %9.0f %8.0f %7.2f %9.0f %7.1f %9.0f %8.0f %7.1f\n", row.Agents, row.PerLink, row.RSS/1e6, 100*row.IdleCPU,
		row.RoundTrips, row.RoundCPU, row.Commands, row.CommandCPU, row.CommandP99)
}

// Document writes the report as a page (Markdown), and its plot beside it (SVG).
func (r Report) Document(path string) error {
	plot := strings.TrimSuffix(path, filepath.Ext(path)) + ".svg"
	var b strings.Builder
	fmt.Fprintf(&b, `# Performance

Written by %s:
what the server costs and how fast it is, beside what others reach on the same machine in
the same run. Read the ratios: %d cores, %s, %s, loopback, everything on
these cores, and others on them too. What is measured how: [decisions/0034](decisions/0034-bench.md).
A figure that does not hold here is said to.

| section | figure | value | must hold | |
|---|---|---|---|---|
`, fmt.Sprintf("`gururmm-lab bench --agents %d --fleet %d --out %s`", r.Agents, r.Fleet, filepath.Base(path)), r.Cores, r.Go, r.OS)
	for _, f := range r.Figures {
		limit, mark := "", ""
		switch {
		case f.Least > 0:
			limit = "≥ " + number(f.Least)
		case f.Most > 0:
			limit = "≤ " + number(f.Most)
		}
		if limit != "" {
			mark = map[bool]string{true: "held", false: "**not held**"}[f.Held]
		}
		fmt.Fprintf(&b, "| %s | %s | %s %s | %s | %s |\n", f.Section, f.Figure, number(f.Value), f.Unit, limit, mark)
	}
	if len(r.Growth) > 0 {
		fmt.Fprintf(&b, `
## As a fleet grows

One server's life, plain links; CPU is the server's alone, 256 under way at once.

| agents | bytes a link | RSS, MB | idle, %% of a core | round trips/s | µs each | commands/s | µs each | p99, ms |
|---|---|---|---|---|---|---|---|---|
`)
		for _, row := range r.Growth {
			fmt.Fprintf(&b, "| %d | %.0f | %.0f | %.2f | %.0f | %.1f | %.0f | %.0f | %.1f |\n", row.Agents, row.PerLink, row.RSS/1e6, 100*row.IdleCPU,
				row.RoundTrips, row.RoundCPU, row.Commands, row.CommandCPU, row.CommandP99)
		}
		fmt.Fprintf(&b, "\n![how cost grows with the number of agents](%s)\n", filepath.Base(plot))
		if err := atomicfile.Write(plot, []byte(r.plot()), 0o644); err != nil {
			return err
		}
	} else if err := os.Remove(plot); err != nil && !os.IsNotExist(err) {
		return err
	}
	return atomicfile.Write(path, []byte(b.String()), 0o644)
}

// plot draws what each agent, round trip and command costs over the number of agents.
func (r Report) plot() string {
	const width, height, left, top, bottom = 280, 220, 50, 34, 30
	var b strings.Builder
	panels := []struct {
		title string
		of    func(Row) float64
	}{
		{"bytes a link", func(row Row) float64 { return row.PerLink }},
		{"server µs a round trip", func(row Row) float64 { return row.RoundCPU }},
		{"server µs a command", func(row Row) float64 { return row.CommandCPU }},
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", width*len(panels), height)
	fmt.Fprintln(&b, `<rect width="100%" height="100%" fill="white"/>`)
	last := r.Growth[len(r.Growth)-1].Agents
	for i, p := range panels {
		most := 0.
		for _, row := range r.Growth {
			most = max(most, p.of(row))
		}
		most *= 1.15 // room above the highest
		x := func(n int) float64 { return float64(i*width+left) + float64(n)/float64(last)*(width-left-20) }
		y := func(v float64) float64 { return top + (1-v/most)*(height-top-bottom) }
		fmt.Fprintf(&b, `<text x="%d" y="18" font-weight="bold">%s</text>`+"\n", i*width+left, p.title)
		fmt.Fprintf(&b, `<path d="M%.1f %d V%.1f H%.1f" fill="none" stroke="black"/>`+"\n", x(0), top, y(0), x(last))
		var line strings.Builder
		for _, row := range r.Growth {
			v := p.of(row)
			fmt.Fprintf(&line, "%.1f,%.1f ", x(row.Agents), y(v))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="#1f5fa8"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x(row.Agents), y(v), x(row.Agents), y(v)-7, number(v))
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x(row.Agents), y(0)+14, thousands(row.Agents))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>`+"\n", strings.TrimSpace(line.String()))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%dk", n/1000)
}
