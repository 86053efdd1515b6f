package oob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"

	"gururmm/internal/neterr"
	"gururmm/wire"
)

// limitKey hands the dialer the request's limit.
type limitKey struct{}

// tooSlow says that a door was given up for its slowness.
type tooSlow struct{ after time.Duration }

func (e *tooSlow) Error() string {
	return fmt.Sprintf("no answer within %v", e.after.Round(100*time.Millisecond))
}
func (e *tooSlow) Timeout() bool { return true }

// progress watches over one exchange: it knows the step under way, and ends
// the exchange when the step's time is over. The transport calls its hooks from
// several goroutines, also after the exchange has ended.
type progress struct {
	cancel context.CancelCauseFunc
	clock  func() time.Time
	limit  time.Duration // from the start to the answer's first byte
	wait   time.Duration // of a poll, begins once the request is written

	mu        sync.Mutex
	timer     *time.Timer
	given     time.Duration
	ended     bool
	step      neterr.Step
	sent, got time.Time
}

func (p *progress) start() {
	p.timer = time.AfterFunc(p.limit, p.expire)
	p.given = p.limit
}

func (p *progress) expire() {
	p.mu.Lock()
	step, given, ended := p.step, p.given, p.ended
	p.mu.Unlock()
	if !ended {
		p.cancel(neterr.During(step, &tooSlow{given}))
	}
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.timer.Stop()
}

func (p *progress) at(step neterr.Step) {
	p.mu.Lock()
	p.step = step
	p.mu.Unlock()
}

func (p *progress) allow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.given = d
		p.timer.Reset(d)
	}
}

func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) {
			p.at(neterr.StepDial)
			if p.wait > 0 { // the transport tries again after a stale connection
				p.allow(p.limit)
			}
		},
		DNSStart:          func(httptrace.DNSStartInfo) { p.at(neterr.StepDNS) },
		ConnectStart:      func(string, string) { p.at(neterr.StepDial) },
		TLSHandshakeStart: func() { p.at(neterr.StepTLS) },
		GotConn:           func(httptrace.GotConnInfo) { p.at(neterr.StepHTTP) },
		WroteRequest: func(httptrace.WroteRequestInfo) {
			p.mu.Lock()
			p.sent = p.clock()
			p.mu.Unlock()
			if p.wait > 0 {
				p.allow(p.wait + pollMargin)
			}
		},
		GotFirstResponseByte: func() {
			p.mu.Lock()
			p.got = p.clock()
			p.mu.Unlock()
		},
	}
}

// exchange makes one request at one door; the error is a *[DoorError], unless
// no request could be made at all.
func (c *Client) exchange(ctx context.Context, d *door, r request, limit time.Duration, answer any) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit += time.Duration(len(r.body)) * time.Second / uplink
	p := &progress{cancel: cancel, clock: c.clock, limit: limit, wait: r.wait}
	ctx = context.WithValue(ctx, limitKey{}, limit)
	req, err := c.newRequest(httptrace.WithClientTrace(ctx, p.trace()), d, r)
	if err != nil {
		return err
	}
	// All calls may be repeated (the server knows report and message ids, and where a part belongs), so the
	// transport may itself retry on a connection that turns out to be stale. The
	// empty value is not sent.
	req.Header["Idempotency-Key"] = nil
	p.start()
	defer p.end()

	resp, err := d.http.Do(req)
	if err != nil {
		return p.failed(ctx, d, err, 0)
	}
	defer resp.Body.Close()
	p.allow(bodyStall)
	whole := time.AfterFunc(bodyLimit, func() { cancel(neterr.During(neterr.StepHTTP, &tooSlow{bodyLimit})) })
	defer whole.Stop()
	raw, err := io.ReadAll(io.LimitReader(&steady{resp.Body, p, bodyStall}, maxResponse+1))
	if err != nil {
		return p.failed(ctx, d, err, resp.StatusCode)
	}
	if len(raw) > maxResponse {
		return p.failed(ctx, d, fmt.Errorf("answer: %w", ErrTooLarge), resp.StatusCode)
	}
	problem := problemOf(resp, raw)
	c.readClock(resp, p, problem)
	if resp.StatusCode/100 != 2 {
		return c.refused(d, resp, problem, r.method != http.MethodPut)
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return p.failed(ctx, d, fmt.Errorf("answer can't be understood: %w", err), resp.StatusCode)
	}
	return nil
}

// steady gives each part of a body new time to come.
type steady struct {
	r     io.Reader
	p     *progress
	stall time.Duration
}

func (s *steady) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if n > 0 {
		s.p.allow(s.stall)
	}
	return n, err
}

// failed makes a DoorError of err. The cause of the cancelled context says more
// than "context canceled".
func (p *progress) failed(ctx context.Context, d *door, err error, status int) error {
	p.mu.Lock()
	step := p.step
	p.mu.Unlock()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	} else {
		err = neterr.During(step, err)
	}
	phase, typ := neterr.Classify(err)
	return &DoorError{Door: d.url, Phase: phase, Type: typ, Status: status, Err: err}
}

// problemOf gives the problem document of an error answer, if that is what it is.
func problemOf(resp *http.Response, raw []byte) *wire.Problem {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p wire.Problem
	if resp.StatusCode/100 == 2 || media != "application/problem+json" || json.Unmarshal(raw, &p) != nil || p.Code == "" {
		return nil
	}
	return &p
}

// refused makes an error of an answer that is not a success. Rests: a wait asked for
// is one for all requests; a bundle that must wait must not hold up beacons.
func (c *Client) refused(d *door, resp *http.Response, problem *wire.Problem, rests bool) error {
	e := &DoorError{
		Door: d.url, Phase: neterr.PhaseApplication, Type: neterr.HTTPError, Status: resp.StatusCode,
		Err: fmt.Errorf("answer is %s", resp.Status),
	}
	if problem != nil {
		e.Err = *problem
	}
	if held, err := strconv.ParseInt(resp.Header.Get(wire.HeaderBundleHeld), 10, 64); err == nil && held >= 0 {
		e.held = &held
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		if problem == nil || problem.Code != wire.ProblemClock {
			e.Err = fmt.Errorf("%w: %w", ErrRejected, e.Err)
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), c.now())
		if e.RetryAfter > 0 && rests {
			if resp.StatusCode == http.StatusTooManyRequests {
				c.rest(nil, e.RetryAfter) // counted by agent, whatever the door
			} else {
				c.rest(d, e.RetryAfter)
			}
		}
	}
	return e
}

// retryAfter reads the header's two forms (RFC 9110 §10.2.3); 0 for neither.
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(s, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		return maxRetryAfter
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// Bounds of the error of a clock comparison: half of the time between the request's
// end and the answer's begin.
const (
	clockError = 2 * time.Second
	// A token refused for its times: nearly anything is better than what we have,
	// and the server's leeway is 30 s.
	clockErrorRefused = 20 * time.Second
)

// readClock compares clocks, if the answer came promptly: a held poll says
// nothing of when within it the server looked at its clock.
func (c *Client) readClock(resp *http.Response, p *progress, problem *wire.Problem) {
	server, err := time.Parse(time.RFC3339Nano, resp.Header.Get(wire.HeaderTime))
	if err != nil {
		return
	}
	bound := clockError
	if problem != nil && problem.Code == wire.ProblemClock {
		bound = clockErrorRefused
	}
	p.mu.Lock()
	sent, got := p.sent, p.got
	p.mu.Unlock()
	if !sent.IsZero() && !got.IsZero() {
		c.compare(server, sent, got, bound)
	}
}
