// Package release says which program may run as an agent: one that was signed
// with a release key, for this version and platform, and is what it says it is.
//
// Rules that hold here:
//   - the signature is minisign's, over the program's BLAKE2b-512 digest, so that a
//     program is checked as a stream; the legacy form, which signs the program
//     itself, is refused;
//   - the trusted comment, which is signed too, names version and platform: a
//     signature of one build never serves another ([Describe]);
//   - what can be checked without the program is checked before it is fetched
//     ([Check]), and nothing is executed to find out what it is ([Inspect]);
//   - each input is bounded before it is read.
package release

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"aead.dev/minisign"

	"gururmm/wire"
)

// Errors to branch on; the text of what wraps them says what a person does.
var (
	// ErrNoKeys: no release key is known, so no program can be trusted.
	ErrNoKeys = errors.New("no release key is known here")
	// ErrKey: a text is no minisign key.
	ErrKey = errors.New("not a minisign key")
	// ErrSignature: there is none, it is of a key that is not trusted, or it does not fit.
	ErrSignature = errors.New("signature does not verify")
	// ErrMismatch: what was signed is another version or platform than what is offered.
	ErrMismatch = errors.New("the signature is for another build")
	// ErrContent: size or hash of the program is not what was announced.
	ErrContent = errors.New("the program is not the one announced")
	// ErrBuild: a description of a build is not usable at all.
	ErrBuild = errors.New("build is not usable")
)

const (
	// maxKey and maxSignature bound those texts in bytes: minisign's own are a third of it.
	maxKey       = 1 << 10
	maxSignature = 2 << 10
)

// Key is a release key's public half.
type Key struct {
	minisign minisign.PublicKey
	ed25519  ed25519.PublicKey
}

// ParseKey reads a minisign public key: its line "RW…", or the whole file.
// The error wraps [ErrKey].
func ParseKey(text string) (Key, error) {
	if len(text) > maxKey {
		return Key{}, fmt.Errorf("%w: longer than %d bytes", ErrKey, maxKey)
	}
	var k Key
	if err := k.minisign.UnmarshalText([]byte(strings.TrimSpace(text))); err != nil {
		return Key{}, fmt.Errorf("%w: it is one line that begins with RW, or the file that minisign -G makes: %w", ErrKey, err)
	}
	raw, err := base64.StdEncoding.DecodeString(k.minisign.String())
	if err != nil || len(raw) < ed25519.PublicKeySize {
		return Key{}, fmt.Errorf("%w: %v", ErrKey, err)
	}
	k.ed25519 = raw[len(raw)-ed25519.PublicKeySize:]
	return k, nil
}

