package operator

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gururmm/internal/endpoint"
	"gururmm/internal/fileerr"
	"gururmm/internal/pin"
	"gururmm/wire"
)

const (
	// callTimeout bounds one request and its answer; following a command has no bound of its own.
	callTimeout = 30 * time.Second
	// maxAnswer bounds one answer's body in bytes.
	maxAnswer = 64 << 20
	// maxEventLine bounds one line of an event stream: a chunk of output in base64 and its frame.
	maxEventLine = 4 << 20
	// eventSilence: the server sends something at least every 15 s; after so long it is gone.
	eventSilence = 45 * time.Second
)

// Client asks a server as an operator. Errors of the server are [wire.Problem].
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New makes a client of the server at base ("https://host:8443") with an
// operator token; tlsConf nil means system roots. Plain HTTP is refused but for
// loopback: the token would cross the network readable.
func New(base, token string, tlsConf *tls.Config) (*Client, error) {
	if err := endpoint.Check(base, "https", "http"); err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig = tlsConf.Clone() // a transport writes to it, and it may be several clients'
	return &Client{base: u, token: token, http: &http.Client{Transport: tr}}, nil
}

// SetDial makes the client dial its server by dial: a network of a test's own.
func (c *Client) SetDial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	c.http.Transport.(*http.Transport).DialContext = dial
}

// Close ends the connections that are kept for the next request.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// TLSConfig trusts a server by its pin (see package pin), else by the PEM
// bundle in caFile, else by the system's roots (nil).
func TLSConfig(caFile, pinned string) (*tls.Config, error) {
	if pinned != "" {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12}
		return cfg, pin.Require(cfg, pinned)
	}
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", fileerr.Why(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s has no PEM certificate", caFile)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	for {
		res, err := c.once(ctx, method, u, raw)
		wait, again := tooFast(err)
		if !again {
			return res, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// refusal is what the server answered, and when it wants to be asked again; 0: it did not say.
type refusal struct {
	wire.Problem
	after time.Duration
}

func (r refusal) Unwrap() error { return r.Problem }

// tooFast tells whether the server only wants to be asked more slowly: nothing was done.
func tooFast(err error) (wait time.Duration, ok bool) {
	r, ok := errors.AsType[refusal](err)
	return r.after, ok && r.Code == wire.ProblemTooFast && r.after > 0
}

func (c *Client) once(ctx context.Context, method string, u url.URL, body []byte) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 400 {
		defer res.Body.Close()
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After")) // 0: none that can be read
		return nil, refusal{asProblem(res), min(time.Duration(max(0, seconds))*time.Second, callTimeout)}
	}
	return res, nil
}

func problem(res *http.Response) error { return asProblem(res) }

func asProblem(res *http.Response) wire.Problem {
	raw, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	var p wire.Problem
	if json.Unmarshal(raw, &p) != nil || p.Title == "" {
		return wire.Problem{Title: "the server answered " + res.Status, Status: res.StatusCode, Code: "http"}
	}
	return p
}

func call[T any](c *Client, ctx context.Context, method, path string, query url.Values, body any) (T, error) {
	var out T
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&out); err != nil {
		return out, fmt.Errorf("answer of %s %s: %w", method, path, err)
	}
	return out, nil
}

// List is the shape of every listing.
type List[T any] struct {
	Items []T `json:"items"`
}

func list[T any](c *Client, ctx context.Context, path string, query url.Values) ([]T, error) {
	l, err := call[List[T]](c, ctx, http.MethodGet, path, query, nil)
	return l.Items, err
}

func agentPath(agent, rest string) string { return "/v1/agents/" + url.PathEscape(agent) + rest }
func commandPath(id, rest string) string  { return "/v1/commands/" + url.PathEscape(id) + rest }

// Agents lists all endpoints.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	return list[Agent](c, ctx, "/v1/agents", nil)
}

// Agent gives one endpoint by name, id, or an id's unique beginning, as do all that take one.
func (c *Client) Agent(ctx context.Context, agent string) (Agent, error) {
	return call[Agent](c, ctx, http.MethodGet, agentPath(agent, ""), nil, nil)
}

// NotUTF8Error refuses words that JSON can't carry as they are: the encoder
// would silently put other bytes in their place, and those would run.
type NotUTF8Error struct {
	What   string // script or idempotency key
	Offset int    // of the first bad byte
}

