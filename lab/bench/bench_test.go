package bench

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain has this binary be the parts of a benchmark, too.
func TestMain(m *testing.M) {
	if kind := os.Getenv(partEnv); kind != "" {
		if err := Part(context.Background(), kind, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, kind, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Whether each section works and says what it must; what the figures are, no test says.
func TestEachSectionMeasures(t *testing.T) {
	var out strings.Builder
	dir := t.TempDir()
	r, err := Run(t.Context(), Options{Agents: 20, Fleet: 20, Quick: true, Dir: dir, Out: &out})
	if err != nil {
		parts, _ := os.ReadFile(dir + "/parts.log")
		t.Fatalf("%v\n%s\n%s", err, out.String(), parts)
	}
	with := map[string]int{}
	for _, f := range r.Figures {
		if f.Least > 0 || f.Most > 0 {
			with[f.Section]++
			if f.Value <= 0 && f.Section != "pings" { // too few for a clock
				t.Errorf("%s: nothing was measured", f)
			}
		}
		for line := range strings.SplitSeq(f.String(), "\n") {
			if len([]rune(line)) > 80 {
				t.Errorf("%d columns: %s", len([]rune(line)), line)
			}
		}
	}
	page := dir + "/performance.md"
	if err := r.Document(page); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(page)
	plot, _ := os.ReadFile(dir + "/performance.svg")
	for _, part := range []string{"| growth |", "(performance.svg)", "| 20 | "} {
		if !strings.Contains(string(text), part) {
			t.Errorf("the page lacks %q:\n%s", part, text)
		}
	}
	if err := xml.Unmarshal(plot, new(struct{})); err != nil || len(r.Growth) < 2 {
		t.Errorf("the plot: %v\n%s", err, plot)
	}
	for _, name := range Sections() {
		if with[name] == 0 {
			t.Errorf("section %s has no figure with a limit", name)
		}
	}
}

func TestSectionsAreNamed(t *testing.T) {
	if _, err := Run(t.Context(), Options{Agents: 20, Fleet: 20, Only: []string{"speed"}, Dir: t.TempDir(), Out: new(strings.Builder)}); err == nil || !strings.Contains(err.Error(), "roundtrips") {
		t.Errorf("%v", err)
	}
}

func TestLoadsAreSummedUp(t *testing.T) {
	var each []time.Duration
	for i := range 200 {
		each = append(each, time.Duration(200-i)*time.Millisecond)
	}
	l := loadOf(each, 2*time.Second)
	if l.N != 200 || l.P50 != 101*time.Millisecond || l.P99 != 199*time.Millisecond || l.rate() != 100 {
		t.Errorf("%+v", l)
	}
	if got := median([]int{4, 1, 3}, func(n int) float64 { return float64(n) }); got != 3 {
		t.Errorf("median %v", got)
	}
}
