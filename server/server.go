package server

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gururmm/internal/admission"
	"gururmm/internal/atomicfile"
	"gururmm/internal/idle"
	"gururmm/internal/pin"
	"gururmm/internal/quota"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/server/api"
	"gururmm/server/builds"
	"gururmm/server/bundles"
	"gururmm/server/cluster"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/jobs"
	"gururmm/server/metrics"
	"gururmm/server/probe"
	"gururmm/server/retention"
	"gururmm/server/rollout"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// headerTimeout bounds the reading of a request's header, and of a TLS handshake.
	headerTimeout = 10 * time.Second
	// idleTimeout ends a kept connection without a request: longer than the poll
	// interval of an idle agent, so that it need not shake hands each time.
	idleTimeout = 2 * time.Minute
	// maxHeader bounds a request's header in bytes: a token and some.
	maxHeader = 16 << 10
	// drainTimeout bounds the telling of agents and clients that the server goes
	// down; the store's flush after it has what is left of stopTimeout: of a large fleet
	// each link's end is written down.
	drainTimeout = 6 * time.Second
	stopTimeout  = 10 * time.Second
)

// errGoingDown is what agents read in the closing frame.
var errGoingDown = errors.New("the server is going down in order")

const (
	// returnsEach is how many agents a core lets in within a second, well within what it
	// can (gururmm-lab fleet --restart prints that).
	returnsEach = 150
	// returnLeast and returnMost bound over how long a fleet is asked to come back: a few
	// as their own back-off has it, and a huge one by the doors' admission, not by its patience.
	returnLeast = time.Second
	returnMost  = 2 * time.Minute
)

// returning is over how long so many agents come back from a server that goes down.
func returning(links int) time.Duration {
	each := time.Second / time.Duration(returnsEach*runtime.GOMAXPROCS(0))
	return min(returnMost, max(returnLeast, time.Duration(links)*each))
}

// Info is what an operator and scripts need to know of a started server.
type Info struct {
	URL    string `json:"url"`
	OOBURL string `json:"oob_url"` // the first of them
	// OOBURLs are all, if there are several.
	OOBURLs []string `json:"oob_urls,omitempty"`
	Pin     string   `json:"pin,omitempty"` // of the key that is shown at URL, if one is pinned
	OOBPin  string   `json:"oob_pin"`       // of the second door's own key
	CAFile  string   `json:"ca_file,omitempty"`
	// Listen and OOBListen are the addresses bound, whatever endpoints are told.
	Listen    string `json:"listen"`
	OOBListen string `json:"oob_listen"`
	// AdminURL is where this node is watched; empty: nowhere.
	AdminURL string `json:"admin_url,omitempty"`
	// On the first start only.
	OperatorToken string `json:"operator_token,omitempty"`
	EnrollToken   string `json:"enroll_token,omitempty"`
}

// Server is one node.
type Server struct {
	cfg  Config
	log  *slog.Logger
	info Info

	store    store.Store
	delivery *delivery.Service
	hub      *hub.Hub
	builds   *builds.Shelf
	bundles  *bundles.Shelf
	rollouts *rollout.Service
	jobs     *jobs.Service
	probes   *probe.Service
	api      *api.API
	main     *http.Server
	oob      *http.Server
	mainLn   net.Listener
	oobLn    net.Listener
	metrics  *metrics.Metrics
	admin    *http.Server // nil: there is none
	adminLn  net.Listener

	quota, operators *quota.Book

	shakes map[string]*admission.Gate // of TLS, by the listener's setting

	nodes   store.Nodes                     // nil: there is one node alone
	cluster atomic.Pointer[cluster.Cluster] // the same, once it has joined
	bus     *cluster.NATS

	cleanup []func() error // run in reverse, once
	closing sync.Once
	closed  error
}

