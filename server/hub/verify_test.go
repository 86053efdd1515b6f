package hub

import (
	"crypto/ed25519"
	"testing"

	"gururmm/wire"
)

// A probe's frame has the size that it is to try, the first one and each after it.
func TestProbesHaveTheirSize(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed := 0
	h := New(Options{Sign: func(t wire.Type, payload any) (wire.Envelope, error) {
		signed++
		return wire.Sign(key, t, payload)
	}})
	defer h.stop()
	const rounds = 50 // a time's digits differ
	for range rounds {
		l := &link{hub: h, agent: wire.NewID()}
		for _, size := range wire.ProbeSizes {
			id, pad, env, err := l.probe(size)
			if err != nil {
				t.Fatal(err)
			}
			env.Seq = 1
			raw, err := env.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if pad != "" && len(raw) != size || pad == "" && len(raw) <= size-len(`,"pad":"x"`) || id == "" {
				t.Errorf("a probe of %d bytes, want %d", len(raw), size)
			}
		}
	}
	if want := rounds*len(wire.ProbeSizes) + 1; signed != want {
		t.Errorf("%d were signed, want %d", signed, want)
	}
}
