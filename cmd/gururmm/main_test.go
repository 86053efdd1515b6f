package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/version"
)

// typed runs a command line as a person without any login would.
func typed(t *testing.T, env map[string]string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	for _, name := range []string{"GURURMM_URL", "GURURMM_TOKEN", "GURURMM_PIN", "GURURMM_CA"} {
		t.Setenv(name, env[name])
	}
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// A script that branches on exec's exit code must never take exec's own
// failure for the command's.
func TestWhatIsWrongWithExecItselfExits255(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	l.Close()
	known := map[string]string{"GURURMM_URL": nobody, "GURURMM_TOKEN": "gro_x"}
	for _, c := range []struct {
		env  map[string]string
		args string
		says string
	}{
		{nil, "exec", "which agent?"},
		{nil, "exec vm", "what is to be run?"},
		{nil, "exec vm --no-such-flag -- true", "no-such-flag"},
		{nil, "exec vm --timeout soon -- true", "timeout"},
		{nil, "exec vm --timeout 0s -- true", "--timeout 0s: want at least 1ms"},
		{nil, "exec vm --timeout 500us -- true", "--timeout 500µs"},
		{nil, "exec vm --expires -1s -- true", "--expires -1s"},
		{nil, "exec vm --max-output -1 -- true", "--max-output -1"},
		{nil, "exec vm uname -a", "put -- before the command: gururmm exec vm -- uname -a"},
		{nil, "exec --shell sh vm ls --json", "put -- before the command: gururmm exec --shell sh vm -- ls --json"},
		{nil, "exec vm -- true", "gururmm login"},
		{nil, "exec vm --file /nowhere/script", "gururmm login"},
		{known, "exec vm --file /nowhere/script", "/nowhere/script"},
		{known, "exec vm -- true", "refused"},
		{map[string]string{"GURURMM_URL": nobody, "GURURMM_TOKEN": "gro_x"}, "exec vm -- caf\xe9", "not UTF-8"},
	} {
		if _, errs, code := typed(t, c.env, strings.Fields(c.args)...); code != exitNoCode || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit %d, %q does not say %q", c.args, code, errs, c.says)
		}
	}
}

// Zero and less would quietly mean the server's default.
func TestNumbersThatMeanNothingAreRefusedByFlag(t *testing.T) {
	for args, says := range map[string]string{
		"enroll-token create --uses 0":      "--uses 0",
		"enroll-token create --expires 0":   "--expires 0s",
		"enroll-token create --expires -1h": "--expires -1h0m0s",
		"commands --limit 0":                "--limit 0",
		"beacons --limit -3":                "--limit -3",
		"events --limit 0":                  "--limit 0",
		"events --since 0":                  "--since 0s",
	} {
		if _, errs, code := typed(t, nil, strings.Fields(args)...); code != 1 || !strings.Contains(errs, says) {
			t.Errorf("%s: exit %d, %q does not say %q", args, code, errs, says)
		}
	}
}

func TestALoginThatOthersCanReadIsRefused(t *testing.T) {
	config := t.TempDir()
	path := filepath.Join(config, "gururmm", "client.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"url":"http://127.0.0.1:1","token":"gro_x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := readPrivate(path)
	if runtime.GOOS != "windows" && (err == nil || !strings.Contains(err.Error(), "chmod 600 "+path)) {
		t.Errorf("%v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readPrivate(path); err != nil {
		t.Error(err)
	}
}

// A script's login asks nothing of nobody.
func TestNoPromptWithoutATerminal(t *testing.T) {
	if _, errs, code := typed(t, nil, "login", "--server", "http://127.0.0.1:1"); code != 1 || errs != "gururmm: the operator token is empty\n" {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake refused below
	for _, c := range []struct {
		env        map[string]string
		args       string
		says, code string
	}{
		{nil, "agents", "no server is known here", codeFailed},
		{nil, "agents --server https://other.example", "the operator token for https://other.example is missing", codeFailed},
		{map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}, "agents", "--pin sha256/… (it prints it when it starts), or by its CA, --ca FILE", codeUntrusted},
	} {
		if _, errs, code := typed(t, c.env, strings.Fields(c.args)...); code != 1 || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit %d, %q does not say %q", c.args, code, errs, c.says)
		}
		_, errs, _ := typed(t, c.env, strings.Fields(c.args+" --json")...)
		var e jsonError
		if err := json.Unmarshal([]byte(errs), &e); err != nil || e.Code != c.code || !strings.Contains(e.Error, c.says) {
			t.Errorf("%s --json: %q, %v", c.args, errs, err)
		}
	}
	if _, errs, _ := typed(t, nil, "exec", "vm", "--json", "--shel", "sh", "--", "true"); !strings.HasPrefix(errs, `{"error":"there is no flag --shel; see: gururmm exec --help","code":"failed"}`) {
		t.Errorf("%q", errs)
	}
	if _, errs, _ := typed(t, nil, "exec", "vm", "--", "true", "--json"); !strings.HasPrefix(errs, "gururmm: ") {
		t.Errorf("a word of the command is no flag of exec: %q", errs)
	}
}

func TestVersion(t *testing.T) {
	if out, _, code := typed(t, nil, "version", "--json"); code != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, `"version": "`+version.Version) {
		t.Errorf("in JSON: %d %q", code, out)
	}
	for _, args := range []string{"version", "--version"} {
		if out, _, code := typed(t, nil, args); code != 0 || !strings.Contains(out, version.Version) {
			t.Errorf("%s: %d %q", args, code, out)
		}
	}
}

func TestEachDirectiveIsExplainedOnALine(t *testing.T) {
	out, _, code := typed(t, nil, "direct", "--help")
	for _, d := range directives {
		if code != 0 || !strings.Contains(out, "\n  "+string(d.kind)+" ") || !strings.Contains(out, " "+d.does+"\n") {
			t.Errorf("%s is not explained in:\n%s", d.kind, out)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	wide, all := help.Wide(rootCommand(nil))
	if all < 500 {
		t.Errorf("only %d lines of help", all)
	}
	for _, line := range wide {
		t.Error(line)
	}
}

func TestExamplesAreTaken(t *testing.T) {
	wrong, all := help.Wrong(func() *cobra.Command { return rootCommand(nil) })
	if all < 30 {
		t.Errorf("only %d lines of examples", all)
	}
	for _, line := range wrong {
		t.Error(line)
	}
}
