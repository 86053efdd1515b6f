// Package backup is an archive of files that proves itself whole: a tar file, compressed
// with gzip, that ends with a manifest of all before it.
//
// Rules that hold here:
//   - the manifest comes last: an archive that was cut has none, and is refused;
//   - nothing counts before each file's length and SHA-256 were those of the manifest;
//   - names lead nowhere but below the directory they are unpacked in, and nothing but
//     regular files is taken.
package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Errors to branch on.
var (
	// ErrDamaged: the archive is not what was written.
	ErrDamaged = errors.New("the archive is damaged")
	// ErrCut: its end is missing.
	ErrCut = fmt.Errorf("%w: its end is missing", ErrDamaged)
	// ErrForeign: it is no archive of this program, or one of a newer version.
	ErrForeign = errors.New("not a backup that this program can read")
)

const (
	// format of the archive; another one is refused.
	format = 1
	// manifestName is the last file.
	manifestName = "manifest.json"
	// maxManifest bounds it in bytes, which also bounds how many files there are.
	maxManifest = 64 << 20
	// maxName bounds a file's name in bytes.
	maxName = 200
)

// Manifest says what is in an archive.
type Manifest struct {
	Format  int       `json:"format"`
	Program string    `json:"program"` // version that made it
	MadeAt  time.Time `json:"made_at"`
	// ServerID is the server's, StateDir where its state was, on the machine Host.
	ServerID string `json:"server_id"`
	StateDir string `json:"state_dir"`
	Host     string `json:"host,omitempty"`
	// Database is the URL, without secrets, of the PostgreSQL that completes this; empty:
	// the database is in it.
	Database string `json:"database,omitempty"`
	// WithoutBundles: they were left out.
	WithoutBundles bool   `json:"without_bundles,omitempty"`
	Files          []File `json:"files"`
}

// File of an archive.
type File struct {
	Name   string `json:"name"` // with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	// From is where it was, if that does not follow from its name.
	From string `json:"from,omitempty"`
}

// Writer makes an archive. Only once Close has returned without error it is one.
type Writer struct {
	zip   *gzip.Writer
	tar   *tar.Writer
	now   time.Time
	files []File
}

// NewWriter makes one that writes to w.
func NewWriter(w io.Writer, now time.Time) *Writer {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed) // most of it is compressed already
	if err != nil {
		panic(err) // the level is a constant
	}
	return &Writer{zip: z, tar: tar.NewWriter(z), now: now}
}

// Add writes a file of exactly size bytes, which are read from r.
func (w *Writer) Add(name, from string, size int64, r io.Reader) error {
	if !Usable(name) {
		return fmt.Errorf("backup: %q can't be a file's name", name)
	}
	if err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.now, Format: tar.FormatPAX}); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w.tar, sum), io.LimitReader(r, size))
	if err != nil {
		return err
	}
	if n < size {
		return fmt.Errorf("%s: %d bytes were to be read, and only %d came", name, size, n)
	}
	w.files = append(w.files, File{Name: name, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), From: from})
	return nil
}

// Close writes the manifest, which it completes, and gives it back.
func (w *Writer) Close(m Manifest) (Manifest, error) {
	m.Format, m.Files, m.MadeAt = format, w.files, w.now.UTC()
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return m, err
	}
	if err := w.Add(manifestName, "", int64(len(raw)), bytes.NewReader(raw)); err != nil {
		return m, err
	}
	return m, errors.Join(w.tar.Close(), w.zip.Close())
}

// Read reads an archive to its end and hands each file to take, which may read as much of
// it as it wants. What take was given counts only once Read returns without error.
func Read(r io.Reader, take func(name string, content io.Reader) error) (Manifest, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return Manifest{}, foreign(err)
	}
	archive := tar.NewReader(z)
	found := map[string]File{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return Manifest{}, ErrCut
		}
		if err != nil {
			return Manifest{}, damaged(err)
		}
		if header.Name == manifestName {
			return finish(header, archive, z, found)
		}
		if header.Typeflag != tar.TypeReg || !Usable(header.Name) {
			return Manifest{}, fmt.Errorf("%w: %q is no file that belongs there", ErrDamaged, header.Name)
		}
		if _, twice := found[header.Name]; twice {
			return Manifest{}, fmt.Errorf("%w: %s is there twice", ErrDamaged, header.Name)
		}
		sum := &reading{r: archive}
		hash := sha256.New()
		content := io.TeeReader(sum, hash)
		err = take(header.Name, content)
		if sum.err == nil && err != nil { // not the archive's fault
			return Manifest{}, err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return Manifest{}, damaged(err)
		}
		found[header.Name] = File{Name: header.Name, Size: header.Size, SHA256: hex.EncodeToString(hash.Sum(nil))}
	}
}

// reading remembers an error of the archive, to tell it from one of whoever takes the bytes.
type reading struct {
	r   io.Reader
	err error
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// finish reads the manifest and what is behind it, and compares.
func finish(header *tar.Header, archive *tar.Reader, z *gzip.Reader, found map[string]File) (m Manifest, err error) {
	if header.Size > maxManifest {
		return m, fmt.Errorf("%w: its manifest has %d bytes", ErrDamaged, header.Size)
	}
	raw, err := io.ReadAll(archive)
	if err != nil {
		return m, damaged(err)
	}
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		return m, damaged(errors.Join(err, errors.New("there is something behind its manifest")))
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // to the checksum of gzip
		return m, damaged(err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, damaged(err)
	}
	if m.Format != format {
		return m, fmt.Errorf("%w: its format is %d, this program knows %d", ErrForeign, m.Format, format)
	}
	for _, f := range m.Files {
		is, ok := found[f.Name]
		switch {
		case !ok:
			return m, fmt.Errorf("%w: %s is missing", ErrDamaged, f.Name)
		case is.Size != f.Size || is.SHA256 != f.SHA256:
			return m, fmt.Errorf("%w: %s is not what was written", ErrDamaged, f.Name)
		}
		delete(found, f.Name)
	}
	for name := range found {
		return m, fmt.Errorf("%w: %s is not in its manifest", ErrDamaged, name)
	}
	return m, nil
}

func foreign(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	if errors.Is(err, gzip.ErrHeader) {
		return fmt.Errorf("%w: it is not compressed with gzip", ErrForeign)
	}
	return err
}

func damaged(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// Usable reports whether a file may have that name, on every system.
func Usable(name string) bool {
	return name != "" && len(name) <= maxName && path.Clean(name) == name && filepath.IsLocal(filepath.FromSlash(name)) &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == ""
}
