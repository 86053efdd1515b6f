package bundle

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
	"strings"
	"time"
)

// order of the members: what tells most comes first. Families end in "/".
var order = []string{
	"status.json", "history.json", "frames.json", "beacons.json",
	"stacks/", "trace/", "doctor.json", "config.json", "journal.json", "machine.json", "files.json", "log/",
}

// rank is a member's place.
func rank(name string) int {
	for i, prefix := range order {
		if strings.HasPrefix(name, prefix) {
			return i
		}
	}
	return len(order)
}

// packAll writes a tar (POSIX ustar) in gzip (RFC 1952). All that could differ
// between two makings of the same members is fixed.
func packAll(parts []part, at time.Time) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	for _, p := range parts {
		if p.Missing != "" {
			continue
		}
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: p.Name, Size: int64(len(p.data)), Mode: 0o600,
			ModTime: at.Truncate(time.Second), Format: tar.FormatUSTAR,
		}
		if err := t.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", p.Name, err)
		}
		if _, err := t.Write(p.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", p.Name, err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return out.Bytes(), nil
}

// maxUnpacked bounds what a bundle may unpack to when it is read back.
const maxUnpacked = 256 << 20

// Read unpacks a bundle and verifies it: the manifest comes first, and every
// member that it names is there with its hash, and none else.
func Read(r io.Reader) (Manifest, map[string][]byte, error) {
	var man Manifest
	z, err := gzip.NewReader(r)
	if err != nil {
		return man, nil, fmt.Errorf("bundle: %w", err)
	}
	t := tar.NewReader(io.LimitReader(z, maxUnpacked))
	members := map[string][]byte{}
	var sums []byte
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return man, nil, fmt.Errorf("bundle: %w", err)
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return man, nil, fmt.Errorf("bundle: %s: %w", h.Name, err)
		}
		if man.Format == 0 {
			if h.Name != ManifestName {
				return man, nil, fmt.Errorf("bundle: it begins with %q, not with its manifest", h.Name)
			}
			if err := json.Unmarshal(data, &man); err != nil {
				return man, nil, fmt.Errorf("bundle: manifest: %w", err)
			}
			if man.Format != Format {
				return man, nil, fmt.Errorf("bundle: its format is %d, this program reads %d", man.Format, Format)
			}
			sums = man.sums(data)
			continue
		}
		members[h.Name] = data
	}
	if man.Format != 0 && !bytes.Equal(members[SumsName], sums) {
		return man, nil, fmt.Errorf("bundle: %s does not agree with the manifest", SumsName)
	}
	delete(members, SumsName)
	return man, members, man.verify(members)
}

// sums are the lines by which sha256sum -c checks what was unpacked; manifest is its bytes.
func (man Manifest) sums(manifest []byte) []byte {
	out := fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(manifest), ManifestName)
	for _, m := range man.Members {
		if m.Missing == "" {
			out = fmt.Appendf(out, "%s  %s\n", m.SHA256, m.Name)
		}
	}
	return out
}

func (man Manifest) verify(members map[string][]byte) error {
	if man.Format == 0 {
		return errors.New("bundle: it is empty")
	}
	known := 0
	for _, m := range man.Members {
		data, there := members[m.Name]
		sum := sha256.Sum256(data)
		switch {
		case m.Missing != "" && !there:
			continue
		case m.Missing != "":
			return fmt.Errorf("bundle: %s is there, but the manifest says that it is missing", m.Name)
		case !there:
			return fmt.Errorf("bundle: %s is named by the manifest, but not there", m.Name)
		case int64(len(data)) != m.Bytes || hex.EncodeToString(sum[:]) != m.SHA256:
			return fmt.Errorf("bundle: %s is not what the manifest says", m.Name)
		}
		known++
	}
	if known != len(members) {
		return fmt.Errorf("bundle: %d members are not in the manifest", len(members)-known)
	}
	return nil
}
