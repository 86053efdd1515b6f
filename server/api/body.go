package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"gururmm/oob"
	"gururmm/wire"
)

// Bounds of bodies, in bytes.
const (
	maxEnroll   = 64 << 10
	maxPoll     = 8 << 20
	maxOperator = 1 << 20
)

// bound says how large a body may be as it comes, and unpacked.
type bound struct{ packed, raw int64 }

var (
	enrollBound   = bound{maxEnroll, maxEnroll}
	operatorBound = bound{maxOperator, maxOperator}
	pollBound     = bound{maxPoll, maxPoll}
	beaconBound   = bound{oob.MaxReport, oob.MaxReportRaw}
)

// read takes the whole body in, unpacked if it is gzip; the error is a problem.
func read(w http.ResponseWriter, r *http.Request, b bound) ([]byte, error) {
	switch enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc {
	case "", "identity", "gzip":
	default:
		return nil, problem(http.StatusUnsupportedMediaType, wire.ProblemBadRequest, "only gzip or no content encoding is read here")
	}
	if r.ContentLength > b.packed {
		return nil, tooLarge(b.packed, "")
	}
	body := bufio.NewReader(http.MaxBytesReader(w, r.Body, b.packed))
	magic, err := body.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, bodyError(err, b)
	}
	var src io.Reader = body
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) { // RFC 1952 §2.3.1; no JSON begins so
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, bodyError(err, b)
		}
		src = z
	}
	raw, err := io.ReadAll(io.LimitReader(src, b.raw+1))
	if err != nil {
		return nil, bodyError(err, b)
	}
	if int64(len(raw)) > b.raw {
		return nil, tooLarge(b.raw, " unpacked")
	}
	// The body is here: from now on only the answer may time out.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // see front
	return raw, nil
}

func tooLarge(limit int64, how string) error {
	return problem(http.StatusRequestEntityTooLarge, wire.ProblemTooLarge, fmt.Sprintf("the body may have %d bytes%s", limit, how))
}

func bodyError(err error, b bound) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(b.packed, "")
	}
	return problem(http.StatusBadRequest, wire.ProblemBadRequest, "the body can't be read: "+err.Error())
}

// decode reads a body of an endpoint: unknown fields are left alone, a newer one may send some.
func decode[T any](w http.ResponseWriter, r *http.Request, b bound) (v T, raw []byte, err error) {
	if raw, err = read(w, r, b); err != nil {
		return v, nil, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, nil, problem(http.StatusBadRequest, wire.ProblemBadRequest, "the body is not the JSON expected: "+err.Error())
	}
	return v, raw, nil
}

// decodeStrict reads a body of an operator: a field that is not known is a
// mistake, and is named. No body at all is the zero value.
func decodeStrict[T any](w http.ResponseWriter, r *http.Request) (v T, err error) {
	raw, err := read(w, r, operatorBound)
	if err != nil || len(bytes.TrimSpace(raw)) == 0 {
		return v, err
	}
	if !utf8.Valid(raw) { // RFC 8259 §8.1; the decoder would put other characters in a script
		return v, problem(http.StatusBadRequest, wire.ProblemBadRequest, "the body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err = dec.Decode(&v)
	if err == nil && dec.More() {
		err = errors.New("more than one JSON value")
	}
	if err != nil {
		return v, problem(http.StatusBadRequest, wire.ProblemBadRequest, "the body is not as expected: "+strings.TrimPrefix(err.Error(), "json: "))
	}
	return v, nil
}
