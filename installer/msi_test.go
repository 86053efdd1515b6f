package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gururmm/agent"
)

// packMSI is the package of o around a stand-in for the program.
func packMSI(t *testing.T, o order, arch string) string {
	t.Helper()
	_, program := played(t)
	dir := t.TempDir()
	name, err := writeMSI(t.Context(), o, dir, arch, program)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// output is what a tool prints.
func output(t *testing.T, tool string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", tool, args, err, out)
	}
	return string(out)
}

// rows are those of a table as msiinfo exports it, fields between bars, by the first field.
func rows(t *testing.T, msi, table string) map[string]string {
	t.Helper()
	all := map[string]string{}
	lines := strings.Split(strings.ReplaceAll(output(t, "msiinfo", "export", msi, table), "\r", ""), "\n")
	if len(lines) < 4 {
		t.Fatalf("%s: %q", table, lines)
	}
	for _, line := range lines[3:] {
		if first, _, _ := strings.Cut(line, "\t"); first != "" || strings.Contains(line, "\t") {
			all[first] += strings.ReplaceAll(line, "\t", "|")
		}
	}
	return all
}

func TestMSIIsTheSameTwiceAndHeedsTheEpoch(t *testing.T) {
	o, _ := played(t)
	read := func(msi string) []byte {
		raw, err := os.ReadFile(msi)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	one := packMSI(t, o, "amd64")
	if filepath.Base(one) != "gururmm-agent-1.2.3-rc.1-x64.msi" {
		t.Errorf("it is called %s", filepath.Base(one))
	}
	if !bytes.Equal(read(one), read(packMSI(t, o, "amd64"))) {
		t.Error("the same order gives other bytes")
	}
	o.when = o.when.Add(time.Hour)
	if bytes.Equal(read(one), read(packMSI(t, o, "amd64"))) {
		t.Error("it does not heed SOURCE_DATE_EPOCH")
	}
}

// What another tool reads from the database is what Windows would. Wine does not know all of it
// (scripts/packages-wine.sh), so the rows that matter are compared here.
func TestMSITables(t *testing.T) {
	o, _ := played(t)
	msi := packMSI(t, o, "arm64")
	summary := output(t, "msiinfo", "suminfo", msi)
	for _, want := range []string{"Arm64;1033", "Version: 500", "Source: 2", "Created: Tue Nov 14 22:13:20 2023"} {
		if !strings.Contains(summary, want) {
			t.Errorf("no %q in the summary:\n%s", want, summary)
		}
	}
	for table, want := range map[string]map[string]string{
		"Property": {
			"ProductVersion": "ProductVersion|1.2.3", "ALLUSERS": "ALLUSERS|1", "MsiHiddenProperties": "MsiHiddenProperties|ENROLL_TOKEN",
			"SecureCustomProperties": "SecureCustomProperties|SERVER_URL;ENROLL_TOKEN;TOKEN_FILE;PIN;CA_FILE;PURGE;ALLOW_DOWNGRADE;OLDER_FOUND;NEWER_FOUND;SERVICE_FOUND",
			"UpgradeCode":            "UpgradeCode|" + upgradeCode,
		},
		"ServiceInstall": {"Service": "Service|gururmm-agent|GuruRMM Agent|16|2|1|||||run --service|Program|" + agent.ServiceDescription},
		// At an installation stopped (2), at a removal stopped (32) and removed (128); each is waited for.
		"ServiceControl": {"Service": "Service|gururmm-agent|162||1|Program"},
		// Each deferred and as SYSTEM (3072), and going on (64) after a failure but where the service
		// would not be what it is to be; the token's with its command line hidden (8192).
		"CustomAction": {
			"NoteService":   `NoteService|3170|InstallFolder|"[InstallFolder]gururmm-agent.exe" msi note|`,
			"StopBefore":    `StopBefore|3170|InstallFolder|"[InstallFolder]gururmm-agent.exe" stop|`,
			"StartAgain":    `StartAgain|3426|InstallFolder|"[InstallFolder]gururmm-agent.exe" msi finish|`,
			"OrderToEnroll": `OrderToEnroll|11282|agent.exe|msi order "SERVER_URL=[SERVER_URL]" "ENROLL_TOKEN=[ENROLL_TOKEN]" "TOKEN_FILE=[TOKEN_FILE]" "PIN=[PIN]" "CA_FILE=[CA_FILE]"|`,
			"Configure":     "Configure|3090|agent.exe|msi configure|",
			"DropOrder":     "DropOrder|3410|agent.exe|msi drop-order|", "Finish": "Finish|3154|agent.exe|msi finish|", "Purge": "Purge|3154|agent.exe|msi purge|",
		},
		"AppSearch":  {"SERVICE_FOUND": "SERVICE_FOUND|Service"},
		"RegLocator": {"Service": `Service|2|SYSTEM\CurrentControlSet\Services\gururmm-agent|ImagePath|18`},
		"InstallExecuteSequence": {
			"NoteService":            `NoteService|(Installed OR REINSTALL OR OLDER_FOUND OR NEWER_FOUND) AND NOT REMOVE~="ALL"|1510`,
			"StartAgain":             `StartAgain|REINSTALL OR OLDER_FOUND OR NEWER_FOUND|1520`,
			"StopBefore":             `StopBefore|REINSTALL OR OLDER_FOUND OR NEWER_FOUND|1530`,
			"InstallExecute":         "InstallExecute|REINSTALL OR OLDER_FOUND OR NEWER_FOUND|1540",
			"RemoveExistingProducts": "RemoveExistingProducts||1550",
			"OrderToEnroll":          `OrderToEnroll|SERVER_URL AND NOT Installed|5890`, // a repair is everybody's
			"Finish":                 `Finish|NOT REMOVE~="ALL"|6500`,
			"Purge":                  `Purge|REMOVE~="ALL" AND PURGE AND NOT UPGRADINGPRODUCTCODE|3400`,
			"LaunchConditions":       "LaunchConditions||100",
			"Configure":              `Configure|NOT Installed OR REINSTALL|5850`,
		},
	} {
		got := rows(t, msi, table)
		for key, row := range want {
			if got[key] != row {
				t.Errorf("%s has\n  %q, want\n  %q", table, got[key], row)
			}
		}
	}
	refusals := rows(t, msi, "LaunchCondition")
	for _, condition := range []string{
		"Installed OR ALLOW_DOWNGRADE OR NOT NEWER_FOUND",
		"Installed OR OLDER_FOUND OR NEWER_FOUND OR NOT SERVICE_FOUND",
		"(SERVER_URL AND (ENROLL_TOKEN XOR TOKEN_FILE)) OR NOT (SERVER_URL OR ENROLL_TOKEN OR TOKEN_FILE OR PIN OR CA_FILE)",
	} {
		if !strings.HasPrefix(refusals[condition], condition+"|NOT INSTALLED, nothing was changed: ") {
			t.Errorf("refused is not unless %s: %q", condition, refusals)
		}
	}
	// Up to this version, itself too: out with it. Above: found, and out with it if it may.
	if got := rows(t, msi, "Upgrade")[upgradeCode]; got != upgradeCode+"||1.2.3||513||OLDER_FOUND"+upgradeCode+"|1.2.3|||1||NEWER_FOUND" {
		t.Errorf("Upgrade: %s", got)
	}
}

// Versions are other products of one family; an architecture has components of its own, the same in each version.
func TestMSIIdentities(t *testing.T) {
	o, _ := played(t)
	one, x64 := packMSI(t, o, "arm64"), packMSI(t, o, "amd64")
	o.version = "v1.2.4"
	next := packMSI(t, o, "arm64")
	property := func(msi, name string) string { return rows(t, msi, "Property")[name] }
	if property(one, "ProductCode") == property(next, "ProductCode") || property(one, "ProductCode") == property(x64, "ProductCode") {
		t.Error("two products have one code")
	}
	if property(one, "UpgradeCode") != property(next, "UpgradeCode") || property(one, "UpgradeCode") != property(x64, "UpgradeCode") {
		t.Error("one product has two families")
	}
	for name, row := range rows(t, one, "Component") {
		if row != rows(t, next, "Component")[name] || row == rows(t, x64, "Component")[name] {
			t.Errorf("component %s: %s", name, row)
		}
	}
}

func TestMissingToolsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := haveMSITools(); err == nil || !strings.Contains(err.Error(), "gcab is missing") || !strings.Contains(err.Error(), "--formats") {
		t.Error(err)
	}
}

