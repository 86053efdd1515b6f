package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"gururmm/agent"
	"gururmm/release"
)

// played is an order with a stand-in for the program: what is tested here is the packing.
func played(t *testing.T) (o order, program string) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, bytes.Repeat([]byte("program "), 1<<14), 0o755); err != nil {
		t.Fatal(err)
	}
	return order{version: "v1.2.3-rc.1", out: t.TempDir(), when: time.Unix(1700000000, 0).UTC(), source: root, maintainer: nobody}, program
}

// pack writes all packages of o's version around program into a fresh folder.
func packAll(t *testing.T, o order, program string) map[string][]byte {
	t.Helper()
	dir, made := t.TempDir(), map[string][]byte{}
	for _, product := range allProducts {
		for _, format := range linuxFormats {
			p, err := describe(product, "arm64", format, o, program)
			if err != nil {
				t.Fatal(err)
			}
			name, err := writers[format](p, dir)
			if err != nil {
				t.Fatal(err)
			}
			if made[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return made
}

func TestTheSameOrderGivesTheSameBytes(t *testing.T) {
	o, program := played(t)
	one, two := packAll(t, o, program), packAll(t, o, program)
	var names []string
	for name := range one {
		if !bytes.Equal(one[name], two[name]) {
			t.Errorf("%s differs from itself", name)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{
		"gururmm-agent-1.2.3~rc.1-1.aarch64.rpm", "gururmm-agent_1.2.3~rc.1-1_arm64.deb",
		"gururmm-server-1.2.3~rc.1-1.aarch64.rpm", "gururmm-server_1.2.3~rc.1-1_arm64.deb",
	}
	if !slices.Equal(names, want) {
		t.Errorf("made %q, want %q", names, want)
	}
	o.when = o.when.Add(time.Hour)
	for name, raw := range packAll(t, o, program) {
		if bytes.Equal(raw, one[name]) {
			t.Errorf("%s does not heed SOURCE_DATE_EPOCH", name)
		}
	}
}

// members reads the tar.gz called name in a deb, an ar archive (deb(5)).
func members(t *testing.T, deb []byte, name string) map[string]*tar.Header {
	t.Helper()
	at := bytes.Index(deb, []byte(name))
	if at < 0 {
		t.Fatalf("no %s", name)
	}
	z, err := gzip.NewReader(bytes.NewReader(deb[at+60:])) // an ar header's length
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*tar.Header{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(h.Name, ".")] = h
		if h.Typeflag == tar.TypeReg && h.Size < 1<<20 {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			h.PAXRecords = map[string]string{"text": string(text)}
		}
	}
}

func TestPackagesOwnWhatInstallWrites(t *testing.T) {
	o, program := played(t)
	deb := packAll(t, o, program)["gururmm-agent_1.2.3~rc.1-1_arm64.deb"]
	files, control := members(t, deb, "data.tar.gz"), members(t, deb, "control.tar.gz")
	unit, err := agent.Service{Program: "/usr/bin/gururmm-agent"}.Definition("systemd")
	if err != nil {
		t.Fatal(err)
	}
	if got := files["/usr/lib/systemd/system/gururmm-agent.service"].PAXRecords["text"]; got != unit {
		t.Errorf("the unit is not the one that install writes:\n%s", got)
	}
	for name, h := range files {
		if h.Uname != "root" || h.Gname != "root" || h.Mode&0o022 != 0 || !h.ModTime.Equal(o.when) {
			t.Errorf("%s: %s:%s %o %v", name, h.Uname, h.Gname, h.Mode, h.ModTime)
		}
	}
	if got := control["/conffiles"].PAXRecords["text"]; strings.TrimSpace(got) != "/etc/default/gururmm-agent" {
		t.Errorf("conffiles: %q", got)
	}
	if got := control["/control"].PAXRecords["text"]; !strings.Contains(got, "Version: 1.2.3~rc.1-1\n") {
		t.Errorf("control:\n%s", got)
	}
}

// Each maintainer script is one that dash understands, with nothing left to be filled in.
func TestScriptsAreWhole(t *testing.T) {
	o, program := played(t)
	for _, product := range allProducts {
		p, err := describe(product, "amd64", "deb", o, program)
		if err != nil {
			t.Fatal(err)
		}
		for _, format := range linuxFormats {
			for _, kind := range scriptKinds {
				text, err := p.script(format, kind)
				if err != nil {
					t.Fatal(err)
				}
				for _, mark := range []string{"@NAME@", "@UNIT@", "@VERSION@", "@COMMAND@"} {
					if strings.Contains(text, mark) {
						t.Errorf("%s, %s of %s: %s is left", product, kind, format, mark)
					}
				}
				check := exec.CommandContext(t.Context(), "sh", "-n")
				check.Stdin = strings.NewReader(text)
				if out, err := check.CombinedOutput(); err != nil {
					t.Errorf("%s, %s of %s: %v: %s", product, kind, format, err, out)
				}
			}
		}
	}
}

func TestBillNamesWhatIsLinked(t *testing.T) {
	o, _ := played(t)
	program, err := os.Executable() // of Go: it has what a bill is made of
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "bill")
	if err := writeBill(program, o, agentName, "linux", "arm64", to); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	var b bill
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Components) != len(info.Deps)+1 || len(b.Dependencies[0].On) != len(b.Components) || b.Metadata.Timestamp != "2023-11-14T22:13:20Z" {
		t.Errorf("%d modules are linked, the bill has %d, at %s", len(info.Deps), len(b.Components), b.Metadata.Timestamp)
	}
	if !slices.ContainsFunc(b.Components, func(c component) bool { return strings.HasPrefix(c.URL, "pkg:golang/aead.dev/minisign@v") }) {
		t.Error("a module that is linked is not in it")
	}
	sum, err := sumOf(program)
	if err != nil || b.Metadata.Component.Hashes[0].Content != sum {
		t.Errorf("the program's hash: %+v, %v", b.Metadata.Component.Hashes, err)
	}
}

// What is sealed can be checked by others' tools, and never passes for an agent's program.
func TestSealedFilesVerify(t *testing.T) {
	pub, priv, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	o, _ := played(t)
	o.key = &priv
	text := []byte("a package")
	if err := os.WriteFile(filepath.Join(o.out, "a.deb"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	names, err := seal(o, o.out, []string{"a.deb"})
	if err != nil || !slices.Equal(names, []string{"a.deb", sumsName, "a.deb.minisig", sumsName + ".minisig"}) {
		t.Fatalf("%q, %v", names, err)
	}
	signature, err := os.ReadFile(filepath.Join(o.out, "a.deb.minisig"))
	if err != nil {
		t.Fatal(err)
	}
	var key minisign.PublicKey
	if err := key.UnmarshalText([]byte(pub.String())); err != nil {
		t.Fatal(err)
	}
	r := minisign.NewReader(bytes.NewReader(text))
	if _, err := io.Copy(io.Discard, r); err != nil || !r.Verify(key, signature) {
		t.Errorf("it does not verify: %v", err)
	}
	if _, err := release.Signed(string(signature)); err == nil {
		t.Error("it passes for a program's signature")
	}
}

func TestCommandLine(t *testing.T) {
	none := func(string) string { return "" }
	for line, wrong := range map[string]string{
		"":                                  "--version 1.2.3",
		"--version 1.2":                     "v1.2.3",
		"--version 1.2.3+x":                 "v1.2.3",
		"--version 1.2.3 --formats deb,exe": `"exe" is none of deb, rpm, pkg, msi`,
		"--version 1.2.3 x":                 "only flags",
		"--version 1.2.3 --maintainer me":   "NAME <ADDRESS>",
		"--version 1.2.3 --sign-key /none":  "--sign-key",
		"--version 1.2.3 --sign-password-file /none": "give --sign-key",
		"--version 1.2.3 --nope":                     "-nope, see --help",
		// Not success with an empty SHA256SUMS.
		"--version 1.2.3 --products gururmm-server --formats pkg,msi": "nothing to build: of gururmm-server there is no pkg,msi, only deb, rpm",
	} {
		if _, err := parse(strings.Fields(line), io.Discard, none); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: %v, want %q in it", line, err, wrong)
		}
	}
	for _, epoch := range []string{"x", "-1", "99999999999"} {
		if _, err := parse([]string{"--version", "1.2.3"}, io.Discard, func(string) string { return epoch }); err == nil {
			t.Errorf("SOURCE_DATE_EPOCH=%s is taken", epoch)
		}
	}
	o, err := parse([]string{"--version", "v1.2.3", "--arch", "arm64"}, io.Discard, none)
	if err != nil || o.version != "v1.2.3" || !slices.Equal(o.archs, []string{"arm64"}) || !slices.Equal(o.products, allProducts) {
		t.Errorf("%+v, %v", o, err)
	}
}

// The agent in a package is built as the Makefile builds it.
func TestAgentIsBuiltAsTheMakefileBuildsIt(t *testing.T) {
	o, _ := played(t)
	text, err := os.ReadFile(filepath.Join(o.source, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "GOAGENT   := $(GOBUILD) " + strings.Join(programs[agentName].flags, " ") + "\n"; !strings.Contains(string(text), want) {
		t.Errorf("the Makefile has not: %s", want)
	}
}

// What can't be built is said before minutes of building.
func TestAVersionThatNoMSICanHaveIsRefusedFirst(t *testing.T) {
	o, _ := played(t)
	o.version, o.out, o.products, o.archs, o.formats = "v300.0.0", filepath.Join(o.out, "dist"), allProducts, allArchs, allFormats
	if _, err := build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "up to 255.255.65535. To do without: --formats deb,rpm,pkg") {
		t.Error(err)
	}
	if _, err := os.Stat(o.out); err == nil {
		t.Error("it began all the same")
	}
}
