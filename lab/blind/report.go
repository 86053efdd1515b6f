package blind

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gururmm/diagnosis"
	"gururmm/diagnosis/evidence"
	"gururmm/internal/wrap"
)

// What must hold.
const (
	rightLeast  = 0.95
	provenLeast = 1.0
	answerMost  = time.Second
)

// Figure is one number beside its limit.
type Figure struct {
	Name  string `json:"name"`
	Seen  string `json:"seen"`
	Limit string `json:"limit"`
	Held  bool   `json:"held"`
}

// Report is all runs.
type Report struct {
	Seed    uint64   `json:"seed"`
	Results []Result `json:"results"`
	Figures []Figure `json:"figures"`
	OK      bool     `json:"ok"`
	Took    float64  `json:"took_s"`
	// Only are the mechanisms that were asked for; empty: all.
	Only []string `json:"only,omitempty"`
}

func report(o Options, results []Result, took time.Duration) (Report, error) {
	r := Report{Seed: o.Seed, Results: results, OK: true, Took: took.Seconds(), Only: o.Only}
	ill, right, provable, proven, well, calm, failed := 0, 0, 0, 0, 0, 0, 0
	slowest := 0.0
	for _, x := range results {
		slowest = max(slowest, x.Took)
		switch {
		case x.Failed != "":
			failed++
		case x.Injected == wellID:
			well++
			if x.Right() {
				calm++
			}
		default:
			ill++
			if x.Right() {
				right++
			}
			if x.Proof {
				provable++
				if x.Proven {
					proven++
				}
			}
		}
	}
	add := func(name, seen, limit string, held bool) {
		r.Figures = append(r.Figures, Figure{name, seen, limit, held})
		r.OK = r.OK && held
	}
	share := func(n, of int) float64 { return float64(n) / float64(max(1, of)) }
	if ill > 0 {
		add("the mechanism that was put in is first", fmt.Sprintf("%d of %d, %.1f%%", right, ill, 100*share(right, ill)), "95% or more", share(right, ill) >= rightLeast)
		add("named as proven where ledgers, stages or verdicts can", fmt.Sprintf("%d of %d, %.1f%%", proven, provable, 100*share(proven, provable)), "100%", share(proven, provable) >= provenLeast)
	}
	if well > 0 {
		add("nothing but well where nothing is wrong", fmt.Sprintf("%d of %d", calm, well), "all", calm == well)
	}
	add("runs that could not be made", fmt.Sprint(failed), "0", failed == 0)
	add("slowest answer, with asking a server under all that load", fmt.Sprintf("%.0f ms", slowest), "told only", true)
	busy := busyDay(results)
	add("slowest of 20 answers with a day's evidence of a busy agent", busy.Round(time.Millisecond).String(), "1 s or less", busy <= answerMost)
	return r, nil
}

// matrix counts what was named, by what was put in.
func (r Report) matrix() (rows []string, cells map[string]map[string]int) {
	cells = map[string]map[string]int{}
	for _, x := range r.Results {
		if x.Failed != "" {
			continue
		}
		if cells[x.Injected] == nil {
			cells[x.Injected] = map[string]int{}
			rows = append(rows, x.Injected)
		}
		cells[x.Injected][x.Named]++
	}
	slices.Sort(rows)
	return rows, cells
}

// Print writes the confusion matrix and the figures.
func (r Report) Print(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "  PUT IN\tRUNS\tNAMED")
	rows, cells := r.matrix()
	longest := len("PUT IN")
	for _, id := range rows {
		longest = max(longest, len(id))
	}
	for _, id := range rows {
		n, names, named := 0, []string{}, []string{}
		for name := range cells[id] {
			names = append(names, name)
		}
		slices.SortFunc(names, func(a, b string) int { return cmp.Or(cells[id][b]-cells[id][a], cmp.Compare(a, b)) })
		for _, name := range names {
			n += cells[id][name]
			named = append(named, fmt.Sprintf("%s %d", name, cells[id][name]))
		}
		// Folded below its column: of one that is often mistaken there are many.
		for i, line := range wrap.Lines(strings.Join(named, ", "), wrap.Width-len("  ")-longest-len("  RUNS  ")) {
			if i == 0 {
				fmt.Fprintf(out, "  %s\t%d\t%s\n", id, n, line)
			} else {
				fmt.Fprintf(out, "  \t\t%s\n", line)
			}
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	for _, x := range r.Results {
		if x.Failed != "" {
			fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("run %d, %s (%s), could not be made: %s", x.Run, x.Injected, x.Fault, x.Failed)))
		} else if !x.Right() || x.Proof && !x.Proven {
			fmt.Fprintln(w, wrap.Behind("", fmt.Sprintf("run %d, %s (%s): %s, %s, %s", x.Run, x.Injected, x.Fault, x.Named, x.Word, cmp.Or(strings.Join(x.Proofs, " "), "nothing proven"))))
		}
	}
	if len(r.Only) == 0 { // else none without one was asked for
		for _, x := range Without {
			fmt.Fprintln(w, wrap.Behind("without a run: ", x.Mechanism+", "+x.Why))
		}
	}
	fmt.Fprintf(w, "\nSeed %d, %d runs in %.0f s\n", r.Seed, len(r.Results), r.Took)
	for _, f := range r.Figures {
		head := fmt.Sprintf("  %-8s  ", map[bool]string{true: "held", false: "NOT HELD"}[f.Held])
		if _, err := fmt.Fprintln(w, wrap.Behind(head, fmt.Sprintf("%s: %s (%s)", f.Name, f.Seen, f.Limit))); err != nil {
			return err
		}
	}
	return nil
}

// keep writes what a run was answered by.
func keep(dir string, r Result, h evidence.Held, c diagnosis.Case) error {
	raw, err := c.Write()
	if err != nil {
		return err
	}
	held, err := json.MarshalIndent(h, "", " ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-%d", r.Injected, r.Run))
	return errors.Join(os.WriteFile(name+".yaml", raw, 0o600), os.WriteFile(name+".json", held, 0o600))
}
