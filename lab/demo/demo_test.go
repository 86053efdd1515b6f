package demo

import (
	"strings"
	"testing"
	"time"

	"gururmm/internal/wrap"
)

func TestTimelineIsNarrowAndSorted(t *testing.T) {
	var out strings.Builder
	began := time.Now()
	tl := timeline{out: &out, began: began}
	tl.tell(began.Add(2*time.Second), "agent", "link.text.lost", "%s", strings.Repeat("evidence and more of it ", 10))
	tl.tell(began.Add(time.Second), "path", "broken", "earlier, known later")
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > wrap.Width {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if got := tl.sorted(); got[0].What != "broken" || got[1].What != "link.text.lost" {
		t.Errorf("steps out of order: %+v", got)
	}
}

func TestSummarySaysWhatDidNotHold(t *testing.T) {
	var r Report
	r.claim(true, "this held", "")
	r.claim(false, "that did not", "why")
	r.figure(figureProof, 1700, "ms", limitProofMS)
	r.figure(figureMended, 9000, "ms", 0)
	r.finish()
	if r.OK || !strings.Contains(r.Summary, "that did not") || !strings.Contains(r.Summary, "1700 ms, at most 1500") {
		t.Errorf("ok %v: %s", r.OK, r.Summary)
	}
	var good Report
	good.claim(true, "this held", "")
	good.figure(figureProof, 900, "ms", limitProofMS)
	good.finish()
	if !good.OK || !strings.Contains(good.Summary, "900 ms") {
		t.Errorf("ok %v: %s", good.OK, good.Summary)
	}
}
