package oob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/internal/endpoint"
	"gururmm/internal/fault"
	"gururmm/internal/neterr"
	"gururmm/internal/pin"
	"gururmm/wire"
)

const (
	// firstLimit is what a door gets to answer a request that does not wait, from
	// the dial on: the next door is tried within three seconds.
	firstLimit = 2500 * time.Millisecond
	// patientLimit is what it gets in the second round, when every door was too
	// slow for the first: a bad satellite or mobile path needs several round trips of seconds.
	patientLimit = 12 * time.Second
	// pollMargin is added to the wait of a poll: the server answers at its end, not before.
	pollMargin = 5 * time.Second
	// uplink is the slowest upload, in bytes a second, that bodies are given time for.
	uplink = 16 << 10
	// bodyStall is how long an answer's body may make no progress; bodyLimit how long
	// it may take in all, so that one byte at a time can't hold a poll for ever.
	bodyStall = 10 * time.Second
	bodyLimit = 2 * time.Minute
	// retryFirst: how long the first door is passed over after another one served better.
	retryFirst = 10 * time.Minute
	// maxRetryAfter bounds what a server may ask for: a typing error there must not
	// silence a fleet for a week.
	maxRetryAfter = time.Hour
	// idleLimit closes an unused connection before common NAT tables forget it.
	idleLimit = 20 * time.Second
)

// maxResponse bounds an answer's body, in bytes.
const maxResponse = 8 << 20

// ClientOptions of [NewClient].
type ClientOptions struct {
	Doors []wire.OOBDoor // in order of preference
	// Token makes a fresh JWT for one request; now is corrected to the server's clock.
	Token func(now time.Time) (string, error)
	// Dial is a seam; nil: a dialer and resolver of the client's own.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxy as in http.Transport; nil: direct.
	Proxy func(*http.Request) (*url.URL, error)
	// RootCAs for doors without a pin; nil: the system's.
	RootCAs *x509.CertPool
	// Probe marks each request as a look at the way: the server answers it, hands
	// nothing out and takes nothing in; see wire.HeaderProbe.
	Probe bool
	Log   *slog.Logger     // nil: none
	Clock func() time.Time // nil: time.Now
}

// Client speaks to the doors, one at a time: the last that worked first. It is
// safe for concurrent use.
type Client struct {
	token func(time.Time) (string, error)
	probe bool
	log   *slog.Logger
	clock func() time.Time
	opts  ClientOptions

	mu         sync.Mutex // never held across I/O
	doors      []*door
	seq        uint64    // of requests begun
	good       *door     // that worked last; nil, or not among doors: the first
	goodSeq    uint64    // request that found it
	firstTried time.Time // when door 0 was last tried
	offset     time.Duration
	compared   bool // offset is known
}

type door struct {
	wire.OOBDoor
	url    string // without a trailing slash
	http   *http.Client
	resume time.Time // not to be asked before (guarded by Client.mu)
}

// CheckDoors refuses a door that is not https://host:port (or http to loopback)
// or whose pin has no valid form.
func CheckDoors(doors []wire.OOBDoor) error {
	for _, d := range doors {
		if err := endpoint.Check(d.URL, "https", "http"); err != nil {
			return err
		}
		if u, err := url.Parse(d.URL); err != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
			return fmt.Errorf("%q must be https://host:port, without a path", d.URL)
		}
		if d.Pin != "" {
			if err := pin.Check(d.Pin); err != nil {
				return err
			}
		}
	}
	return nil
}

// NewClient checks the doors. Without any, all calls fail with [ErrNoDoors].
func NewClient(o ClientOptions) (*Client, error) {
	if o.Token == nil {
		return nil, errors.New("oob: no source of tokens")
	}
	if err := CheckDoors(o.Doors); err != nil {
		return nil, fmt.Errorf("oob: %w", err)
	}
	c := &Client{token: o.Token, probe: o.Probe, log: o.Log, clock: o.Clock, opts: o}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.clock == nil {
		c.clock = fault.Now
	}
	if err := c.SetDoors(o.Doors); err != nil {
		return nil, err
	}
	return c, nil
}