// New opens everything: state, keys, database and listeners. On an error
// nothing is left open. Run serves; a Server that is not run must be closed.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: log, shakes: map[string]*admission.Gate{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) open() error {
	dir, now := s.cfg.StateDir, time.Now()
	if err := openState(dir); err != nil {
		return err
	}
	release, err := ownState(dir)
	if err != nil {
		return err
	}
	s.cleanup = append(s.cleanup, release)
	if err := halfRestored(dir); err != nil {
		return err
	}
	s.metrics = metrics.New()
	if err := s.openStore(); err != nil {
		return err
	}
	id, err := serverID(dir)
	if err != nil {
		return err
	}
	key, err := commandKey(dir)
	if err != nil {
		return err
	}
	mainCert, oobCert, err := s.certificates(now)
	if err != nil {
		return err
	}
	same, err := s.openShared(id, key, oobCert)
	if err != nil {
		return err
	}
	if err := s.openBuilds(); err != nil {
		return err
	}
	if err := s.openBundles(); err != nil {
		return err
	}
	if s.mainLn, err = s.listen("listen", s.cfg.ListenAddr, mainCert, s.cfg.proxied(mainListener)); err != nil {
		return err
	}
	if s.oobLn, err = s.listen("oob_listen", s.cfg.OOBAddr, oobCert, s.cfg.proxied(oobListener)); err != nil {
		return err
	}
	if err := s.openAdmin(mainCert); err != nil {
		return err
	}
	doors, err := s.doors(mainCert, oobCert)
	if err != nil {
		return err
	}
	if err := s.firstStart(now); err != nil {
		return err
	}
	s.assemble(id, key, doors)
	ctx, cancel := context.WithTimeout(context.Background(), headerTimeout)
	defer cancel()
	if s.nodes != nil {
		return s.join(ctx, same)
	}
	return s.hub.Load(ctx)
}

// openBuilds opens the shelf of released programs.
func (s *Server) openBuilds() error {
	keys, err := release.ParseKeys(s.cfg.ReleaseKeys)
	if err != nil {
		return fmt.Errorf("release_key: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), headerTimeout)
	defer cancel()
	open := builds.Open
	if s.nodes != nil {
		open = builds.OpenShared
	}
	s.builds, err = open(ctx, filepath.Join(s.cfg.filesDir(), dirBuilds), s.store, keys, s.log.With("part", "builds"))
	return err
}

// openBundles opens the shelf of support bundles.
func (s *Server) openBundles() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), headerTimeout)
	defer cancel()
	s.bundles, err = bundles.New(ctx, bundles.Options{Dir: filepath.Join(s.cfg.filesDir(), dirBundles), Store: s.store, Leads: s.leads(), Log: s.log.With("part", "bundles")})
	return err
}

// certificates gives that of the main listener (nil: plain HTTP) and that of the second door.
func (s *Server) certificates(now time.Time) (main, oob *tls.Certificate, err error) {
	second, err := selfSigned(s.cfg.StateDir, "oob", now)
	if err != nil || s.cfg.plain() {
		return nil, &second, err
	}
	var first tls.Certificate
	if s.cfg.CertFile != "" {
		s.info.CAFile = s.cfg.CertFile
		first, err = tls.LoadX509KeyPair(s.cfg.CertFile, s.cfg.KeyFile)
	} else {
		s.info.CAFile = filepath.Join(s.cfg.StateDir, "main.crt")
		first, err = selfSigned(s.cfg.StateDir, "main", now)
	}
	return &first, &second, err
}

func (s *Server) listen(setting, addr string, cert *tls.Certificate, proxied bool) (net.Listener, error) {
	ln, err := s.cfg.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: can't listen at %s: %w%s", setting, addr, cmp.Or(errors.Unwrap(err), err), listenAdvice(err))
	}
	s.cleanup = append(s.cleanup, func() error {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	ln = idle.Listener(ln)
	if proxied {
		ln = s.named(ln)
	}
	if cert == nil {
		return ln, nil
	}
	shakes, gate := paced(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert},
		NextProtos: []string{"http/1.1"}, // a WebSocket upgrade is HTTP/1.1
	})
	s.shakes[setting] = gate
	return tls.NewListener(ln, shakes), nil
}

