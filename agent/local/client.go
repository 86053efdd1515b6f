package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"gururmm/wire"
)

// ErrNotRunning says that nobody answers at the status socket.
var ErrNotRunning = errors.New("the agent is not running")

// ErrSilent says that a guardian is there, and does not answer in its time.
var ErrSilent = errors.New("the guardian does not answer")

// maxStatus bounds an answer, in bytes, before it is parsed.
const maxStatus = 8 << 20

// clientWait bounds one question; the guardian answers in milliseconds, frames in two seconds.
const clientWait = 8 * time.Second

// Client asks a running guardian over its socket. It keeps no connection.
type Client struct {
	path string
	http http.Client
}

// NewClient asks at path; see [SocketPath].
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http = http.Client{Timeout: clientWait, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialStatus(ctx, path) },
	}}
	return c
}

// Status asks for the state of this moment.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, "/status") }

// Frames asks for the headers of the last frames.
func (c *Client) Frames(ctx context.Context) (Frames, error) { return get[Frames](ctx, c, "/frames") }

// Stacks asks for the stacks of both processes; root and the agent's account may.
func (c *Client) Stacks(ctx context.Context) (Stacks, error) { return get[Stacks](ctx, c, "/stacks") }

// Traces asks for runtime traces of both processes, of d, at most [pipe.MaxTraceMS].
func (c *Client) Traces(ctx context.Context, d time.Duration) (Traces, error) {
	return get[Traces](ctx, c, fmt.Sprintf("/trace?ms=%d", d.Milliseconds()))
}

// Reconnect orders a new link; root and the agent's account may.
func (c *Client) Reconnect(ctx context.Context, r ReconnectRequest) (Acted, error) {
	return post[Acted](ctx, c, "/reconnect", r)
}

// Beacon orders a report by the second door; root and the agent's account may.
func (c *Client) Beacon(ctx context.Context) (Acted, error) {
	return post[Acted](ctx, c, "/beacon", struct{}{})
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return exchange[T](ctx, c, http.MethodGet, path, nil)
}

// post gives an order.
func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		var none T
		return none, err
	}
	return exchange[T](ctx, c, http.MethodPost, path, bytes.NewReader(raw))
}

// late reports whether err is the client's own time that is over, not ctx's.
func late(ctx context.Context, err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() && ctx.Err() == nil
}

func exchange[T any](ctx context.Context, c *Client, method, path string, ask io.Reader) (T, error) {
	var v T
	req, err := http.NewRequestWithContext(ctx, method, "http://guardian"+path, ask)
	if err != nil {
		return v, err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return v, fmt.Errorf("this account may not ask at %s; root may, and the group %s (%w)", c.path, StatusGroup, os.ErrPermission)
	case err != nil && notListening(err):
		return v, fmt.Errorf("%w: nobody answers at %s", ErrNotRunning, c.path)
	case late(ctx, err):
		return v, fmt.Errorf("%w within %v at %s (gururmm-agent status says more)", ErrSilent, clientWait, c.path)
	case err != nil:
		return v, fmt.Errorf("ask at %s: %w", c.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if late(ctx, err) {
		return v, fmt.Errorf("%w within %v at %s (gururmm-agent status says more)", ErrSilent, clientWait, c.path)
	}
	if err != nil {
		return v, fmt.Errorf("ask at %s: %w", c.path, err)
	}
	if resp.StatusCode == http.StatusGatewayTimeout {
		return v, fmt.Errorf("%w: its loop hangs, asked at %s (gururmm-agent status says more)", ErrSilent, c.path)
	}
	if resp.StatusCode != http.StatusOK {
		var p wire.Problem
		if json.Unmarshal(body, &p) == nil && p.Title != "" {
			return v, p
		}
		return v, fmt.Errorf("ask at %s: HTTP status %d", c.path, resp.StatusCode)
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("answer from %s: %w", c.path, err)
	}
	return v, nil
}
