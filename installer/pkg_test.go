package main

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/sha1"
	"debug/macho"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gururmm/agent"
)

// tocFile is a file in a xar's table of contents.
type tocFile struct {
	Name string `xml:"name"`
	Data struct {
		Offset int    `xml:"offset"`
		Length int    `xml:"length"`
		Sum    string `xml:"archived-checksum"`
	} `xml:"data"`
	Files []tocFile `xml:"file"`
}

// unxar reads an archive by its format's description, and checks each sum.
func unxar(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	header, packed := int(binary.BigEndian.Uint16(raw[4:])), int(binary.BigEndian.Uint64(raw[8:]))
	z, err := zlib.NewReader(bytes.NewReader(raw[header : header+packed]))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || uint64(len(text)) != binary.BigEndian.Uint64(raw[16:]) {
		t.Fatalf("a table of %d bytes, %v", len(text), err)
	}
	heap := raw[header+packed:]
	if sum := sha1.Sum(raw[header : header+packed]); !bytes.Equal(sum[:], heap[:sha1.Size]) {
		t.Error("the table's sum is wrong")
	}
	var toc struct {
		Files []tocFile `xml:"toc>file"`
	}
	if err := xml.Unmarshal(text, &toc); err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	var walk func(at string, files []tocFile)
	walk = func(at string, files []tocFile) {
		for _, f := range files {
			data := heap[f.Data.Offset : f.Data.Offset+f.Data.Length]
			if sum := sha1.Sum(data); f.Data.Sum != "" && hex.EncodeToString(sum[:]) != f.Data.Sum {
				t.Errorf("%s: its sum is wrong", f.Name)
			}
			all[at+f.Name] = data
			walk(at+f.Name+"/", f.Files)
		}
	}
	walk("", toc.Files)
	return all
}

// uncpio gives the modes and contents of a gzipped odc archive.
func uncpio(t *testing.T, raw []byte) (modes map[string]string, data map[string][]byte) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	modes, data = map[string]string{}, map[string][]byte{}
	for {
		var name, size int
		if _, err := fmt.Sscanf(string(text[59:76]), "%6o%11o", &name, &size); err != nil || string(text[:6]) != "070707" {
			t.Fatalf("%v: %q", err, text[:76])
		}
		called := string(text[76 : 76+name-1])
		if called == "TRAILER!!!" {
			return modes, data
		}
		modes[called], data[called] = string(text[18:24]), text[76+name:76+name+size]
		text = text[76+name+size:]
	}
}