// listenAdvice says what to do about an address that can't be listened at.
func listenAdvice(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "; another program has it, perhaps another server: end that, or choose another address"
	case errors.Is(err, fs.ErrPermission):
		return "; ports below 1024 take root: choose a higher one"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; this machine does not have that address"
	}
	return "; want host:port, or :port for all addresses"
}

// doors tells at which addresses endpoints reach this server.
func (s *Server) doors(mainCert, oobCert *tls.Certificate) (api.Doors, error) {
	var given []string
	if s.cfg.PublicURL != "" {
		given = []string{s.cfg.PublicURL}
	}
	at, err := places(given, s.mainLn)
	if err != nil {
		return api.Doors{}, fmt.Errorf("public_url: %w", err)
	}
	second, err := places(s.cfg.OOBURLs, s.oobLn)
	if err != nil {
		return api.Doors{}, fmt.Errorf("oob_url: %w", err)
	}
	s.info.Listen, s.info.OOBListen = s.mainLn.Addr().String(), s.oobLn.Addr().String()
	s.info.URL, s.info.OOBURL, s.info.OOBPin = at[0].url, second[0].url, pin.Of(oobCert.Leaf)
	own := ""
	if mainCert != nil {
		own = pin.Of(mainCert.Leaf)
	}
	s.info.Pin = at[0].pinned(own)
	var doors []wire.OOBDoor
	for _, p := range second {
		doors = append(doors, wire.OOBDoor{URL: p.url, Pin: p.pinned(s.info.OOBPin)})
		if len(second) > 1 {
			s.info.OOBURLs = append(s.info.OOBURLs, p.url)
		}
	}
	u, err := url.Parse(s.info.URL)
	if err != nil {
		return api.Doors{}, err
	}
	return api.Doors{
		URL: s.info.URL, Pin: s.info.Pin,
		LinkURLs: []string{"wss://" + u.Host + "/v1/link"}, OOB: doors,
	}, nil
}

