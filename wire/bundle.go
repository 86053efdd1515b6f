package wire

// BundleState answers each part of a support bundle that the server took
// (PUT /v1/oob/bundle/{id}), and the question how much it holds.
type BundleState struct {
	ID string `json:"id"`
	// Held counts the bytes that are durably there, from the first on without a
	// gap: the next part begins at it.
	Held  int64 `json:"held"`
	Total int64 `json:"total"` // of the whole bundle, in bytes
	// Complete: all bytes are there and their hash is the one announced. Nothing
	// more need be sent.
	Complete bool `json:"complete"`
}

const (
	// MaxBundle bounds a bundle in bytes.
	MaxBundle = 16 << 20
	// BundlePart bounds the body of one request with a part of a bundle, in bytes:
	// it gets through within a request's time at 18 kB/s.
	BundlePart = 512 << 10
	// MaxBundleReason bounds HeaderBundleReason in bytes.
	MaxBundleReason = 200
)

// Headers of a bundle's upload. The part itself is told by Content-Range, "bytes
// FROM-TO/TOTAL" with TO included (RFC 9110 §14.4); "bytes */TOTAL" with an empty
// body asks how much is held.
const (
	// HeaderBundle is the SHA-256 of the whole bundle, in lower-case hex. Each
	// request has it.
	HeaderBundle = "Gururmm-Bundle"
	// HeaderBundleHeld is in the server's answer: how many bytes from the first on it
	// holds. With 409 it tells where to go on.
	HeaderBundleHeld = "Gururmm-Bundle-Held"
	// HeaderBundleReason says what the bundle was made for: printable ASCII, at most
	// MaxBundleReason bytes.
	HeaderBundleReason = "Gururmm-Bundle-Reason"
	// HeaderBundleMade is when the bundle was made, by the endpoint's clock (RFC 3339).
	HeaderBundleMade = "Gururmm-Bundle-Made"
)
