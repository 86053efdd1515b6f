// Package pin ties a TLS connection to one public key: the SHA-256 of the leaf
// certificate's SubjectPublicKeyInfo, base64, as "sha256/…" (RFC 7469 §2.4).
//
// A pin replaces the judgement of a chain. Only the leaf counts: without a
// verified chain anyone may send any other certificate along. Dates do not
// matter either, so a wrong clock locks no endpoint out.
package pin

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"

	"gururmm/internal/neterr"
)

const prefix = "sha256/"

// Of gives the pin of cert's key.
func Of(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return prefix + base64.StdEncoding.EncodeToString(sum[:])
}

// Check reports whether s has the form of a pin.
func Check(s string) error {
	_, err := parse(s)
	return err
}

func parse(s string) ([]byte, error) {
	b64, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return nil, fmt.Errorf("pin %q does not begin with %q", s, prefix)
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil {
		return nil, fmt.Errorf("pin %q is not base64: %w", s, err)
	}
	if len(sum) != sha256.Size {
		return nil, fmt.Errorf("pin %q holds %d bytes, want %d", s, len(sum), sha256.Size)
	}
	if prefix+base64.StdEncoding.EncodeToString(sum) != s {
		return nil, fmt.Errorf("pin %q has line breaks in it", s)
	}
	return sum, nil
}

// Require makes cfg accept exactly the key of pin: VerifyConnection, which runs on
// resumed sessions too, compares in constant time and fails with [neterr.ErrPin].
// Unless cfg has RootCAs, the chain is not looked at.
func Require(cfg *tls.Config, pin string) error {
	want, err := parse(pin)
	if err != nil {
		return err
	}
	cfg.InsecureSkipVerify = cfg.RootCAs == nil
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fmt.Errorf("%w: it showed no certificate", neterr.ErrPin)
		}
		got := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare(got[:], want) != 1 {
			return fmt.Errorf("%w: got %s, want %s", neterr.ErrPin, Of(cs.PeerCertificates[0]), pin)
		}
		return nil
	}
	return nil
}