// SetDoors replaces the doors, in order of preference; requests under way go on with
// those that they began with. On an error nothing has changed.
func (c *Client) SetDoors(doors []wire.OOBDoor) error {
	if err := CheckDoors(doors); err != nil {
		return fmt.Errorf("oob: %w", err)
	}
	c.mu.Lock()
	old := c.doors
	c.mu.Unlock()
	var all []*door
	for _, d := range doors {
		i := slices.IndexFunc(old, func(known *door) bool { return known.OOBDoor == d })
		if i >= 0 {
			all = append(all, old[i])
			continue
		}
		dr, err := c.newDoor(d, c.opts)
		if err != nil {
			return fmt.Errorf("oob: %w", err)
		}
		all = append(all, dr)
	}
	c.mu.Lock()
	c.doors = all
	c.mu.Unlock()
	for _, d := range old {
		if !slices.Contains(all, d) {
			d.http.CloseIdleConnections()
		}
	}
	return nil
}

// newDoor gives each door resolver, dialer, transport and connection pool of
// its own: what wedges one of them leaves the next door alone.
func (c *Client) newDoor(d wire.OOBDoor, o ClientOptions) (*door, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs, Time: c.now}
	if d.Pin != "" {
		cfg.RootCAs = nil // the pin alone decides
		if err := pin.Require(cfg, d.Pin); err != nil {
			return nil, err
		}
	}
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{Resolver: &net.Resolver{}}).DialContext
	}
	transport := &http.Transport{
		Proxy: o.Proxy,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			// With a deadline the dialer shares the time out among a name's addresses.
			limit, ok := ctx.Value(limitKey{}).(time.Duration)
			if !ok {
				limit = patientLimit
			}
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			return dial(ctx, network, addr)
		},
		TLSClientConfig:        cfg, // without ForceAttemptHTTP2 this means HTTP/1.1 only
		TLSHandshakeTimeout:    patientLimit,
		IdleConnTimeout:        idleLimit,
		MaxIdleConnsPerHost:    2, // one poll, one beacon
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // the bound is on bytes received
	}
	return &door{
		OOBDoor: d, url: strings.TrimSuffix(d.URL, "/"),
		http: &http.Client{
			Transport: transport,
			// The token must not follow a redirect.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close gives up idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	doors := c.doors
	c.mu.Unlock()
	for _, d := range doors {
		d.http.CloseIdleConnections()
	}
}

// Offset is the server's clock minus ours; ok is false while they were never compared.
func (c *Client) Offset() (offset time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset, c.compared
}

// now is the server's clock as far as it is known.
func (c *Client) now() time.Time {
	offset, _ := c.Offset()
	return c.clock().Add(offset)
}

// Door is the URL of the door that worked last, or of the first; "" without any.
func (c *Client) Door() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.doors) == 0 {
		return ""
	}
	return c.last().url
}

// last is the door that worked last, or the first. There is one; c.mu is held.
func (c *Client) last() *door {
	if slices.Contains(c.doors, c.good) {
		return c.good
	}
	return c.doors[0]
}

// Beacon sends r, gzipped, at most [MaxReport] bytes: what does not fit is cut
// off the frame headers first, then off the steps, the oldest of each.
func (c *Client) Beacon(ctx context.Context, r Report) (wire.PollResponse, error) {
	body, err := encodeReport(r)
	if err != nil {
		return wire.PollResponse{}, err
	}
	var answer wire.PollResponse
	err = c.do(ctx, request{path: "/v1/oob/beacon", body: body, gzip: true}, &answer)
	return answer, err
}

// Poll asks for directives and, if p says so, commands, and hands in what is
// due upstream. It takes up to p.WaitMS and a margin.
func (c *Client) Poll(ctx context.Context, p wire.PollRequest) (wire.PollResponse, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return wire.PollResponse{}, fmt.Errorf("encode poll: %w", err)
	}
	wait := max(0, time.Duration(p.WaitMS)*time.Millisecond)
	var answer wire.PollResponse
	err = c.do(ctx, request{path: "/v1/oob/poll", body: body, wait: wait}, &answer)
	return answer, err
}

// request is one call, to be tried at several doors.
type request struct {
	method string // "": POST
	path   string
	body   []byte
	header http.Header // nil: that of JSON
	gzip   bool
	wait   time.Duration // the server may hold the answer so long
}

// do tries the doors in order. Doors that were only too slow get a second,
// patient round. An answer that says the request itself is at fault, that the
// identity is not accepted, or that this agent asks too often, ends it: any other door leads to
// the same server. The answer, JSON, goes into answer.
func (c *Client) do(ctx context.Context, r request, answer any) error {
	order, seq, err := c.order()
	if err != nil {
		return err
	}
	var failed allFailed
	for _, limit := range []time.Duration{firstLimit, patientLimit} {
		var slow []*door
		for _, d := range order {
			err := c.try(ctx, d, r, limit, answer)
			if err == nil {
				c.worked(d, seq)
				return nil
			}
			if ctx.Err() != nil { // the caller gave up; err says at which step
				return err
			}
			c.log.Debug("out-of-band request failed", "door", d.url, "path", r.path, "error", err)
			if final(err) {
				return err
			}
			failed = append(failed, err)
			if slowness(err) {
				slow = append(slow, d)
			}
		}
		order = slow
	}
	return failed
}

