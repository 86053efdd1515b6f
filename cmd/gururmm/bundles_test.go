package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// shelf is a server with one bundle of the bytes announced, whatever it hands out.
func shelf(t *testing.T, announced, given string) (env map[string]string, b operator.Bundle) {
	t.Helper()
	sum, now := sha256.Sum256([]byte(announced)), time.Now()
	b = operator.Bundle{ID: wire.NewID(), Agent: "a1", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(announced)), Held: int64(len(announced)),
		Complete: true, Reason: "ordered", MadeAt: &now, BeganAt: now, CompletedAt: &now}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/agents/vm/bundles", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(operator.List[operator.Bundle]{Items: []operator.Bundle{b}})
	})
	mux.HandleFunc("GET /v1/agents/a1/bundles/"+b.ID, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(given)) })
	mux.HandleFunc("DELETE /v1/agents/vm/bundles/"+b.ID, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /v1/agents/vm/directives", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(operator.Directive{ID: "d1", AgentName: "vm", Kind: wire.DirectiveSendBundle, State: "done", CreatedAt: now, EndedAt: &now,
			Report: json.RawMessage(`{"bundle":"` + b.ID + `","bytes":5}`)})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return map[string]string{"GURURMM_URL": s.URL, "GURURMM_TOKEN": "gro_x"}, b
}

func TestABundleIsFetchedWholeAndNeverOverAFile(t *testing.T) {
	env, b := shelf(t, "bytes", "bytes")
	dir := t.TempDir()
	file := filepath.Join(dir, "b.tar.gz")
	fetch := []string{"bundles", "vm", "--download", b.ID[:30], "-o", file}
	if out, errs, code := typed(t, env, fetch...); code != 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), "its hash is right") {
		t.Fatalf("exit %d, %q, %q", code, out, errs)
	}
	raw, err := os.ReadFile(file)
	if err != nil || string(raw) != "bytes" {
		t.Errorf("%q, %v", raw, err)
	}
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := typed(t, env, fetch...); code != 1 || !strings.Contains(errs, "is there already") {
		t.Errorf("over a file: exit %d, %q", code, errs)
	}
	if raw, _ := os.ReadFile(file); string(raw) != "mine" {
		t.Errorf("the file was replaced by %q", raw)
	}
	if out, errs, code := typed(t, env, "bundles", "vm", "--download", b.ID, "-o", "-"); code != 0 || out != "bytes" {
		t.Errorf("to standard output: exit %d, %q, %q", code, out, errs)
	}
	if _, errs, code := typed(t, env, "bundles", "vm", "--download", b.ID, "-o", filepath.Join(dir, "nowhere", "b")); code != 1 || !strings.Contains(errs, "another place") {
		t.Errorf("no such folder: exit %d, %q", code, errs)
	}
	for _, given := range []string{"bytez", "byte", "bytes and more"} {
		env, b := shelf(t, "bytes", given)
		if _, errs, code := typed(t, env, "bundles", "vm", "--download", b.ID, "-o", filepath.Join(dir, "other")); code != 1 || !strings.Contains(errs, "fetch it again") {
			t.Errorf("given %q: exit %d, %q", given, code, errs)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestBundlesAreListedRemovedAndNamedByTheirOrder(t *testing.T) {
	env, b := shelf(t, "bytes", "bytes")
	for args, want := range map[string]string{
		"bundles vm":                                    b.ID,
		"bundles vm --json":                             `"complete": true`,
		"bundles vm --delete " + b.ID:                   "is removed",
		"direct vm send_bundle":                         "gururmm bundles vm --download " + b.ID,
		"bundles vm --download nothing":                 "no bundle",
		"bundles vm --download x --delete y":            "give --download or --delete, not both",
		"bundles vm -o file":                            "--output is for --download",
		"bundles get vm":                                "gururmm bundles AGENT [--download ID",
		"bundles vm --delete " + b.ID + " --json":       `"removed"`,
		"bundles vm --download " + b.ID[:3] + " --json": "no bundle",
	} {
		out, errs, _ := typed(t, env, strings.Fields(args)...)
		if !strings.Contains(strings.Join(strings.Fields(out+errs), " "), want) {
			t.Errorf("%s: %q, %q; want %q", args, out, errs, want)
		}
	}
}

func TestSizesHaveOneUnit(t *testing.T) {
	for n, want := range map[int64]string{700: "700 B", 20 << 10: "20.0 KiB", 1 << 20: "1.0 MiB", wire.MaxBuild: "128.0 MiB"} {
		if got := sizeOf(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
