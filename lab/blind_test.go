//go:build unix

package lab_test

import (
	"strings"
	"testing"
	"time"

	"gururmm/lab/blind"
)

// TestBlindDiagnosis puts one fault of each class into real endpoints, and has the diagnosis
// name it: what it sees is what the operator API gives. "gururmm-lab scenarios" makes hundreds.
func TestBlindDiagnosis(t *testing.T) {
	bin, dir := room(t)
	only := []string{"path.text.all", "path.text.altered", "path.halfopen", "server.unwritten", "identity.clone", "operator.quarantined", "agent.dispatcher", "agent.hung", "well"}
	report, err := blind.Run(t.Context(), blind.Options{
		Bin: bin, Dir: dir, Seed: 5, Runs: len(only) - 1, Well: 1, Only: only, AtOnce: len(only), Ask: 14 * time.Second,
	})
	var table strings.Builder
	if err == nil {
		err = report.Print(&table)
	}
	t.Logf("%v\n%s", err, &table)
	if err != nil || len(report.Results) != len(only) {
		t.Fatalf("%d runs of %d, %v", len(report.Results), len(only), err)
	}
	for _, r := range report.Results {
		if r.Failed != "" || !r.Right() || r.Proof && !r.Proven {
			t.Errorf("%s (%s): %s, %s, %q %s", r.Injected, r.Fault, r.Named, r.Word, r.Proofs, r.Failed)
		}
	}
}