func (e *NotUTF8Error) Error() string {
	return fmt.Sprintf("the %s is not UTF-8 text (byte %d); nothing was sent", e.What, e.Offset)
}

func checkUTF8(what, s string) error {
	for i, r := range s {
		if r != utf8.RuneError {
			continue
		}
		if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 { // not the character itself
			return &NotUTF8Error{What: what, Offset: i}
		}
	}
	return nil
}

// Submit orders a command of an endpoint, given by id or name. Words that are
// not UTF-8 are a [NotUTF8Error], and nothing is sent.
func (c *Client) Submit(ctx context.Context, agent string, n NewCommand) (Command, error) {
	if err := checkUTF8("script", n.Script); err != nil {
		return Command{}, err
	}
	if err := checkUTF8("idempotency key", n.IdempotencyKey); err != nil {
		return Command{}, err
	}
	return call[Command](c, ctx, http.MethodPost, agentPath(agent, "/commands"), nil, n)
}

// Direct orders something of an endpoint's guardian; [Client.Directive] tells what became of it.
func (c *Client) Direct(ctx context.Context, agent string, n NewDirective) (Directive, error) {
	return call[Directive](c, ctx, http.MethodPost, agentPath(agent, "/directives"), nil, n)
}

// Directives lists those of one agent, the newest first, without their reports.
func (c *Client) Directives(ctx context.Context, agent string, limit int) ([]Directive, error) {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return list[Directive](c, ctx, agentPath(agent, "/directives"), q)
}

// Directive gives one directive by id, or an id's unique beginning.
func (c *Client) Directive(ctx context.Context, id string) (Directive, error) {
	return call[Directive](c, ctx, http.MethodGet, "/v1/directives/"+url.PathEscape(id), nil, nil)
}

// Builds lists the published programs, the newest version first.
func (c *Client) Builds(ctx context.Context) ([]Build, error) {
	return list[Build](c, ctx, "/v1/builds", nil)
}

// Publish uploads the program that b describes (Size, SHA256, Signature); its size
// sets how long that takes, so only ctx bounds it. To publish the same again
// changes nothing.
func (c *Client) Publish(ctx context.Context, b wire.Build, program io.Reader) error {
	u := *c.base
	u.Path += "/v1/builds/" + url.PathEscape(b.SHA256)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.String(), program)
	if err != nil {
		return err
	}
	req.ContentLength = b.Size
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // what is refused is not sent
	req.Header.Set(HeaderSignature, base64.StdEncoding.EncodeToString([]byte(b.Signature)))
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 {
		return problem(res)
	}
	return nil
}

// RemoveBuilds forgets all programs of a version.
func (c *Client) RemoveBuilds(ctx context.Context, version string) ([]Build, error) {
	l, err := call[List[Build]](c, ctx, http.MethodDelete, "/v1/builds/"+url.PathEscape(version), nil, nil)
	return l.Items, err
}

func rolloutPath(id, rest string) string { return "/v1/rollouts/" + url.PathEscape(id) + rest }

// Roll begins a rollout, or previews it.
func (c *Client) Roll(ctx context.Context, n NewRollout) (Rollout, error) {
	return call[Rollout](c, ctx, http.MethodPost, "/v1/rollouts", nil, n)
}

// Rollouts lists them without rings and failures, the newest first.
func (c *Client) Rollouts(ctx context.Context) ([]Rollout, error) {
	return list[Rollout](c, ctx, "/v1/rollouts", nil)
}

// Rollout gives one by id, or an id's unique beginning, as do all that take one.
func (c *Client) Rollout(ctx context.Context, id string) (Rollout, error) {
	return call[Rollout](c, ctx, http.MethodGet, rolloutPath(id, ""), nil, nil)
}

// StopRollout ends what a rollout would still order.
func (c *Client) StopRollout(ctx context.Context, id string) (Rollout, error) {
	return call[Rollout](c, ctx, http.MethodPost, rolloutPath(id, "/stop"), nil, nil)
}

// ResumeRollout lets a stopped rollout go on.
func (c *Client) ResumeRollout(ctx context.Context, id string, r ResumeRollout) (Rollout, error) {
	return call[Rollout](c, ctx, http.MethodPost, rolloutPath(id, "/resume"), nil, r)
}

