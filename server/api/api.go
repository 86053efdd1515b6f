// Package api is the server's HTTP surface: the operator's REST API, the
// endpoints' enrollment and link upgrade, and the second door.
//
// Rules that hold here:
//   - every answer carries the server's time, and every error is a problem document (RFC 9457);
//   - a body is bounded before it is parsed, compressed and unpacked;
//   - an endpoint is known by a signed token that serves once, before any upgrade;
//   - no secret is logged: not a token, not a body, not a header;
//   - every wait ends with its request, its own limit, or the server's drain.
package api

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"gururmm/internal/admission"
	"gururmm/internal/quota"
	"gururmm/server/builds"
	"gururmm/server/bundles"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/jobs"
	"gururmm/server/probe"
	"gururmm/server/rollout"
	"gururmm/server/store"
	"gururmm/session"
	"gururmm/wire"
)

const (
	// readTimeout bounds the reading of one request's body: 8 MiB at 0.3 MB/s.
	readTimeout = 30 * time.Second
	// writeTimeout bounds one write of an answer, or of one line of a stream.
	writeTimeout = 30 * time.Second
)

// Doors are the addresses at which this server is reached.
type Doors struct {
	URL      string // of the main listener, https://host:port
	LinkURLs []string
	OOB      []wire.OOBDoor
	Pin      string // of the main listener's key, "sha256/…"; empty: system roots decide
}

// Options of an API. All are needed but Cluster, TrustedProxies and what goes with them.
type Options struct {
	Store       store.Store
	Delivery    *delivery.Service
	Hub         *hub.Hub
	Builds      *builds.Shelf
	Bundles     *bundles.Shelf
	Rollouts    *rollout.Service
	Jobs        *jobs.Service
	Probes      *probe.Service
	Cluster     Cluster // nil: there is one node alone
	Sign        func(t wire.Type, payload any) (wire.Envelope, error)
	Policy      func(agent string) wire.Policy
	ServerID    string
	CommandKeys [][]byte // Ed25519 public keys
	Doors       Doors
	// Quota bounds what one agent asks and sends, Operators what one operator token asks; nil:
	// nothing does.
	Quota, Operators *quota.Book
	// TrustedProxies may name the client in X-Forwarded-For, at the listeners where they write it.
	TrustedProxies              []netip.Prefix
	ForwardedMain, ForwardedOOB bool
	Log                         *slog.Logger
}

// Cluster is what the nodes on one database know together.
type Cluster interface {
	// UseToken takes an agent's token: fresh is false if any node has before.
	UseToken(ctx context.Context, agent, id string, until time.Time) (fresh bool, err error)
	// CountOwed counts the commands that have not been acknowledged, by agent; of one, or all ("").
	CountOwed(ctx context.Context, agent string) (map[string]int, error)
	// Ready is why this node should get no work; nil: it may.
	Ready() error
}

// API serves both listeners.
type API struct {
	o       Options
	log     *slog.Logger
	replays *replays
	enrolls *limiter
	doors   map[string]*admission.Gate
	polls   polls
	// requests, bodies, probes and downloads are those of each agent under way.
	requests, bodies, probes, downloads, parts shares
	// taking holds one for each part of a bundle that is held in memory.
	taking chan struct{}
	// looking holds one for each probe link.
	looking chan struct{}

	drained  chan struct{} // closed: finish up
	draining sync.Once
}

// New makes an API.
func New(o Options) *API {
	return &API{
		o: o, log: o.Log,
		replays: newReplays(), enrolls: newLimiter(enrollBurst, enrollEvery),
		taking:  make(chan struct{}, maxParts),
		looking: make(chan struct{}, maxLooks),
		doors:   newDoors(),
		polls:   polls{held: map[string]*heldPoll{}},
		drained: make(chan struct{}),
	}
}

// Drain ends long polls and event streams; requests to come are refused with 503.
func (a *API) Drain() { a.draining.Do(func() { close(a.drained) }) }

