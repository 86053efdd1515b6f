package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/operator"
)

// What is pasted is run by a real shell here, in which sudo and the package manager are
// stand-ins: the order must arrive as the agent reads it, and the token in nobody's arguments.
func TestInstallLinesLeaveAnOrderAndNoTokenInArguments(t *testing.T) {
	token := operator.EnrollToken{Token: "gre_SECRET", URL: "https://rmm.example:8443", Pin: "sha256/a+b/c="}
	lines := map[string]installLine{}
	for _, l := range installLines(token) {
		lines[l.Platform] = l
	}
	bin, out := t.TempDir(), filepath.Join(t.TempDir(), "said")
	for name, text := range map[string]string{
		"sudo":          `printf '%s ' "$@" >>"$OUT"; echo >>"$OUT"; if [ "$1" = install ] || [ "$2" = enroll ] || [ "$1" = sh ]; then cat >>"$OUT"; fi`,
		"dpkg":          "echo amd64",
		"gururmm-agent": "exit 1", "gururmm-agent-1.2.3.pkg": "exit 1",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	order := "install -D -m 600 /dev/stdin /etc/gururmm/enroll.conf \nSERVER_URL=https://rmm.example:8443\nENROLL_TOKEN=gre_SECRET\nPIN=sha256/a+b/c=\n"
	for platform, want := range map[string]string{
		"macos": "sh -c umask 077; mkdir -p /etc/gururmm && rm -f /etc/gururmm/enroll.conf && cat >/etc/gururmm/enroll.conf" + order[strings.Index(order, " \n"):] +
			"installer -pkg ./gururmm-agent-1.2.3.pkg -target / \n",
		"deb": order + "apt install ./gururmm-agent_*_amd64.deb \n",
		"rpm": order + "dnf install ./gururmm-agent-*.MACHINE.rpm \n",
		"linux": "./gururmm-agent enroll --server https://rmm.example:8443 --token-file - --pin sha256/a+b/c= \ngre_SECRET\n" +
			"./gururmm-agent install \n./gururmm-agent start \n",
	} {
		os.Remove(out)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "uname() { echo MACHINE; }\n"+lines[platform].Line)
		cmd.Dir = bin
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "OUT=" + out}
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", platform, err, said)
		}
		if got, err := os.ReadFile(out); err != nil || string(got) != want {
			t.Errorf("%s gave\n%s\nwant\n%s", platform, got, want)
		}
	}
	if w := lines["windows"].Line; !strings.Contains(w, "Set-Content $f 'gre_SECRET'; ") || strings.Count(w, "gre_SECRET") != 1 ||
		strings.Index(w, "throw") > strings.Index(w, "gre_SECRET") || // no token is left where there is no package
		!strings.Contains(w, `'" SERVER_URL=https://rmm.example:8443 PIN=sha256/a+b/c=')`) {
		t.Errorf("windows: %s", w)
	}
	if got := quote("a'b c"); got != `'a'\''b c'` {
		t.Error(got)
	}
	token.Pin = ""
	var b bytes.Buffer
	tellInstallLines(&b, token)
	if strings.Contains(b.String(), "PIN") || strings.Contains(b.String(), "--pin") {
		t.Errorf("a pin that there is not:\n%s", b.String())
	}
}