// urlOf names a listener as others can reach it: where it listens on all
// addresses, by this machine's first one that is not loopback.
func urlOf(addr net.Addr) (string, error) {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		_, ips := ownNames()
		host = ips[0].String()
		if i := slices.IndexFunc(ips, func(ip net.IP) bool { return !ip.IsLoopback() && ip.To4() != nil }); i >= 0 {
			host = ips[i].String()
		}
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// firstStart makes the first operator token and an enrollment token, if there
// is no operator token yet.
func (s *Server) firstStart(now time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), headerTimeout)
	defer cancel()
	tokens, err := s.store.OperatorTokens(ctx)
	if err != nil {
		return err
	}
	started := filepath.Join(s.cfg.StateDir, fileStarted)
	if s.cfg.NoFirstTokens {
		if _, err := os.Stat(started); err == nil || len(tokens) == 0 { // until somebody makes a token nothing is lost with the database
			return nil
		}
	} else if len(tokens) > 0 {
		return nil
	}
	if err := atomicfile.Write(started, []byte(now.UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	if s.cfg.NoFirstTokens {
		return nil
	}
	s.info.OperatorToken = api.NewOperatorToken()
	if err := s.store.CreateOperatorToken(ctx, "first", store.HashToken(s.info.OperatorToken), now); err != nil {
		return err
	}
	secret, token := api.NewEnrollToken("", 1, api.EnrollTokenLife, now)
	s.info.EnrollToken = secret
	return s.store.CreateEnrollToken(ctx, store.HashToken(secret), token)
}

func (s *Server) assemble(id string, key ed25519.PrivateKey, doors api.Doors) {
	sign := func(t wire.Type, payload any) (wire.Envelope, error) { return wire.Sign(key, t, payload) }
	told := s.cfg.Policy
	if len(s.cfg.OOBURLs) > 0 && len(told.OOB) == 0 { // who enrolled when there was another set learns of this one
		told.OOB = doors.OOB
	}
	policy := func(string) wire.Policy { return told }
	limits := hub.Quotas(s.cfg.Limits.AgentFrames, s.cfg.Limits.AgentBytes)
	limits[api.QuotaRequests] = api.RequestQuota(s.cfg.Limits.AgentRequests)
	s.quota = quota.New(limits, func(agent, what string) {
		s.log.Warn("an agent exceeds what one may do and is slowed or refused; told once a minute", "agent", agent, "what", what)
	})
	s.operators = quota.New(map[string]quota.Limit{api.QuotaRequests: api.RequestQuota(s.cfg.Limits.Operator)}, func(token, what string) {
		s.log.Warn("an operator token exceeds what one may do and is refused; told once a minute", "token", token, "what", what)
	})
	s.metrics.WatchQuotas(map[string]*quota.Book{"agent": s.quota, "operator": s.operators})
	s.delivery = delivery.New(s.store, delivery.Options{
		Log: s.log.With("part", "delivery"), Sign: sign,
		Why:   func(agent string) (kind, clause string) { return s.hub.Why(agent) },
		Acked: s.metrics.Acked,
		Ended: func(command string) {
			s.jobs.Look()
			if s.cfg.Ended != nil {
				s.cfg.Ended(command)
			}
		},
		Cluster: s.deliveryCluster(),
	})
	s.probes = probe.New(probe.Options{
		Maker: &probe.Maker{Sign: sign}, Note: s.store.NoteEvent, Call: s.delivery.Call, Log: s.log.With("part", "probe"),
		Link:   func(agent string) (probe.Link, string) { return s.hub.ProbeLink(agent) },
		Barred: func(agent string) string { return s.hub.Barred(agent) },
	})
	s.hub = hub.New(hub.Options{
		Delivery: s.delivery, Store: s.store, Sign: sign, Policy: policy, Quota: s.quota, Log: s.log.With("part", "hub"),
		Recovery: hub.Recovery(s.cfg.FleetRecovery), Returning: returning, Probes: s.probes, Cluster: s.hubCluster(),
	})
	s.rollouts = rollout.New(rollout.Options{
		Store: s.store, Orders: s.delivery, Fact: s.standing, Leads: s.leads(), Log: s.log.With("part", "rollout"),
		Later: func(err error) bool { return errors.Is(err, delivery.ErrBusy) || errors.Is(err, delivery.ErrRemoved) },
	})
	s.jobs = jobs.New(jobs.Options{Store: s.store, Commands: s.delivery, Present: s.reachable, Leads: s.leads(), Log: s.log.With("part", "jobs")})
	s.api = api.New(api.Options{
		Store: s.store, Delivery: s.delivery, Hub: s.hub, Builds: s.builds, Bundles: s.bundles, Rollouts: s.rollouts, Jobs: s.jobs, Probes: s.probes, Cluster: s.apiCluster(), Sign: sign, Policy: policy,
		Quota: s.quota, Operators: s.operators,
		ServerID: id, CommandKeys: [][]byte{key.Public().(ed25519.PublicKey)},
		Doors: doors, TrustedProxies: s.cfg.TrustedProxies,
		ForwardedMain: s.cfg.forwarded(mainListener), ForwardedOOB: s.cfg.forwarded(oobListener), Log: s.log.With("part", "api"),
	})
	s.metrics.Watch(s.hub, s.delivery, s.store, s.log.With("part", "metrics"))
	s.metrics.WatchDoors(s.doorways)
	s.main, s.oob = s.serve(s.api.Main()), s.serve(s.api.OOB())
}

// comingBack is how long after its start a server does not call an endpoint away
// that it has not heard of: twice the longest back-off of a link is rare, and a
// beacon of one that seeks its link comes within it.
const comingBack = 2 * time.Minute

// standing tells rollouts whether an endpoint is there, and what it runs.
func (s *Server) standing(agent string) rollout.Fact {
	now := s.hub.Sighted(agent)
	f := rollout.Fact{Presence: rollout.Present, Version: now.Version, VerifiedSince: now.VerifiedSince, Heard: now.Heard}
	switch now.Presence {
	case hub.Offline:
		if f.Presence = rollout.Away; time.Since(now.Hearing) < comingBack {
			f.Presence = rollout.Unknown
		}
	case hub.Quarantined, hub.Duplicate, hub.Silent: // not to be ordered anything now
		f.Presence = rollout.Away
	}
	return f
}

// reachable tells jobs whether an endpoint would get a command now, or be refused it.
func (s *Server) reachable(agent string) bool {
	switch s.hub.Sighted(agent).Presence {
	case hub.Offline, hub.Silent, hub.Duplicate:
		return false
	}
	return true
}

func (s *Server) serve(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.With("part", "http").Handler(), slog.LevelDebug),
	}
}