func (a *API) isDraining() bool {
	select {
	case <-a.drained:
		return true
	default:
		return false
	}
}

// Main is the handler of the main listener: link, enrollment and operators.
func (a *API) Main() http.Handler {
	mux := http.NewServeMux()
	a.health(mux)
	a.handle(mux, "POST /v1/enroll", a.enroll)
	a.agent(mux, "GET /v1/link", doorLink, a.link)
	a.operator(mux, "GET /v1/agents", a.listAgents)
	a.operator(mux, "GET /v1/agents/{agent}", a.getAgent)
	a.operator(mux, "DELETE /v1/agents/{agent}", a.removeAgent)
	a.operator(mux, "POST /v1/agents/{agent}/commands", a.submit)
	a.operator(mux, "POST /v1/agents/{agent}/resolve", a.resolve)
	a.operator(mux, "POST /v1/agents/{agent}/probe", a.probe)
	a.operator(mux, "POST /v1/agents/{agent}/directives", a.direct)
	a.operator(mux, "GET /v1/agents/{agent}/directives", a.listDirectives)
	a.operator(mux, "GET /v1/directives/{id}", a.getDirective)
	a.operator(mux, "GET /v1/agents/{agent}/bundles", a.listBundles)
	a.operator(mux, "GET /v1/agents/{agent}/bundles/{id}", a.getBundle)
	a.operator(mux, "DELETE /v1/agents/{agent}/bundles/{id}", a.deleteBundle)
	a.operator(mux, "POST /v1/tags", a.changeTags)
	a.operator(mux, "GET /v1/commands", a.listCommands)
	a.operator(mux, "GET /v1/commands/{id}", a.getCommand)
	a.operator(mux, "GET /v1/commands/{id}/events", a.events)
	a.operator(mux, "GET /v1/commands/{id}/output/{stream}", a.output)
	a.operator(mux, "GET /v1/commands/{id}/trace", a.trace)
	a.operator(mux, "POST /v1/commands/{id}/cancel", a.cancel)
	a.operator(mux, "GET /v1/agents/{agent}/traces", a.listTraces)
	a.operator(mux, "GET /v1/jobs", a.listJobs)
	a.operator(mux, "POST /v1/jobs", a.createJob)
	a.operator(mux, "GET /v1/jobs/{id}", a.getJob)
	a.operator(mux, "GET /v1/jobs/{id}/agents", a.listJobAgents)
	a.operator(mux, "POST /v1/jobs/{id}/cancel", a.cancelJob)
	a.operator(mux, "GET /v1/beacons", a.listBeacons)
	a.operator(mux, "GET /v1/events", a.listAgentEvents)
	a.operator(mux, "GET /v1/fleet", a.fleet)
	a.operator(mux, "GET /v1/builds", a.listBuilds)
	a.operator(mux, "PUT /v1/builds/{sha256}", a.publish)
	a.operator(mux, "DELETE /v1/builds/{version}", a.removeBuilds)
	a.operator(mux, "GET /v1/rollouts", a.listRollouts)
	a.operator(mux, "POST /v1/rollouts", a.createRollout)
	a.operator(mux, "GET /v1/rollouts/{id}", a.getRollout)
	a.operator(mux, "POST /v1/rollouts/{id}/stop", a.stopRollout)
	a.operator(mux, "POST /v1/rollouts/{id}/resume", a.resumeRollout)
	a.operator(mux, "GET /v1/enroll-tokens", a.listEnrollTokens)
	a.operator(mux, "POST /v1/enroll-tokens", a.createEnrollToken)
	a.operator(mux, "DELETE /v1/enroll-tokens/{id}", a.deleteEnrollToken)
	return a.front(mux, a.o.ForwardedMain)
}

