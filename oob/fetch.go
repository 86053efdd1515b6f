package oob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"gururmm/wire"
)

// BuildPath is where the program whose SHA-256 (hex) is sum is fetched.
func BuildPath(sum string) string { return "/v1/oob/builds/" + sum }

// fetchStall is how long a download may make no progress: more than an answer's
// body, since a box on the way may hold back a large file to look at it.
const fetchStall = 30 * time.Second

// ErrNoBuild: the server has no such program (any more).
var ErrNoBuild = errors.New("the server does not have this program")

// Fetch writes to w what follows offset of the program with SHA-256 sum and size
// bytes, and gives how many bytes those were: with the same sum and a
// later offset it goes on where an earlier call broke off. Each door is tried once, from
// where the one before it broke off. Ctx bounds it all: a slow path may take hours.
// What was fetched is checked by whoever uses it, not here. An error of w ends
// it at once, and [ErrNoBuild] too.
func (c *Client) Fetch(ctx context.Context, sum string, size, offset int64, w io.Writer) (int64, error) {
	order, seq, err := c.order()
	if err != nil {
		return 0, err
	}
	out := &sink{w: w}
	var failed allFailed
	for _, d := range order {
		before := out.n
		err := c.fetch(ctx, d, sum, size, offset+out.n, out)
		if p, ok := errors.AsType[wire.Problem](err); ok && p.Code == wire.ProblemClock && out.n == before {
			err = c.fetch(ctx, d, sum, size, offset+out.n, out)
		}
		switch {
		case err == nil:
			c.worked(d, seq)
			return out.n, nil
		case out.err != nil:
			return out.n, out.err
		case ctx.Err() != nil, final(err), errors.Is(err, ErrNoBuild):
			return out.n, err
		}
		c.log.Debug("download broke off", "door", d.url, "bytes", out.n-before, "error", err)
		failed = append(failed, err)
	}
	return out.n, failed
}

// sink counts what was written, and keeps the error of writing apart from those of the network.
type sink struct {
	w   io.Writer
	n   int64
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	if err != nil {
		s.err = fmt.Errorf("keep what was fetched: %w", err)
	}
	return n, err
}

// fetch makes one download at one door.
func (c *Client) fetch(ctx context.Context, d *door, sum string, size, offset int64, w io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &progress{cancel: cancel, clock: c.clock, limit: patientLimit}
	ctx = context.WithValue(ctx, limitKey{}, patientLimit)
	req, err := c.authorized(httptrace.WithClientTrace(ctx, p.trace()), http.MethodGet, d, BuildPath(sum), nil)
	if err != nil {
		return err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	p.start()
	defer p.end()
	resp, err := d.http.Do(req)
	if err != nil {
		return p.failed(ctx, d, err, 0)
	}
	defer resp.Body.Close()
	p.allow(fetchStall)
	body := &steady{r: resp.Body, p: p, stall: fetchStall}
	if resp.StatusCode/100 != 2 {
		raw, err := io.ReadAll(io.LimitReader(body, maxProblem))
		if err != nil {
			return p.failed(ctx, d, err, resp.StatusCode)
		}
		problem := problemOf(resp, raw)
		c.readClock(resp, p, problem)
		err = c.refused(d, resp, problem, true)
		if problem != nil && resp.StatusCode == http.StatusNotFound {
			err = fmt.Errorf("%w: %w", ErrNoBuild, err)
		}
		return err
	}
	if err := announced(resp, sum, size, offset); err != nil {
		return p.failed(ctx, d, err, resp.StatusCode)
	}
	if resp.StatusCode == http.StatusOK { // from the beginning, whatever was asked for
		if _, err := io.CopyN(io.Discard, body, offset); err != nil {
			return p.failed(ctx, d, err, resp.StatusCode)
		}
	}
	n, err := io.Copy(w, io.LimitReader(body, size-offset))
	if err == nil && n < size-offset {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return p.failed(ctx, d, err, resp.StatusCode)
	}
	return nil
}

// maxProblem bounds the body of a refusal, in bytes.
const maxProblem = 64 << 10

// announced checks that an answer is about the right program and the right part
// of it (RFC 9110 §14.4): bytes of another must not be put behind ours.
func announced(resp *http.Response, sum string, size, offset int64) error {
	if tag := strings.Trim(strings.TrimPrefix(resp.Header.Get("ETag"), "W/"), `"`); tag != sum {
		return fmt.Errorf("the answer is about another program: its ETag is %.80q", tag)
	}
	whole := size
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		whole = size - offset
		want := fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size)
		if got := resp.Header.Get("Content-Range"); got != want {
			return fmt.Errorf("the answer's range is %.80q, not %q", got, want)
		}
	default:
		return fmt.Errorf("answer is %s", resp.Status)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != whole {
		return fmt.Errorf("the answer has %s bytes, announced were %d", strconv.FormatInt(resp.ContentLength, 10), whole)
	}
	return nil
}
