package release_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"aead.dev/minisign"

	"gururmm/release"
	"gururmm/wire"
)

// signer is a fresh key pair.
func signer(t testing.TB) ([]release.Key, release.PrivateKey) {
	t.Helper()
	pub, priv, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return []release.Key{pub}, priv
}

func sign(t testing.TB, key release.PrivateKey, program []byte) wire.Build {
	t.Helper()
	b, err := release.Sign(key, bytes.NewReader(program), "v1.2.3", "linux", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatWasSignedVerifies(t *testing.T) {
	keys, priv := signer(t)
	other, _ := signer(t)
	for _, size := range []int{1, 1000, 3 << 20} {
		program := make([]byte, size)
		for i := range program {
			program[i] = byte(rand.Uint32())
		}
		b := sign(t, priv, program)
		if b.Size != int64(size) {
			t.Fatalf("%d bytes signed as %d", size, b.Size)
		}
		if err := release.Check(keys, b); err != nil {
			t.Errorf("check: %v", err)
		}
		if err := release.Verify(append(other, keys...), iotest.HalfReader(bytes.NewReader(program)), b); err != nil {
			t.Errorf("verify: %v", err)
		}
	}
}

func TestOneChangedBitIsRefused(t *testing.T) {
	keys, priv := signer(t)
	program := []byte(strings.Repeat("the program ", 50))
	b := sign(t, priv, program)
	for range 200 {
		bad := bytes.Clone(program)
		bad[rand.IntN(len(bad))] ^= 1 << rand.IntN(8)
		if err := release.Verify(keys, bytes.NewReader(bad), b); !errors.Is(err, release.ErrContent) {
			t.Fatalf("a changed program: %v", err)
		}
		// With the hash mended the signature is what refuses it.
		mended := sign(t, priv, bad)
		mended.Signature = b.Signature
		if err := release.Verify(keys, bytes.NewReader(bad), mended); !errors.Is(err, release.ErrSignature) {
			t.Fatalf("a changed program with its own hash: %v", err)
		}
		// A signature changed anywhere in what counts is none.
		altered := b
		lines := strings.SplitAfter(b.Signature, "\n")
		i := 1 + rand.IntN(3)
		line := []byte(lines[i])
		at := rand.IntN(len(line) - 1)
		if line[at]++; string(line) == lines[i] {
			continue
		}
		lines[i] = string(line)
		altered.Signature = strings.Join(lines, "")
		if err := release.Verify(keys, bytes.NewReader(program), altered); err == nil {
			// Base64 has bits that mean nothing: then it is the same signature.
			var one, two minisign.Signature
			if one.UnmarshalText([]byte(b.Signature)) != nil || two.UnmarshalText([]byte(altered.Signature)) != nil || !one.Equal(two) {
				t.Fatalf("altered signature verifies:\n%s", altered.Signature)
			}
		}
	}
}

func TestWhatIsRefusedAndHow(t *testing.T) {
	keys, priv := signer(t)
	other, _ := signer(t)
	program := []byte("the program")
	b := sign(t, priv, program)
	with := func(change func(*wire.Build)) wire.Build { c := b; change(&c); return c }
	raw, err := priv.Format("")
	if err != nil {
		t.Fatal(err)
	}
	var mini minisign.PrivateKey
	if err := mini.UnmarshalText(raw); err != nil {
		t.Fatal(err)
	}
	comment := func(text string) string {
		r := minisign.NewReader(bytes.NewReader(program))
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		return string(r.SignWithComments(mini, text, "any"))
	}
	for _, tt := range []struct {
		name string
		keys []release.Key
		b    wire.Build
		want error
	}{
		{"no key", nil, b, release.ErrNoKeys},
		{"another key", other, b, release.ErrSignature},
		{"no signature", keys, with(func(b *wire.Build) { b.Signature = "" }), release.ErrSignature},
		{"no text of minisign's", keys, with(func(b *wire.Build) { b.Signature = "a\nb\nc\nd" }), release.ErrSignature},
		{"endless signature", keys, with(func(b *wire.Build) { b.Signature = strings.Repeat("a", 3<<10) }), release.ErrBuild},
		{"legacy form", keys, with(func(b *wire.Build) {
			b.Signature = string(minisign.SignWithComments(mini, program, release.Describe("v1.2.3", "linux", "amd64"), "any"))
		}), release.ErrSignature},
		{"another version", keys, with(func(b *wire.Build) { b.Version = "v1.2.4" }), release.ErrMismatch},
		{"another system", keys, with(func(b *wire.Build) { b.OS = "windows" }), release.ErrMismatch},
		{"another machine", keys, with(func(b *wire.Build) { b.Arch = "arm64" }), release.ErrMismatch},
		{"comment of something else", keys, with(func(b *wire.Build) { b.Signature = comment("timestamp:1") }), release.ErrMismatch},
		{"comment of another program", keys, with(func(b *wire.Build) { b.Signature = comment("gururmm v1.2.3 linux/amd64") }), release.ErrMismatch},
		{"version that is a path", keys, with(func(b *wire.Build) { b.Version = "../../v1.2.3" }), release.ErrBuild},
		{"version without an end", keys, with(func(b *wire.Build) { b.Version = "v1.2.3-" + strings.Repeat("a", 100) }), release.ErrBuild},
		{"hash in capitals", keys, with(func(b *wire.Build) { b.SHA256 = strings.ToUpper(b.SHA256) }), release.ErrBuild},
		{"no size", keys, with(func(b *wire.Build) { b.Size = 0 }), release.ErrBuild},
		{"too large", keys, with(func(b *wire.Build) { b.Size = wire.MaxBuild + 1 }), release.ErrBuild},
		{"shorter than announced", keys, with(func(b *wire.Build) { b.Size++ }), release.ErrContent},
		{"longer than announced", keys, with(func(b *wire.Build) { b.Size-- }), release.ErrContent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := release.Verify(tt.keys, bytes.NewReader(program), tt.b)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if early := release.Check(tt.keys, tt.b); errors.Is(tt.want, release.ErrContent) != (early == nil) {
				t.Errorf("without the program: %v", early)
			}
		})
	}
}

func TestReadingFailsAreTold(t *testing.T) {
	keys, priv := signer(t)
	b := sign(t, priv, []byte("the program"))
	gone := errors.New("gone")
	if err := release.Verify(keys, iotest.ErrReader(gone), b); !errors.Is(err, gone) {
		t.Errorf("verify: %v", err)
	}
	if _, err := release.Sign(priv, iotest.ErrReader(gone), "v1.2.3", "linux", "amd64"); !errors.Is(err, gone) {
		t.Errorf("sign: %v", err)
	}
}

func TestKeysAreReadInTheirForms(t *testing.T) {
	keys, priv := signer(t)
	line := keys[0].String()
	for name, text := range map[string]string{
		"line": line, "line with its end": line + "\n", "file": "untrusted comment: minisign public key X\n" + line + "\n",
	} {
		k, err := release.ParseKey(text)
		if err != nil || k.String() != line || k.ID() != keys[0].ID() {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
	for name, text := range map[string]string{"none": "", "half": line[:20], "endless": strings.Repeat("A", 4000), "words": "no key"} {
		if _, err := release.ParseKeys([]string{line, text}); !errors.Is(err, release.ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	file, err := priv.Format("")
	if err != nil {
		t.Fatal(err)
	}
	again, err := release.ParsePrivateKey(file, "")
	if err != nil {
		t.Fatal(err)
	}
	if pub, err := again.Public(); err != nil || pub.String() != line {
		t.Errorf("read again: %v, %v", pub, err)
	}
	if text := again.String(); strings.Contains(string(file), text) || !strings.Contains(text, keys[0].ID()) {
		t.Errorf("printed as %q", text)
	}
	bad := bytes.Clone(file)
	if at := len(bad) - 60; bad[at] == 'A' { // within the key itself
		bad[at] = 'B'
	} else {
		bad[at] = 'A'
	}
	if _, err := release.ParsePrivateKey(bad, ""); !errors.Is(err, release.ErrKey) {
		t.Errorf("a damaged key: %v", err)
	}
	if _, err := release.ParsePrivateKey(make([]byte, 4000), ""); !errors.Is(err, release.ErrKey) {
		t.Errorf("an endless key: %v", err)
	}
}

func TestDescriptionComesBack(t *testing.T) {
	v, os, arch, err := release.ParseDescription(release.Describe("v1.2.3-rc.1", "windows", "arm64"))
	if err != nil || v != "v1.2.3-rc.1" || os != "windows" || arch != "arm64" {
		t.Fatal(v, os, arch, err)
	}
	if got := release.Describe("v1.2.3", "linux", "amd64"); got != "gururmm-agent v1.2.3 linux/amd64" {
		t.Error(got)
	}
}

func FuzzParseDescription(f *testing.F) {
	f.Add("gururmm-agent v1.2.3 linux/amd64")
	f.Add("gururmm-agent v1 linux/amd64")
	f.Fuzz(func(t *testing.T, comment string) {
		v, os, arch, err := release.ParseDescription(comment)
		if err != nil {
			if !errors.Is(err, release.ErrMismatch) {
				t.Fatal(err)
			}
			return
		}
		if release.Describe(v, os, arch) != comment || release.CheckVersion(v) != nil {
			t.Fatalf("%q read as %q %q %q", comment, v, os, arch)
		}
	})
}

func FuzzCheckSignature(f *testing.F) {
	keys, priv := signer(f)
	program := []byte("the program")
	good := sign(f, priv, program)
	f.Add(good.Signature)
	f.Fuzz(func(t *testing.T, text string) {
		b := good
		b.Signature = text
		if release.Verify(keys, bytes.NewReader(program), b) != nil {
			return
		}
		var one, two minisign.Signature // who has not the key can make no other
		if one.UnmarshalText([]byte(good.Signature)) != nil || two.UnmarshalText([]byte(text)) != nil || !one.Equal(two) {
			t.Fatalf("a forged signature verifies: %q", text)
		}
	})
}

func TestOrderOfVersions(t *testing.T) {
	order := []string{"dev", "v0.9.0", "v1.0.0-rc.1", "v1.0.0-rc.2", "v1.0.0-rc.10", "v1.0.0", "v1.0.1", "v1.2.0", "v1.10.0"}
	for i, a := range order {
		for j, b := range order {
			if got := release.Compare(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s against %s: %d", a, b, got)
			}
		}
	}
	for _, v := range []string{"", "dev", "1.2.3", "v1", "v1.2", "v1.2.3+build", "v01.2.3", "v1.2.3 ", "v1.2.3/.."} {
		if err := release.CheckVersion(v); err == nil {
			t.Errorf("%q passes", v)
		}
	}
}

func TestWhatMayTakeThePlaceOfWhat(t *testing.T) {
	for _, tt := range []struct {
		version, running, os, arch string
		downgrade                  bool
		want                       error
	}{
		{"v1.1.0", "v1.0.0", "linux", "amd64", false, nil},
		{"v1.1.0", "dev", "linux", "amd64", false, nil},
		{"v1.1.0", "v1.1.0", "linux", "amd64", true, release.ErrSame},
		{"v1.0.0", "v1.1.0", "linux", "amd64", false, release.ErrDowngrade},
		{"v1.1.0-rc.1", "v1.1.0", "linux", "amd64", false, release.ErrDowngrade},
		{"v1.0.0", "v1.1.0", "linux", "amd64", true, nil},
		{"v1.1.0", "v1.0.0", "linux", "arm64", false, release.ErrPlatform},
		{"v1.1.0", "v1.0.0", "windows", "amd64", true, release.ErrPlatform},
	} {
		b := wire.Build{Version: tt.version, OS: "linux", Arch: "amd64", AllowDowngrade: tt.downgrade}
		if err := release.Allow(b, tt.running, tt.os, tt.arch); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestProgramsAreRecognisedByTheirHeaders(t *testing.T) {
	self, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if err := release.CheckPlatform(self, wire.Build{OS: runtime.GOOS, Arch: runtime.GOARCH}); err != nil {
		t.Errorf("this very program: %v", err)
	}
	if err := release.CheckPlatform(self, wire.Build{OS: "plan9", Arch: runtime.GOARCH}); !errors.Is(err, release.ErrMismatch) {
		t.Errorf("this very program as another: %v", err)
	}
	for name, tt := range map[string]struct {
		bytes []byte
		want  string
	}{
		"linux":   {elfHeader(0, 62, 2), "linux/amd64"},
		"freebsd": {elfHeader(9, 183, 3), "freebsd/arm64"},
	} {
		got, err := release.Inspect(bytes.NewReader(tt.bytes))
		if err != nil || len(got) != 1 || got[0].String() != tt.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, raw := range map[string][]byte{
		"nothing": {}, "a script": []byte("#!/bin/sh\nexit 0\n"), "a picture": []byte("\x89PNG\r\n\x1a\n"),
		"an object file": elfHeader(0, 62, 1), "an unknown machine": elfHeader(0, 3000, 2), "half a header": elfHeader(0, 62, 2)[:20],
		"only MZ": []byte("MZ\x00\x00"), "only a fat header": {0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 1},
	} {
		if got, err := release.Inspect(bytes.NewReader(raw)); !errors.Is(err, release.ErrExecutable) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// elfHeader is a 64-bit little-endian header with one empty program header.
func elfHeader(abi byte, machine uint16, kind byte) []byte {
	h := make([]byte, 64+56)
	copy(h, "\x7fELF\x02\x01\x01")
	h[7] = abi
	h[16] = kind
	h[18], h[19] = byte(machine), byte(machine>>8)
	h[20] = 1
	h[32] = 64 // program headers behind this one
	h[52], h[54], h[56] = 64, 56, 1
	h[58] = 64
	h[64] = 1
	return h
}

// What the toolchain makes for each platform is recognised as that.
func TestBuiltProgramsAreRecognised(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"windows/amd64", "darwin/arm64"} {
		goos, arch, _ := strings.Cut(p, "/")
		out := filepath.Join(dir, goos)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, filepath.Join(dir, "main.go"))
		cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build for %s: %v\n%s", p, err, text)
		}
		f, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		got, err := release.Inspect(f)
		f.Close()
		if err != nil || len(got) != 1 || got[0].String() != p {
			t.Errorf("%s: %v, %v", p, got, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(elfHeader(0, 62, 2))
	f.Add([]byte("MZ\x00\x00"))
	f.Add([]byte{0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 1})
	f.Add([]byte{0xcf, 0xfa, 0xed, 0xfe, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := release.Inspect(bytes.NewReader(raw))
		if (err == nil) != (len(got) > 0) || err != nil && !errors.Is(err, release.ErrExecutable) {
			t.Fatalf("%v, %v", got, err)
		}
	})
}
