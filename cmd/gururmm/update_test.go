package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gururmm/operator"
	"gururmm/release"
	"gururmm/wire"
)

// Keys and signatures are made where releases are built, without any server.
func TestAProgramIsSignedWithoutAServer(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "release.key")
	out, errs, code := typed(t, nil, "update", "keygen", "--out", key, "--no-password")
	pub, err := os.ReadFile(key + ".pub")
	if code != 0 || err != nil {
		t.Fatalf("keygen: exit %d, %s, %v", code, errs, err)
	}
	trusted, err := release.ParseKey(string(pub))
	if err != nil || !strings.Contains(out, "--release-key "+trusted.String()) {
		t.Errorf("%v; it prints:\n%s", err, out)
	}
	if info, err := os.Stat(key); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, errs, code := typed(t, nil, "update", "keygen", "--out", key, "--no-password"); code != 1 || !strings.Contains(errs, "never overwritten") {
		t.Errorf("again: exit %d, %s", code, errs)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "gururmm-agent")
	if err := os.WriteFile(program, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	// A program of another version is not signed by mistake.
	if _, errs, code := typed(t, nil, "update", "sign", "--key", key, "--version", "v77.1.0", program); code != 1 || !strings.Contains(errs, "not built as v77.1.0") {
		t.Errorf("another version: exit %d, %s", code, errs)
	}
	if _, errs, code := typed(t, nil, "update", "sign", "--key", key, "--version", "v77.1.0", "--any-version", program); code != 0 {
		t.Errorf("another version, on purpose: exit %d, %s", code, errs)
	}
	if err := os.WriteFile(program, append(raw, "v1.2.3\x00"...), 0o700); err != nil { // as the linker puts it there
		t.Fatal(err)
	}
	out, errs, code = typed(t, nil, "update", "sign", "--key", key, "--version", "v1.2.3", "--json", program)
	var signed operator.List[wire.Build]
	if err := json.Unmarshal([]byte(out), &signed); code != 0 || err != nil || len(signed.Items) != 1 {
		t.Fatalf("sign: exit %d, %s%s, %v", code, out, errs, err)
	}
	b := signed.Items[0]
	// The same pattern fits its signature now.
	if out, errs, code = typed(t, nil, "update", "sign", "--key", key, "--version", "v1.2.3", program, program+".minisig"); code != 0 || strings.Count(out, "Signed v1.2.3") != 1 {
		t.Errorf("signed again: exit %d, %s%s", code, out, errs)
	}
	sig, err := os.ReadFile(program + ".minisig")
	if err != nil || string(sig) != b.Signature || b.OS != runtime.GOOS || b.Arch != runtime.GOARCH || b.Version != "v1.2.3" {
		t.Errorf("%+v, %v", b, err)
	}
	file, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := release.Verify([]release.Key{trusted}, file, b); err != nil {
		t.Error(err)
	}
}

func TestSigningSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "release.key")
	if _, errs, code := typed(t, nil, "update", "keygen", "--out", key, "--no-password"); code != 0 {
		t.Fatal(errs)
	}
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	login := map[string]string{"GURURMM_URL": "http://127.0.0.1:1", "GURURMM_TOKEN": "gro_x"}
	for args, says := range map[string]string{
		"update keygen":                                                   "--out FILE",
		"update keygen --out " + dir + "/other":                           "--password-file FILE",
		"update sign --version v1.2.3 " + script:                          "--key FILE",
		"update sign --key " + key + " " + script:                         "like v1.2.3",
		"update sign --key " + key + " --version 1 " + script:             "like v1.2.3",
		"update sign --key " + key + " --version v1.2.3 " + script:        release.ErrExecutable.Error(),
		"update sign --key " + script + " --version v1.2.3 " + script:     release.ErrKey.Error(),
		"update sign --key " + key + " --version v1.2.3 a.minisig":        "only signatures",
		"update publish a.minisig b.minisig":                              "only signatures",
		"update publish " + script:                                        "update sign",
		"update publish --signature " + key + " " + script + " " + script: "one FILE",
		"update publish --signature " + script + " " + script:             release.ErrSignature.Error(),
		"update sign --key " + dir + "/none --version v1.2.3 " + script:   "none",
		"update roll":                            "VERSION is missing",
		"update roll v1.2.3 --ring ten":          "--ring",
		"update roll v1.2.3 --soak -1m":          "--soak",
		"update roll v1.2.3 --grace 0s":          "--grace",
		"update roll v1.2.3 --parallel 0":        "--parallel",
		"update roll v1.2.3 --site a --agents b": "site",
		"update keygen --out " + dir + "/x --no-password --password-file " + key: "password-file",
	} {
		if _, errs, code := typed(t, login, strings.Fields(args)...); code != 1 || !strings.Contains(errs, says) {
			t.Errorf("%s: exit %d, %q does not say %q", args, code, errs, says)
		}
	}
}