// ParseKeys reads several; one that is wrong is an error, so that a typing error
// does not pass for a key that is trusted.
func ParseKeys(texts []string) ([]Key, error) {
	keys := make([]Key, 0, len(texts))
	for i, text := range texts {
		k, err := ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("release key %d: %w", i+1, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// String is the key's line "RW…".
func (k Key) String() string { return k.minisign.String() }

// ID is how minisign names the key: 16 hex digits.
func (k Key) ID() string { return fmt.Sprintf("%016X", k.minisign.ID()) }

// Describe is the trusted comment of the program for version and platform:
// "gururmm-agent VERSION OS/ARCH".
func Describe(version, os, arch string) string {
	return program + " " + version + " " + os + "/" + arch
}

// program is what is released; no other program of the project updates itself.
const program = "gururmm-agent"

// ParseDescription reads what [Describe] wrote. The error wraps [ErrMismatch].
func ParseDescription(comment string) (version, os, arch string, err error) {
	words := strings.Split(comment, " ")
	if len(words) == 3 && words[0] == program {
		var found bool
		if os, arch, found = strings.Cut(words[2], "/"); found && CheckVersion(words[1]) == nil && word(os) && word(arch) {
			return words[1], os, arch, nil
		}
	}
	return "", "", "", fmt.Errorf("%w: the trusted comment is %.80q, not %q; sign with -t %q", ErrMismatch,
		comment, Describe("VERSION", "OS", "ARCH"), Describe("v1.2.3", "linux", "amd64"))
}

// word reports whether s can be an OS or architecture of Go's naming.
func word(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 16
}

// Check finds out what can be known of b without the program: its fields are
// usable, its signature is of one of keys, and what was signed is this version for
// this platform. The error wraps [ErrNoKeys], [ErrBuild], [ErrSignature] or [ErrMismatch].
func Check(keys []Key, b wire.Build) error {
	_, err := check(keys, b)
	return err
}

// check is Check; it gives the key that signed.
func check(keys []Key, b wire.Build) (Key, error) {
	if len(keys) == 0 {
		return Key{}, ErrNoKeys
	}
	if err := usable(b); err != nil {
		return Key{}, err
	}
	var s minisign.Signature
	if err := s.UnmarshalText([]byte(b.Signature)); err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if s.Algorithm != minisign.HashEdDSA {
		return Key{}, fmt.Errorf("%w: it is of minisign's legacy form; sign without -l", ErrSignature)
	}
	signed := append(append(make([]byte, 0, len(s.Signature)+len(s.TrustedComment)), s.Signature[:]...), s.TrustedComment...)
	for _, k := range keys {
		if k.minisign.ID() != s.KeyID || !ed25519.Verify(k.ed25519, signed, s.CommentSignature[:]) {
			continue
		}
		return k, agrees(s.TrustedComment, b)
	}
	return Key{}, fmt.Errorf("%w: of key %016X; trusted here: %s", ErrSignature, s.KeyID, names(keys))
}

func names(keys []Key) string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.ID()
	}
	return strings.Join(ids, ", ")
}

// agrees compares a signed comment with what b says of itself.
func agrees(comment string, b wire.Build) error {
	version, os, arch, err := ParseDescription(comment)
	if err != nil {
		return err
	}
	if version != b.Version || os != b.OS || arch != b.Arch {
		return fmt.Errorf("%w: signed is %s %s/%s, offered as %s %s/%s", ErrMismatch, version, os, arch, b.Version, b.OS, b.Arch)
	}
	return nil
}

// usable checks the form of b. The error wraps [ErrBuild].
func usable(b wire.Build) error {
	if err := CheckVersion(b.Version); err != nil {
		return fmt.Errorf("%w: %w", ErrBuild, err)
	}
	sum, err := hex.DecodeString(b.SHA256)
	switch {
	case !word(b.OS) || !word(b.Arch):
		return fmt.Errorf("%w: platform %.40q", ErrBuild, b.OS+"/"+b.Arch)
	case b.Size <= 0 || b.Size > wire.MaxBuild:
		return fmt.Errorf("%w: size of %d bytes, want 1 to %d", ErrBuild, b.Size, int64(wire.MaxBuild))
	case err != nil || len(sum) != sha256.Size || hex.EncodeToString(sum) != b.SHA256:
		return fmt.Errorf("%w: sha256 is not 64 hex digits", ErrBuild)
	case len(b.Signature) > maxSignature:
		return fmt.Errorf("%w: signature longer than %d bytes", ErrBuild, maxSignature)
	}
	return nil
}

// Verify is [Check], and that program, read to its end, is what was signed. It reads
// at most one byte more than b.Size. The error wraps those of Check, [ErrContent], or
// what reading gave.
func Verify(keys []Key, program io.Reader, b wire.Build) error {
	key, err := check(keys, b)
	if err != nil {
		return err
	}
	m := minisign.NewReader(io.LimitReader(program, b.Size+1))
	h := sha256.New()
	n, err := io.Copy(h, m)
	if err != nil {
		return fmt.Errorf("read the program: %w", err)
	}
	switch sum := hex.EncodeToString(h.Sum(nil)); {
	case n > b.Size:
		return fmt.Errorf("%w: longer than %d bytes", ErrContent, b.Size)
	case n < b.Size:
		return fmt.Errorf("%w: %d bytes of %d", ErrContent, n, b.Size)
	case sum != b.SHA256:
		return fmt.Errorf("%w: its SHA-256 is %s, announced was %s", ErrContent, sum, b.SHA256)
	case !m.Verify(key.minisign, []byte(b.Signature)):
		return fmt.Errorf("%w: it is of key %s, but not over this program", ErrSignature, key.ID())
	}
	return nil
}
