package oob

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// encodeReport gives r as gzipped JSON within [MaxReport] and [MaxReportRaw].
// What can be spared goes first: the oldest half of the frame headers, again and again,
// then of the steps. r itself is not changed.
func encodeReport(r Report) ([]byte, error) {
	for {
		body, err := pack(r)
		if err == nil || !errors.Is(err, ErrTooLarge) {
			return body, err
		}
		switch recent := r.Snapshot.Link.Recent; {
		case len(recent) > 0:
			r.Snapshot.Link.Recent = recent[(len(recent)+1)/2:]
		case len(r.Steps) > 0:
			r.Steps = r.Steps[(len(r.Steps)+1)/2:]
		default:
			return nil, err
		}
	}
}

func pack(r Report) ([]byte, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	if len(raw) > MaxReportRaw {
		return nil, fmt.Errorf("report of %d bytes: %w", len(raw), ErrTooLarge)
	}
	var out bounded
	// The fastest level: a report is small, and an endpoint's processor is not ours.
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	if _, err := z.Write(raw); err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	return out.Bytes(), nil
}

// bounded takes up to [MaxReport] bytes: what is too large is not compressed to its end.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxReport {
		return 0, fmt.Errorf("report compressed: %w", ErrTooLarge)
	}
	return b.Buffer.Write(p)
}

// DecodeReport reads a gzipped report of at most [MaxReport] bytes that unpacks
// to at most [MaxReportRaw]; both bounds are checked before anything is parsed.
func DecodeReport(body []byte) (Report, error) {
	var r Report
	if len(body) > MaxReport {
		return r, fmt.Errorf("report of %d bytes compressed: %w", len(body), ErrTooLarge)
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return r, fmt.Errorf("report: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, MaxReportRaw+1))
	if err != nil {
		return r, fmt.Errorf("report: %w", err)
	}
	if len(raw) > MaxReportRaw {
		return r, fmt.Errorf("report unpacked: %w", ErrTooLarge)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("report: %w", err)
	}
	return r, nil
}
