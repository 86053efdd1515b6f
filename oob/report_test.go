package oob_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"gururmm/oob"
	"gururmm/selfcheck"
)

func sample(id string, severity selfcheck.Severity) oob.Report {
	return oob.Report{
		Schema: oob.SchemaVersion, ReportID: id, Agent: "agent", At: time.Now().UTC(), Cause: "verdict",
		Verdict: selfcheck.Verdict{Code: selfcheck.CodeLinkTextLost, Severity: severity, Sentence: "2 texts of 17 lost"},
	}
}

// noise is text that does not compress.
func noise(t testing.TB, n int) string {
	t.Helper()
	b := make([]byte, n*3/4)
	rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

// What is too large loses frame headers first, then steps, the oldest of each,
// and nothing else.
func TestBeaconIsCutToFit(t *testing.T) {
	var got oob.Report
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) > oob.MaxReport {
			t.Errorf("body of %d bytes, %v", len(body), err)
		}
		if got, err = oob.DecodeReport(body); err != nil {
			t.Error(err)
		}
		answer(w, r)
	})
	c := newClient(t, nil, d.door())

	r := sample("r", selfcheck.SeverityError)
	const headers = 20_000
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	for range headers { // figures that do not compress
		r.Snapshot.Link.Recent = append(r.Snapshot.Link.Recent, selfcheck.FrameHeader{
			Size: rng.Uint64(), Age: time.Duration(rng.Int64())})
	}
	r.Steps = []selfcheck.StepRecord{{Reason: "a"}, {Reason: "b"}}
	if _, err := c.Beacon(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	recent := got.Snapshot.Link.Recent
	if len(recent) == 0 || len(recent) == headers || recent[len(recent)-1] != r.Snapshot.Link.Recent[headers-1] || len(got.Steps) != 2 {
		t.Errorf("%d headers, %d steps kept", len(recent), len(got.Steps))
	}
	if len(r.Snapshot.Link.Recent) != headers {
		t.Error("the caller's report was changed")
	}

	r.Snapshot.Link.Recent = r.Snapshot.Link.Recent[:16]
	for range 20 {
		r.Steps = append(r.Steps, selfcheck.StepRecord{Reason: noise(t, 32<<10)})
	}
	if _, err := c.Beacon(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if len(got.Snapshot.Link.Recent) != 0 || len(got.Steps) == 0 || got.Steps[len(got.Steps)-1].Reason != r.Steps[21].Reason ||
		got.Verdict.Code != r.Verdict.Code {
		t.Errorf("%d headers, %d steps kept", len(got.Snapshot.Link.Recent), len(got.Steps))
	}

	r = sample("r", selfcheck.SeverityError)
	r.Verdict.Sentence = noise(t, 1<<20)
	if _, err := c.Beacon(t.Context(), r); !errors.Is(err, oob.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
}

func TestDecodeReportIsBounded(t *testing.T) {
	var bomb bytes.Buffer
	z, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	z.Write([]byte(`{"agent":"`))
	for range 16 {
		z.Write(bytes.Repeat([]byte{'x'}, 1<<20))
	}
	z.Close()
	if bomb.Len() > oob.MaxReport {
		t.Fatalf("the bomb has %d bytes", bomb.Len())
	}
	if _, err := oob.DecodeReport(bomb.Bytes()); !errors.Is(err, oob.ErrTooLarge) {
		t.Errorf("bomb: %v", err)
	}
	if _, err := oob.DecodeReport(make([]byte, oob.MaxReport+1)); !errors.Is(err, oob.ErrTooLarge) {
		t.Errorf("oversize: %v", err)
	}
	for _, bad := range []string{"", "{}", strings.Repeat("\x1f\x8b", 10)} {
		if _, err := oob.DecodeReport([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzDecodeReport(f *testing.F) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, `{"schema":1,"report_id":"r","verdict":{"code":"ok"},"dropped":3}`)
	z.Close()
	f.Add(b.Bytes())
	f.Add([]byte{})
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		// Nothing to hold but that it ends, without a panic, within its bounds.
		oob.DecodeReport(body)
	})
}
