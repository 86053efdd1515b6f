package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrBadSignature says that a message that must be signed has no signature, one
// of an unknown key, or one that does not fit its bytes.
var ErrBadSignature = errors.New("signature is missing or does not verify")

// SigningInput is what a signature covers: a domain prefix that names protocol
// and message type, so that a signature of one type never serves another, then
// the payload's raw bytes.
func SigningInput(t Type, payload []byte) []byte {
	prefix := "gururmm/1/" + string(t) + "\n"
	out := make([]byte, 0, len(prefix)+len(payload))
	return append(append(out, prefix...), payload...)
}

// KeyID names a public key: the first 8 bytes of its SHA-256, in hex.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:8])
}

// Sign makes a signed envelope of payload.
func Sign(key ed25519.PrivateKey, t Type, payload any) (Envelope, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return Envelope{}, fmt.Errorf("encode %s: %w", t, err)
	}
	return Envelope{
		Type: t, Payload: raw,
		KeyID: KeyID(key.Public().(ed25519.PublicKey)),
		Sig:   ed25519.Sign(key, SigningInput(t, raw)),
	}, nil
}

// Keyring is the set of command keys an endpoint trusts, by [KeyID].
type Keyring map[string]ed25519.PublicKey

// NewKeyring indexes keys; one of a wrong length is an error.
func NewKeyring(keys ...ed25519.PublicKey) (Keyring, error) {
	ring := Keyring{}
	for _, k := range keys {
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("command key of %d bytes, want %d", len(k), ed25519.PublicKeySize)
		}
		ring[KeyID(k)] = k
	}
	return ring, nil
}

// Verify checks e against the ring; the error is [ErrBadSignature].
func (r Keyring) Verify(e Envelope) error {
	key, known := r[e.KeyID]
	if !known {
		return fmt.Errorf("%w: key %q is not trusted", ErrBadSignature, e.KeyID)
	}
	if !ed25519.Verify(key, SigningInput(e.Type, e.Payload), e.Sig) {
		return ErrBadSignature
	}
	return nil
}