// final tells whether another door could do no better.
func final(err error) bool {
	e, ok := errors.AsType[*DoorError](err)
	if !ok {
		return true // it failed before any door: no token, say
	}
	if e.Status == http.StatusTooManyRequests {
		return true
	}
	// Only a problem document is the server's own word; anything else may come
	// from a box before it.
	p, ok := errors.AsType[wire.Problem](err)
	if !ok {
		return false
	}
	switch e.Status {
	case http.StatusUnauthorized:
		return p.Code != wire.ProblemClock
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusConflict, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// slowness tells whether more time might have helped.
func slowness(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// try asks one door; a token refused for its times is made again at once with
// the corrected clock.
func (c *Client) try(ctx context.Context, d *door, r request, limit time.Duration, answer any) error {
	err := c.exchange(ctx, d, r, limit, answer)
	if p, ok := errors.AsType[wire.Problem](err); ok && p.Code == wire.ProblemClock {
		if offset, known := c.Offset(); known {
			c.log.Info("clock corrected by the server's", "offset", offset)
			err = c.exchange(ctx, d, r, limit, answer)
		}
	}
	return err
}

// order lists the doors to try, and numbers the request.
func (c *Client) order() (order []*door, seq uint64, err error) {
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.doors) == 0 {
		return nil, 0, ErrNoDoors
	}
	c.seq++
	first, begin := c.doors[0], c.last()
	if begin != first && now.Sub(c.firstTried) >= retryFirst {
		begin = first
	}
	candidates := []*door{begin}
	for _, d := range c.doors {
		if d != begin {
			candidates = append(candidates, d)
		}
	}
	least := first
	for _, d := range candidates {
		if d.resume.After(now) {
			if d.resume.Before(least.resume) || !least.resume.After(now) {
				least = d
			}
			continue
		}
		order = append(order, d)
		if d == first {
			c.firstTried = now
		}
	}
	if len(order) == 0 {
		d := least
		phase, typ := neterr.PhaseApplication, neterr.HTTPError
		wait := d.resume.Sub(now)
		return nil, 0, &DoorError{Door: d.url, Phase: phase, Type: typ, RetryAfter: wait,
			Err: fmt.Errorf("%w %v more", ErrResting, wait.Round(time.Second))}
	}
	return order, c.seq, nil
}

// worked remembers d, unless a request begun later has found another: a
// long poll that ends now began when the world was older.
func (c *Client) worked(d *door, seq uint64) {
	c.mu.Lock()
	changed := false
	if seq > c.goodSeq && slices.Contains(c.doors, d) {
		changed = c.last() != d
		c.good, c.goodSeq = d, seq
	}
	c.mu.Unlock()
	if changed {
		c.log.Info("out-of-band door changed", "door", d.url)
	}
}

// rest leaves d, or all doors if d is nil, alone for wait.
func (c *Client) rest(d *door, wait time.Duration) {
	until := c.clock().Add(wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, each := range c.doors {
		if d == nil || d == each {
			each.resume = until
		}
	}
}

// compare takes in the server's clock as read between sent and got; bound is
// the error that is worth it.
func (c *Client) compare(server, sent, got time.Time, bound time.Duration) {
	half := got.Sub(sent) / 2
	if half < 0 || half > bound {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset, c.compared = server.Sub(sent.Add(half)), true
}

// authorized makes a request with a token of its own.
func (c *Client) authorized(ctx context.Context, method string, d *door, path string, body io.Reader) (*http.Request, error) {
	token, err := c.token(c.now())
	if err != nil {
		return nil, fmt.Errorf("oob token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.url+path, body)
	if err != nil {
		return nil, fmt.Errorf("oob request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return req, nil
}

func (c *Client) newRequest(ctx context.Context, d *door, r request) (*http.Request, error) {
	req, err := c.authorized(ctx, cmp.Or(r.method, http.MethodPost), d, r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	maps.Copy(req.Header, r.header)
	if r.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	if c.probe {
		req.Header.Set(wire.HeaderProbe, "1")
	}
	return req, nil
}