func TestMSIVersion(t *testing.T) {
	for given, want := range map[string]string{"v1.2.3": "1.2.3", "v1.2.3-rc.1": "1.2.3", "v255.255.65535": "255.255.65535", "v256.0.0": "", "v1.256.0": "", "v1.0.65536": ""} {
		if got, err := (order{version: given}).msiVersion(); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", given, got, err, want)
		}
	}
}

// Authenticode as docs/installers.md shows it, with a certificate made on the spot: what is
// signed verifies, and what is changed afterwards does not.
func TestAuthenticode(t *testing.T) {
	dir := t.TempDir()
	key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	output(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", key, "-out", cert,
		"-subj", "/CN=Test", "-addext", "extendedKeyUsage=codeSigning", "-addext", "keyUsage=critical,digitalSignature")
	exe, source := filepath.Join(dir, "agent.exe"), filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", exe, source)
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o, _ := played(t)
	msi := packMSI(t, o, "amd64")
	for file, more := range map[string]string{exe: "", msi: " -add-msi-dse"} {
		signer := filepath.Join(dir, "sign")
		text := "#!/bin/sh\nosslsigncode sign -h sha256 -certs " + cert + " -key " + key + more + ` -in "$1" -out "$1.signed" && mv "$1.signed" "$1"` + "\n"
		if err := os.WriteFile(signer, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := signBy(t.Context(), signer, file); err != nil {
			t.Fatal(err)
		}
		output(t, "osslsigncode", "verify", "-CAfile", cert, "-in", file)
	}
	raw, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(exe, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "osslsigncode", "verify", "-CAfile", cert, "-in", exe).CombinedOutput(); err == nil {
		t.Errorf("what was changed since verifies:\n%s", out)
	}
}
