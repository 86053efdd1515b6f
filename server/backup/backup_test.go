package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, time.Unix(1, 0))
	for name, content := range files {
		if err := w.Add(name, "", int64(len(content)), strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(Manifest{ServerID: "s"}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	files := map[string]string{"state/command.key": "secret", "state/builds/ab": strings.Repeat("x", 1<<20), "state/empty": ""}
	got := map[string]string{}
	m, err := Read(bytes.NewReader(archive(t, files)), func(name string, r io.Reader) error {
		raw, err := io.ReadAll(r)
		got[name] = string(raw)
		return err
	})
	if err != nil || m.ServerID != "s" || len(m.Files) != len(files) || !m.MadeAt.Equal(time.Unix(1, 0)) {
		t.Fatalf("%+v, %v", m, err)
	}
	for name, content := range files {
		if got[name] != content {
			t.Errorf("%s is %.20q", name, got[name])
		}
	}
	// Who takes nothing of a file verifies it all the same.
	if _, err := Read(bytes.NewReader(archive(t, files)), func(string, io.Reader) error { return nil }); err != nil {
		t.Error(err)
	}
	mine := errors.New("the disk is full")
	if _, err := Read(bytes.NewReader(archive(t, files)), func(string, io.Reader) error { return mine }); !errors.Is(err, mine) || errors.Is(err, ErrDamaged) {
		t.Errorf("of one who can't take it: %v", err)
	}
}

// An archive that was cut at any byte, or of which any bit was turned, is refused.
func TestDamageIsFound(t *testing.T) {
	random := make([]byte, 700)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	whole := archive(t, map[string]string{"state/a": string(random), "state/b": "b"})
	nothing := func(string, io.Reader) error { return nil }
	for n := range len(whole) {
		if _, err := Read(bytes.NewReader(whole[:n]), nothing); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
	for i := 10; i < len(whole); i++ { // the header of gzip has a time and a system, which nobody reads
		turned := bytes.Clone(whole)
		turned[i] ^= 1 << (i % 8)
		var got strings.Builder // some bits mean nothing to the decompressor
		_, err := Read(bytes.NewReader(turned), func(name string, r io.Reader) error {
			got.WriteString(name)
			_, err := io.Copy(&got, r)
			return err
		})
		if a, b := "state/a"+string(random), "state/bb"; err == nil && got.String() != a+b && got.String() != b+a {
			t.Fatalf("byte %d of %d turned was not seen", i, len(whole))
		}
	}
	if _, err := Read(strings.NewReader("PK\x03\x04 something else altogether"), nothing); !errors.Is(err, ErrForeign) {
		t.Errorf("of another kind: %v", err)
	}
}

// Names that lead elsewhere, links, and files that nobody listed are refused before they are taken.
func TestOnlyWhatBelongsThereIsTaken(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../outside", Typeflag: tar.TypeReg}, {Name: "/etc/passwd", Typeflag: tar.TypeReg}, {Name: "state/../../x", Typeflag: tar.TypeReg},
		{Name: "state/link", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "state", Typeflag: tar.TypeDir}, {Name: `state\x`, Typeflag: tar.TypeReg},
		{Name: "C:x", Typeflag: tar.TypeReg}, {Name: strings.Repeat("n", maxName+1), Typeflag: tar.TypeReg},
	} {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		w := tar.NewWriter(z)
		if err := errors.Join(w.WriteHeader(&h), w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		_, err := Read(&out, func(name string, _ io.Reader) error { t.Errorf("%q was taken", name); return nil })
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", h.Name, err)
		}
	}
	var out bytes.Buffer
	w := NewWriter(&out, time.Now())
	if err := errors.Join(w.Add("a", "", 1, strings.NewReader("a"))); err != nil {
		t.Fatal(err)
	}
	listed := w.files
	if err := w.Add("b", "", 1, strings.NewReader("b")); err != nil {
		t.Fatal(err)
	}
	w.files = listed
	if _, err := w.Close(Manifest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(&out, func(string, io.Reader) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("one that is not listed: %v", err)
	}
	if err := w.Add("../x", "", 0, strings.NewReader("")); err == nil {
		t.Error("a name that leads elsewhere was written")
	}
	if err := NewWriter(io.Discard, time.Now()).Add("short", "", 5, strings.NewReader("abc")); err == nil {
		t.Error("a file that became shorter was written")
	}
}
