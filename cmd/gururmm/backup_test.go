package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gururmm/server"
)

func TestBackupAndRestoreByHand(t *testing.T) {
	dir := t.TempDir()
	state, config, file := filepath.Join(dir, "state"), filepath.Join(dir, "gururmm.yaml"), filepath.Join(dir, "b.tar.gz")
	policy, key := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "release.key.pub")
	if _, errs, code := typed(t, nil, "update", "keygen", "--out", strings.TrimSuffix(key, ".pub"), "--no-password"); code != 0 {
		t.Fatal(errs)
	}
	for path, text := range map[string]string{config: "state_dir: " + state + "\npolicy: " + policy + "\nrelease_key: [" + key + "]\n", policy: "version: 3\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv, err := server.New(server.Config{StateDir: state, ListenAddr: "127.0.0.1:0", OOBAddr: "127.0.0.1:0"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close() // it holds the directory all the time
	ok := func(stdin string, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(args, strings.NewReader(stdin), &out, &errs); code != 0 {
			t.Fatalf("%v: exit %d, %s", args, code, errs.String())
		}
		return out.String(), errs.String()
	}
	said := func(text, says string) {
		t.Helper()
		if text = strings.Join(strings.Fields(text), " "); !strings.Contains(text, says) {
			t.Errorf("%q does not say %q", text, says)
		}
	}
	_, words := ok("", "backup", "--config", config, "-o", file)
	said(words, "It holds private keys")
	streamed, _ := ok("", "backup", "--config", config, "-o", "-", "--without-bundles")
	out, _ := ok(streamed, "backup", "--verify", "-")
	said(out, "without bundles. All of it is as it was written.")
	again := filepath.Join(dir, "again")
	out, _ = ok("", "restore", file, "--state-dir", again)
	for key, path := range map[string]string{"config": config, "policy": policy, "release_key-1": key} {
		restored := filepath.Join(again, "restored-config", key)
		said(out, restored+" was "+path)
		was, _ := os.ReadFile(path)
		if is, err := os.ReadFile(restored); err != nil || !bytes.Equal(is, was) {
			t.Errorf("%s is %q, %v", restored, is, err)
		}
	}
	for path := range map[string]bool{dir: true, state: true} {
		if left, err := filepath.Glob(filepath.Join(path, ".gururmm-backup-*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	for args, says := range map[string]string{
		"backup --state-dir " + state:                                   "Name a file: -o FILE",
		"backup --state-dir " + state + " -o " + file:                   "is there already",
		"backup --state-dir " + again + "x -o " + file + "2":            "no server has been started here yet",
		"backup --verify " + config:                                     "not a backup",
		"backup --verify " + file + " -o " + file:                       "not both",
		"restore " + file + " --state-dir " + again:                     "is not empty",
		"restore " + file + "x --state-dir " + again + "x":              "no such file",
		"migrate --state-dir " + state:                                  "which PostgreSQL?",
		"migrate --state-dir " + state + " --to postgres://u:pw@h/d":    "--to-url-file",
		"migrate --state-dir " + state + " --to-url-file " + state:      "--to-url-file: ",
		"migrate --state-dir " + state + " --to postgres://127.0.0.1:1": "a move needs the server stopped",
	} {
		var errs bytes.Buffer
		if code := run(strings.Fields(args), strings.NewReader(""), &bytes.Buffer{}, &errs); code != 1 || !strings.Contains(errs.String(), says) || strings.Contains(errs.String(), "pw") {
			t.Errorf("%s: exit %d, %s", args, code, errs.String())
		}
	}
	if _, err := os.Stat(again + "x"); err == nil {
		t.Error("what failed has made a directory")
	}
}
