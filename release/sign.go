package release

import (
	"bytes"
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

// PrivateKey signs releases. It belongs on the machine that builds, never on the
// server: who holds it can have any program run on each endpoint.
type PrivateKey struct{ minisign minisign.PrivateKey }

// NewKey makes a fresh pair.
func NewKey() (Key, PrivateKey, error) {
	pub, priv, err := minisign.GenerateKey(nil)
	if err != nil {
		return Key{}, PrivateKey{}, fmt.Errorf("make a release key: %w", err)
	}
	k, err := ParseKey(pub.String())
	return k, PrivateKey{priv}, err
}

// Format is the private key's file as minisign writes it; "": unencrypted. An
// encrypted one takes a gigabyte of memory and seconds to make and to read, by
// minisign's own choice of cost.
func (p PrivateKey) Format(password string) ([]byte, error) {
	if password == "" {
		return p.minisign.MarshalText()
	}
	return minisign.EncryptKey(password, p.minisign)
}

// ErrPassword: the private key is encrypted, and the password is missing or wrong.
var ErrPassword = errors.New("the private key is encrypted and this is not its password")

// ParsePrivateKey reads the file that minisign -G or [PrivateKey.Format] made. The
// error wraps [ErrKey] or [ErrPassword].
func ParsePrivateKey(file []byte, password string) (PrivateKey, error) {
	if len(file) > maxKey {
		return PrivateKey{}, fmt.Errorf("%w: longer than %d bytes", ErrKey, maxKey)
	}
	var p PrivateKey
	if !minisign.IsEncrypted(file) {
		if err := p.minisign.UnmarshalText(file); err != nil {
			return PrivateKey{}, fmt.Errorf("%w: %w", ErrKey, err)
		}
		return p, p.whole()
	}
	if password == "" {
		return PrivateKey{}, ErrPassword
	}
	var err error
	if p.minisign, err = minisign.DecryptKey(password, file); err != nil {
		return PrivateKey{}, fmt.Errorf("%w: %w", ErrPassword, err)
	}
	return p, p.whole()
}

// whole refuses a key whose halves do not fit each other: what it signs could
// never be verified, and might give the key away.
func (p PrivateKey) whole() error {
	text, err := p.minisign.MarshalText()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	_, last, _ := bytes.Cut(text, []byte("\n"))
	raw, err := base64.StdEncoding.DecodeString(string(last))
	if err != nil || len(raw) < privateAt+ed25519.PrivateKeySize {
		return fmt.Errorf("%w: of %d bytes", ErrKey, len(raw))
	}
	key := ed25519.PrivateKey(raw[privateAt : privateAt+ed25519.PrivateKeySize])
	if !ed25519.NewKeyFromSeed(key.Seed()).Equal(key) {
		return fmt.Errorf("%w: its two halves do not fit each other", ErrKey)
	}
	return nil
}

// privateAt is where the Ed25519 key stands in minisign's format: behind the
// algorithms (6 bytes), salt (32), costs (16) and key id (8).
const privateAt = 62

// Public is the key's other half.
func (p PrivateKey) Public() (Key, error) {
	pub, ok := p.minisign.Public().(minisign.PublicKey)
	if !ok {
		return Key{}, ErrKey
	}
	return ParseKey(pub.String())
}

// String keeps the key out of whatever prints it.
func (p PrivateKey) String() string { return fmt.Sprintf("private release key %016X", p.minisign.ID()) }

// GoString is String.
func (p PrivateKey) GoString() string { return p.String() }

// Sign reads program to its end, at most [wire.MaxBuild] bytes, and gives its
// build, signed. That it is an executable for os/arch is [CheckPlatform]'s to say.
func Sign(key PrivateKey, program io.Reader, version, os, arch string) (wire.Build, error) {
	m := minisign.NewReader(io.LimitReader(program, wire.MaxBuild+1))
	h := sha256.New()
	n, err := io.Copy(h, m)
	if err != nil {
		return wire.Build{}, fmt.Errorf("read the program: %w", err)
	}
	b := wire.Build{Version: version, OS: os, Arch: arch, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}
	if err := usable(b); err != nil {
		return wire.Build{}, err
	}
	b.Signature = string(m.SignWithComments(key.minisign, Describe(version, os, arch),
		fmt.Sprintf("signature from private key: %016X", key.minisign.ID())))
	return b, nil
}

// Signed reads for which version and platform a signature was made. Nothing of it
// is trusted before [Check]. The error wraps [ErrSignature] or [ErrMismatch].
func Signed(signature string) (wire.Build, error) {
	if len(signature) > maxSignature {
		return wire.Build{}, fmt.Errorf("%w: longer than %d bytes", ErrSignature, maxSignature)
	}
	var s minisign.Signature
	if err := s.UnmarshalText([]byte(signature)); err != nil {
		return wire.Build{}, fmt.Errorf("%w: not a minisign signature: %w", ErrSignature, err)
	}
	version, os, arch, err := ParseDescription(s.TrustedComment)
	return wire.Build{Version: version, OS: os, Arch: arch, Signature: signature}, err
}

// DescribeFile is the trusted comment of a file that is released beside the programs, such
// as a package: "gururmm release VERSION FILE". No program's signature is ever of this form:
// see [Describe].
func DescribeFile(name, version string) string { return "gururmm release " + version + " " + name }

// SignFile signs what a person is to fetch and check with minisign -V: the signature's file
// is given. name is the file's own, without a folder. No endpoint takes it for a program's.
func SignFile(key PrivateKey, file io.Reader, name, version string) ([]byte, error) {
	if err := CheckVersion(version); err != nil {
		return nil, err
	}
	if name == "" || strings.ContainsAny(name, "/\\ \n\r\t") {
		return nil, fmt.Errorf("%w: %.80q is no file's name", ErrBuild, name)
	}
	m := minisign.NewReader(file)
	if _, err := io.Copy(io.Discard, m); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return m.SignWithComments(key.minisign, DescribeFile(name, version), fmt.Sprintf("signature from private key: %016X", key.minisign.ID())), nil
}