func TestMacPackageIsWhole(t *testing.T) {
	o, _ := played(t)
	program := bytes.Repeat([]byte("program "), 1<<12)
	raw, err := macProduct(o, program)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := macProduct(o, program); !bytes.Equal(raw, again) {
		t.Error("the same order gives other bytes")
	}
	files := unxar(t, raw)
	for _, name := range []string{"Distribution", "gururmm-agent.pkg/PackageInfo"} {
		if err := xml.Unmarshal(files[name], new(struct{})); err != nil || !bytes.Contains(files[name], []byte(`version="1.2.3-rc.1"`)) {
			t.Errorf("%s: %v\n%s", name, err, files[name])
		}
	}
	modes, data := uncpio(t, files["gururmm-agent.pkg/Payload"])
	want := map[string]string{".": "040755", "./Library": "040755", "./Library/GuruRMM": "040755", "./Library/GuruRMM/bin": "040755",
		"./Library/GuruRMM/bin/gururmm-agent": "100755", "./Library/LaunchDaemons": "040755", "./Library/LaunchDaemons/gururmm-agent.plist": "100644"}
	if fmt.Sprint(modes) != fmt.Sprint(want) {
		t.Errorf("payload %v, want %v", modes, want)
	}
	plist, err := agent.Service{Program: macProgram}.Definition("launchd")
	if err != nil || string(data["."+macPlist]) != plist || !bytes.Equal(data["."+macProgram], program) {
		t.Errorf("the job is not the one that install writes, or the program another: %v", err)
	}
	_, scripts := uncpio(t, files["gururmm-agent.pkg/Scripts"])
	for _, name := range []string{"preinstall", "postinstall"} {
		check := exec.CommandContext(t.Context(), "sh", "-n")
		check.Stdin = bytes.NewReader(scripts["./"+name])
		if out, err := check.CombinedOutput(); err != nil || len(scripts["./"+name]) == 0 || bytes.Contains(scripts["./"+name], []byte("@VERSION@")) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	checkBom(t, files["gururmm-agent.pkg/Bom"], len(want))
}

// checkBom follows the bill from its names to its leaves.
func checkBom(t *testing.T, raw []byte, files int) {
	t.Helper()
	u32 := func(b []byte, at int) int { return int(binary.BigEndian.Uint32(b[at:])) }
	if string(raw[:8]) != "BOMStore" || u32(raw, 8) != 1 {
		t.Fatalf("%q", raw[:12])
	}
	index, vars := u32(raw, 16), u32(raw, 24)
	block := func(n int) []byte {
		at, size := u32(raw, index+4+8*n), u32(raw, index+8+8*n)
		return raw[at : at+size]
	}
	named := map[string]int{}
	at := vars + 4
	for range u32(raw, vars) {
		n := int(raw[at+4])
		named[string(raw[at+5:at+5+n])] = u32(raw, at)
		at += 5 + n
	}
	if at != vars+u32(raw, 28) || len(named) != 5 {
		t.Errorf("names %v", named)
	}
	tree := block(named["Paths"])
	leaf := block(u32(tree, 8))
	if string(tree[:4]) != "tree" || u32(tree, 16) != files || int(binary.BigEndian.Uint16(leaf[2:])) != files {
		t.Errorf("%d files in the tree, want %d", u32(tree, 16), files)
	}
	var names []string
	ids := map[int]string{}
	for i := range files {
		info, file := block(u32(leaf, 12+8*i)), block(u32(leaf, 16+8*i))
		name := strings.TrimSuffix(string(file[4:]), "\x00")
		if parent := u32(file, 0); parent != 0 {
			name = ids[parent] + "/" + name
		}
		ids[u32(info, 0)] = name
		names = append(names, name)
		if detail := block(u32(info, 4)); len(detail) != 31 {
			t.Errorf("%s: %d bytes of detail", name, len(detail))
		}
	}
	if !slices.Contains(names, "."+macProgram) || !slices.Contains(names, "."+macPlist) {
		t.Errorf("names %q", names)
	}
	if got := cksum([]byte("123456789")); got != 930766865 { // as cksum(1) prints it
		t.Errorf("cksum %d", got)
	}
}

// The order of versions that the script goes by, in a real awk.
func TestMacPackageRefusesANewerOne(t *testing.T) {
	text, err := macos.ReadFile("macos/preinstall")
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(text, []byte("order() {"))
	function := string(text[i : i+bytes.IndexByte(text[i:], '\n')])
	var last string
	for _, v := range []string{"0.9.9", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0-beta", "1.10.0", "2.0.0"} {
		if last != "" {
			script := fmt.Sprintf("%s\n[ \"$(order %s)\" -gt \"$(order %s)\" ] && [ ! \"$(order %[3]s)\" -gt \"$(order %[2]s)\" ]", function, v, last)
			if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
				t.Errorf("%s after %s: %v: %s", v, last, err, out)
			}
		}
		last = v
	}
}

// Two small Go programs joined are what Go's own reader takes for a universal one.
func TestUniversalProgramIsRead(t *testing.T) {
	programs := map[macho.Cpu][]byte{}
	for _, cpu := range []macho.Cpu{macho.CpuAmd64, macho.CpuArm64} {
		thin := []uint32{0xfeedfacf, uint32(cpu), 0, 2, 0, 0, 0, 0} // mach_header_64, no commands
		if cpu == macho.CpuAmd64 {
			thin[2] = 3
		}
		for _, f := range thin {
			programs[cpu] = binary.LittleEndian.AppendUint32(programs[cpu], f)
		}
	}
	raw := universal(programs, []macho.Cpu{macho.CpuAmd64, macho.CpuArm64})
	fat, err := macho.NewFatFile(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if first := binary.BigEndian.Uint32(raw[8:]); first != 0x01000007 { // CPU_TYPE_X86_64 of mach/machine.h
		t.Errorf("the first program is for %#x", first)
	}
	if len(fat.Arches) != 2 || fat.Arches[0].Cpu != macho.CpuAmd64 || fat.Arches[1].Cpu != macho.CpuArm64 || fat.Arches[1].Offset%(1<<14) != 0 {
		t.Errorf("%+v", fat.Arches)
	}
}

func TestSignersSignInPlace(t *testing.T) {
	dir := t.TempDir()
	file, signer := filepath.Join(dir, "a.pkg"), filepath.Join(dir, "signer")
	for path, text := range map[string]string{file: "pkg", signer: "#!/bin/sh\nprintf signed >>\"$1\"\n"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"", signer} {
		if err := signBy(t.Context(), command, file); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "pkgsigned" {
		t.Errorf("%q, %v", got, err)
	}
	if err := signBy(t.Context(), "false", file); err == nil || !strings.Contains(err.Error(), "false did not sign a.pkg") {
		t.Errorf("a signer that fails: %v", err)
	}
}