// OOB is the handler of the second door.
func (a *API) OOB() http.Handler {
	mux := http.NewServeMux()
	a.health(mux)
	a.agent(mux, "POST /v1/oob/beacon", doorOOB, a.beacon)
	a.agent(mux, "POST /v1/oob/poll", doorOOB, a.poll)
	a.agent(mux, "GET /v1/oob/builds/{sha256}", doorOOB, a.program)
	a.agent(mux, "PUT /v1/oob/bundle/{id}", doorOOB, a.takeBundle)
	a.handle(mux, "POST /v1/enroll", a.enroll) // for a copy whose way to the main listener is deaf
	return a.front(mux, a.o.ForwardedOOB)
}

func (a *API) health(mux *http.ServeMux) {
	a.handle(mux, "GET /healthz", func(w http.ResponseWriter, r *http.Request) error {
		return a.answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	a.handle(mux, "GET /readyz", func(w http.ResponseWriter, r *http.Request) error {
		if a.isDraining() {
			return errDraining
		}
		if err := a.o.Store.Ready(r.Context()); err != nil {
			a.log.Error("not ready", "error", err)
			return problem(http.StatusServiceUnavailable, wire.ProblemInternal, "the database does not answer")
		}
		if a.o.Cluster != nil {
			if err := a.o.Cluster.Ready(); err != nil {
				a.log.Error("not ready", "error", err)
				return problem(http.StatusServiceUnavailable, wire.ProblemInternal, "this node is not one of its cluster for now")
			}
		}
		return a.answer(w, http.StatusOK, map[string]string{"status": "ready"})
	})
}

// handler answers a request or says why not.
type handler = func(w http.ResponseWriter, r *http.Request) error

// handle routes a pattern to h, whose error becomes the answer.
func (a *API) handle(mux *http.ServeMux, pattern string, h handler) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			a.fail(w, r, err)
		}
	})
}

// front stands before every route: deadlines, the time header, unknown routes
// as problems, and the request log. Unless forwarded, nobody there but the client writes
// X-Forwarded-For, so it is dropped.
func (a *API) front(mux *http.ServeMux, forwarded bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		if !forwarded {
			r.Header.Del("X-Forwarded-For")
		}
		w.Header().Set(wire.HeaderTime, started.UTC().Format(time.RFC3339Nano))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		rec := &recorder{ResponseWriter: w}
		ctl := http.NewResponseController(w)
		// In-memory and HTTP/2 connections may know no deadlines; the listeners' do.
		_ = ctl.SetReadDeadline(started.Add(readTimeout))
		_ = ctl.SetWriteDeadline(started.Add(readTimeout + writeTimeout))
		if h, pattern := mux.Handler(r); pattern == "" {
			a.unrouted(rec, r, h)
		} else {
			mux.ServeHTTP(rec, r)
		}
		a.log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", rec.status,
			"bytes", rec.bytes, "took", time.Since(started).Round(time.Microsecond), "addr", a.clientAddr(r))
	})
}

// unrouted answers what no pattern fits; the mux knows whether it is the path or the method.
func (a *API) unrouted(w http.ResponseWriter, r *http.Request, h http.Handler) {
	verdict := &discard{header: http.Header{}}
	h.ServeHTTP(verdict, r)
	if verdict.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", verdict.header.Get("Allow"))
		a.fail(w, r, problem(http.StatusMethodNotAllowed, "method_not_allowed", r.Method+" is not for this path; allowed: "+verdict.header.Get("Allow")))
		return
	}
	a.fail(w, r, problem(http.StatusNotFound, wire.ProblemNotFound, "there is nothing at this path"))
}

// discard keeps only the status and headers of an answer.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int) {
	if d.status == 0 {
		d.status = status
	}
}

// recorder notes what was answered, for the request log.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Hijack serves the upgrade.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := r.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("this connection can't be upgraded")
	}
	r.status = http.StatusSwitchingProtocols
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	conn, rw.Reader = session.Hijacked(conn, rw.Reader)
	return conn, rw, nil
}
