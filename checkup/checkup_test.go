package checkup

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

func init() { time.Local = time.UTC } // what people read is in local time

func example() Report {
	link, door := "link wss://rmm.example:8443/v1/link", "second door https://rmm.example:8444"
	r := Report{
		Schema: Schema, At: time.Date(2026, 11, 24, 0, 20, 31, 0, time.UTC), Host: "web-17",
		Agent: "0193c2d4-7a11-7c3e-9b1f-3f2a9d0c11aa", Version: "v1.4.0", TookMS: 8421.7,
		Results: []Result{
			{Group: link, Name: "dns", Target: "rmm.example", Status: Pass, Seen: "192.0.2.7, 2001:db8::7", TookMS: 3.21,
				Notes: []string{"A: 1 address in 2.1 ms", "AAAA: 1 address in 3.0 ms", "asked: 127.0.0.53"}},
			{Group: link, Name: "tls", Status: Warn, Seen: `TLS 1.3, issued by "Zscaler Intermediate Root CA (zscalertwo.net)": Zscaler opens this connection`,
				TookMS: 31, Do: "It works, but Zscaler reads and may alter all of it: have rmm.example exempted from TLS inspection."},
			{Group: link, Name: "echo", Status: Fail, Seen: "up passes 16 KiB, fails at 17 KiB; down to 256 KiB", TookMS: 6210,
				Phase: "application", Type: "ws.unverified", Notes: []string{"up: it was lost: the server read the ping behind it, but not the text"},
				Do: "A box on the way lets through texts of 16 KiB and none of more: raise its limit on WebSocket messages, or have this server passed through uninspected."},
			{Group: door, Name: "tcp", Status: Fail, Seen: "192.0.2.7:8444: connection refused", TookMS: 0.4, Phase: "connection", Type: "tcp.refused",
				Do: "Nothing listens there: is the server running, is the port right, does a firewall reject it?"},
			{Group: door, Name: "door", Status: Skip, Seen: "needs tcp, which failed"},
			{Group: "this machine", Name: "clock", Target: "this machine", TookMS: 0},
		},
	}
	r.Verdict = r.Worst()
	return r
}

func TestTextOfAReport(t *testing.T) {
	for name, style := range map[string]Style{"report.txt": {}, "verbose.txt": {Verbose: true}} {
		text(t, filepath.Join("testdata", name), style)
	}
}

func text(t *testing.T, golden string, style Style) {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, example(), style); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestLinesFitAndColoursAreOnlyColours(t *testing.T) {
	long := strings.Repeat("x", 300)
	r := example()
	r.Host = long
	r.Results = append(r.Results, Result{Group: long, Name: long, Status: Fail, Seen: long + " " + long, Notes: []string{long}, Type: long, Do: long, TookMS: 1e9})
	var plain, colored bytes.Buffer
	if err := errors.Join(Write(&plain, r, Style{}), Write(&colored, r, Style{Color: true})); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(plain.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	bare := colored.String()
	for _, code := range []string{"0", "1", "2", "32", "1;33", "1;31"} {
		bare = strings.ReplaceAll(bare, "\x1b["+code+"m", "")
	}
	if bare != plain.String() || bare == colored.String() {
		t.Errorf("without its colours:\n%s\nwant\n%s", bare, plain.String())
	}
}

func TestAReportMovesNobodysCursor(t *testing.T) {
	evil := "a\x1b[2Jb\rc\u202ed\u009be"
	var b bytes.Buffer
	r := Report{Host: evil, Agent: evil, Version: evil, Results: []Result{{Group: evil, Name: evil, Seen: evil, Notes: []string{evil}, Type: evil, Do: evil}}}
	if err := Write(&b, r, Style{}); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\r\u202e\u009b") {
		t.Errorf("%q", b.String())
	}
}

func TestExitCodes(t *testing.T) {
	of := func(all ...Status) Report {
		var r Report
		for _, s := range all {
			r.Results = append(r.Results, Result{Status: s})
		}
		return r
	}
	for _, c := range []struct {
		r     Report
		worst Status
		code  int
	}{
		{of(Pass, Pass), Pass, 0}, {of(Pass, Skip), Pass, 0}, {of(Pass, Warn, Skip), Warn, 0},
		{of(Warn, Fail), Fail, 1}, {of(Pass, Unknown), Unknown, 1}, {of(Skip), Skip, 2}, {of(), Skip, 2},
	} {
		if got := c.r.Worst(); got != c.worst || c.r.ExitCode() != c.code {
			t.Errorf("%v: %q and %d, want %q and %d", c.r.Results, got, c.r.ExitCode(), c.worst, c.code)
		}
	}
}

func TestJSONBothWays(t *testing.T) {
	r := example()
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, []byte(`"name":"clock","target":"this machine","status":"unknown"`)) {
		t.Errorf("a result that nobody filled in: %s", raw)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := errors.Join(Write(&a, r, Style{}), Write(&b, got, Style{})); err != nil || a.String() != b.String() {
		t.Errorf("%v; there and back:\n%s", err, b.String())
	}
	// What an endpoint says of itself is not believed.
	got, err = Parse([]byte(`{"schema":1,"verdict":"pass","results":[{"name":"x","status":"splendid"}]}`))
	if err != nil || got.Verdict != Unknown || got.ExitCode() != ExitFailed {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"schema":2}`, `{"schema":1,"results":7}`} {
		if _, err := Parse([]byte(bad)); !errors.Is(err, ErrForeign) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