// Info tells where the server is, and on its first start its first tokens.
func (s *Server) Info() Info { return s.info }

// Submit orders a command of an agent, as the operators' API does; by is who is told to have
// asked for it. It is for programs that run the server in themselves.
func (s *Server) Submit(ctx context.Context, agent string, c operator.NewCommand, by string) (operator.Command, error) {
	return s.delivery.Submit(ctx, agent, c, by)
}

// Run serves until ctx ends, then drains, and closes everything. Ended so, the
// error is nil.
func (s *Server) Run(ctx context.Context) error {
	// The parts outlive ctx: what comes in during the drain is still handled.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 10) // one for each goroutine below
	var running sync.WaitGroup
	part := func(name string, run func() error) {
		running.Go(func() {
			if err := run(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	if c := s.cluster.Load(); c != nil {
		part("cluster", func() error { return c.Run(parts) })
	}
	part("delivery", func() error { return s.delivery.Run(parts) })
	part("hub", func() error { return s.hub.Run(parts) })
	part("rollouts", func() error { return s.rollouts.Run(parts) })
	part("jobs", func() error { return s.jobs.Run(parts) })
	if s.cfg.KeepCommands > 0 {
		part("retention", func() error {
			return retention.Run(parts, retention.Options{Store: s.store, Keep: s.cfg.KeepCommands, Leads: s.leads(), Log: s.log.With("part", "retention")})
		})
	}
	part("bundles", func() error { return s.bundles.Run(parts) })
	part("main listener", func() error { return s.main.Serve(s.mainLn) })
	part("second door", func() error { return s.oob.Serve(s.oobLn) })
	if s.admin != nil {
		part("admin listener", func() error { return s.admin.Serve(s.adminLn) })
	}
	s.log.Info("serving", "url", s.info.URL, "oob_url", s.info.OOBURL)

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		s.log.Error("a part failed; stopping", "error", err)
	}
	err = errors.Join(err, s.drain(), s.closeAdmin()) // until then it says that the drain is on
	stop()
	running.Wait()
	return errors.Join(err, s.leave(), s.Close())
}

// drain tells agents and clients, and waits for them, bounded.
func (s *Server) drain() error {
	began := time.Now()
	s.log.Info("draining", "links", s.hub.Links())
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	s.api.Drain()
	var ending sync.WaitGroup
	for _, srv := range []*http.Server{s.main, s.oob} {
		ending.Go(func() {
			if err := srv.Shutdown(ctx); err != nil {
				s.log.Warn("requests cut off", "reason", err)
				srv.Close()
			}
		})
	}
	ending.Go(func() {
		if err := s.hub.Drain(ctx, errGoingDown, returning); err != nil {
			s.log.Warn("links cut off", "left", s.hub.Links(), "reason", err)
		}
	})
	ending.Wait()
	flush, cancel := context.WithDeadline(context.Background(), began.Add(stopTimeout))
	defer cancel()
	return s.store.Flush(flush)
}

// Close gives back all that New opened; Run does it itself.
func (s *Server) Close() error {
	s.closing.Do(func() {
		var errs []error
		for _, f := range slices.Backward(s.cleanup) {
			errs = append(errs, f())
		}
		s.closed = errors.Join(errs...)
	})
	return s.closed
}