// Filter narrows a listing of commands; zero fields don't.
type Filter struct {
	Agent string
	State wire.State
	Limit int
}

// Commands lists commands, the newest first.
func (c *Client) Commands(ctx context.Context, f Filter) ([]Command, error) {
	q := url.Values{}
	if f.Agent != "" {
		q.Set("agent", f.Agent)
	}
	if f.State != "" {
		q.Set("state", string(f.State))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return list[Command](c, ctx, "/v1/commands", q)
}

// Command gives one command by id, or an id's unique beginning, as do all that take one.
func (c *Client) Command(ctx context.Context, id string) (Command, error) {
	return call[Command](c, ctx, http.MethodGet, commandPath(id, ""), nil, nil)
}

// Cancel asks to stop a command.
func (c *Client) Cancel(ctx context.Context, id string) (Command, error) {
	return call[Command](c, ctx, http.MethodPost, commandPath(id, "/cancel"), nil, nil)
}

// Trace gives a command's way, stage by stage.
func (c *Client) Trace(ctx context.Context, id string) (Trace, error) {
	return call[Trace](c, ctx, http.MethodGet, commandPath(id, "/trace"), nil, nil)
}

// Traces lists the ways of an agent's commands that were given so long back by the server's
// clock (0: whenever), the newest first, limit as in a listing of commands. Of each script there is
// the beginning.
func (c *Client) Traces(ctx context.Context, agent string, within time.Duration, limit int) ([]Trace, error) {
	q := url.Values{}
	if within > 0 {
		q.Set("within_ms", strconv.FormatInt(within.Milliseconds(), 10))
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return list[Trace](c, ctx, agentPath(agent, "/traces"), q)
}

// Output gives one stream of a command as far as it is held.
func (c *Client) Output(ctx context.Context, id string, s wire.Stream) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := c.request(ctx, http.MethodGet, commandPath(id, "/output/"+string(s)), nil, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, maxAnswer))
}

// Beacons lists the recorded beacons of one agent, or of all (""), newest first.
func (c *Client) Beacons(ctx context.Context, agent string, limit int) ([]Beacon, error) {
	q := url.Values{}
	if agent != "" {
		q.Set("agent", agent)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return list[Beacon](c, ctx, "/v1/beacons", q)
}

// EnrollTokens lists enrollment tokens, without their secrets.
func (c *Client) EnrollTokens(ctx context.Context) ([]EnrollToken, error) {
	return list[EnrollToken](c, ctx, "/v1/enroll-tokens", nil)
}

// CreateEnrollToken makes one; the answer alone holds its secret.
func (c *Client) CreateEnrollToken(ctx context.Context, n NewEnrollToken) (EnrollToken, error) {
	return call[EnrollToken](c, ctx, http.MethodPost, "/v1/enroll-tokens", nil, n)
}

// RevokeEnrollToken makes a token useless.
func (c *Client) RevokeEnrollToken(ctx context.Context, id string) error {
	_, err := call[struct{}](c, ctx, http.MethodDelete, "/v1/enroll-tokens/"+url.PathEscape(id), nil, nil)
	return err
}

// whileHeard gives a context that ends, with that as its cause, once the server was not heard
// for [eventSilence].
func whileHeard(ctx context.Context) (watched context.Context, heard, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	gone := time.AfterFunc(eventSilence, func() {
		cancel(fmt.Errorf("the server sent nothing for %v", eventSilence))
	})
	return ctx, func() { gone.Reset(eventSilence) }, func() {
		gone.Stop()
		cancel(nil)
	}
}

// Follow calls each with what happens to a command, from its beginning, until
// it has ended (nil), ctx is over, or the stream breaks (an error; the command
// goes on).
func (c *Client) Follow(ctx context.Context, id string, each func(Event) error) error {
	ctx, heard, end := whileHeard(ctx)
	defer end()
	res, err := c.request(ctx, http.MethodGet, commandPath(id, "/events"), nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEventLine)
	for lines.Scan() {
		heard()
		var ev Event
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			return fmt.Errorf("event of command %s: %w", id, err)
		}
		if err := each(ev); err != nil {
			return err
		}
		if ev.Kind == "end" {
			return nil
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}
