package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gururmm/internal/endpoint"
	"gururmm/internal/fileerr"
)

const (
	// adminWrite bounds one answer of the admin listener, a profile's seconds included.
	adminWrite = 2 * time.Minute
	// readyTimeout bounds each question of /readyz.
	readyTimeout = 2 * time.Second
	// readyFor is how long an answer of /readyz serves others: asking costs a commit
	// and a handshake, and needs no token.
	readyFor = time.Second
	// maxScrapes bounds scrapes at one time.
	maxScrapes = 3
	// maxAdminToken and minAdminToken bound the token in bytes.
	maxAdminToken = 4 << 10
	minAdminToken = 20
)

// checkAdmin refuses what would show this process to a network without a secret.
func (c Config) checkAdmin() error {
	if c.AdminAddr == "" {
		if c.AdminTokenFile != "" {
			return errors.New("admin_token_file is set and admin_listen is not: nothing would ask for the token")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(c.AdminAddr)
	switch {
	case err != nil:
		return fmt.Errorf("admin_listen: %w", err)
	case endpoint.Loopback(host):
		return nil
	case c.AdminTokenFile == "":
		return fmt.Errorf("admin_listen: %q is not loopback: it needs admin_token_file, or listen at 127.0.0.1", c.AdminAddr)
	case c.plain():
		return fmt.Errorf("admin_listen: %q is not loopback and would be plain HTTP: it needs cert and key, or listen at 127.0.0.1 behind your proxy", c.AdminAddr)
	}
	return nil
}

// readAdminToken reads the token's file; empty path: there is none.
func readAdminToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("admin_token_file: %w", fileerr.Why(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("admin_token_file: %w", fileerr.Why(err))
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 {
		return "", fmt.Errorf("admin_token_file: others may read or write %s: chmod o= %[1]s, and make a new token", path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxAdminToken+1))
	if err != nil {
		return "", fmt.Errorf("admin_token_file: %w", fileerr.Why(err))
	}
	token := strings.TrimSpace(string(raw))
	if len(token) < minAdminToken || len(raw) > maxAdminToken || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("admin_token_file: %s: want one word of at least %d characters, as openssl rand -hex 32 prints", path, minAdminToken)
	}
	return token, nil
}

// admin serves who watches this node: health, metrics, profiles. It tells nothing of
// endpoints and takes no orders.
type admin struct {
	s     *Server
	log   *slog.Logger
	token *[sha256.Size]byte // hashed; nil: none is asked for, on loopback
	cert  *tls.Certificate   // of the main listener, to know it again; nil: plain HTTP

	turn  chan struct{} // held by who asks; guards the two below
	asked time.Time
	found map[string]string
}

// openAdmin opens the admin listener, if there is to be one.
func (s *Server) openAdmin(mainCert *tls.Certificate) error {
	if s.cfg.AdminAddr == "" {
		return nil
	}
	token, err := readAdminToken(s.cfg.AdminTokenFile)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(s.cfg.AdminAddr)
	if err != nil {
		return fmt.Errorf("admin_listen: %w", err)
	}
	a := &admin{s: s, log: s.log.With("part", "admin"), cert: mainCert, turn: make(chan struct{}, 1)}
	if token != "" {
		a.token = new(sha256.Sum256([]byte(token)))
	}
	own := endpoint.Loopback(host)
	cert, scheme := mainCert, "https://"
	if own {
		cert, scheme = nil, "http://"
	}
	if s.adminLn, err = s.listen("admin_listen", s.cfg.AdminAddr, cert, false); err != nil {
		return err
	}
	bound, ok := s.adminLn.Addr().(*net.TCPAddr)
	if own && ok && !bound.IP.IsLoopback() { // "localhost" is what the hosts file says
		return fmt.Errorf("admin_listen: %s is %v on this machine, which is not loopback", host, bound.IP)
	}
	s.info.AdminURL = scheme + s.adminLn.Addr().String()
	s.admin = s.serve(a.handler())
	s.admin.ReadTimeout, s.admin.WriteTimeout = headerTimeout, adminWrite
	return nil
}

func (a *admin) handler() http.Handler {
	open, mux := http.NewServeMux(), http.NewServeMux()
	open.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	open.HandleFunc("GET /readyz", a.ready)
	open.Handle("/", a.known(mux))
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.s.metrics.Gatherer(), promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		ErrorLog:            slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}))
	// The command line is not among them: arguments belong to who started the server.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	return a.local(open)
}

// local, where no token is asked for, refuses a browser that was led here by the name
// of another's site.
func (a *admin) local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]")
		}
		if a.token == nil && !endpoint.Loopback(host) {
			http.Error(w, "ask by 127.0.0.1, [::1] or localhost; for other names set admin_token_file", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known lets in who has the token.
func (a *admin) known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.token != nil {
			said, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			hash := sha256.Sum256([]byte(said))
			if subtle.ConstantTimeCompare(hash[:], a.token[:]) != 1 || !bearer {
				a.log.Warn("admin token refused", "addr", r.RemoteAddr, "path", r.URL.Path)
				w.Header().Set("WWW-Authenticate", "Bearer")
				http.Error(w, "want the token of admin_token_file as Authorization: Bearer", http.StatusUnauthorized)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// ready answers 200 if this node can serve: the database takes writes, the main
// listener answers, and no drain has begun; else 503 with what fails.
func (a *admin) ready(w http.ResponseWriter, r *http.Request) {
	select {
	case a.turn <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	// Whoever asked goes away without taking the answer from the others.
	if ctx := context.WithoutCancel(r.Context()); time.Since(a.asked) >= readyFor {
		a.found = map[string]string{
			"store":     a.check("store", "the database takes no writes", a.storeWritable(ctx)),
			"link_door": a.check("link_door", "the main listener does not answer", a.doorServes(ctx)),
		}
		a.asked = time.Now()
	}
	found := map[string]string{"store": a.found["store"], "link_door": a.found["link_door"], "drain": "ok"}
	<-a.turn
	if a.s.nodes != nil {
		found["cluster"] = a.check("cluster", "this node's lease is lost or can't be renewed", member{a.s}.Ready())
	}
	if a.s.hub.Draining() != nil {
		found["drain"] = "the server is going down"
	}
	status := http.StatusOK
	for _, word := range found {
		if word != "ok" {
			status = http.StatusServiceUnavailable
		}
	}
	answer(w, status, found)
}

// check logs what fails and gives the words for who asked: no paths, no addresses.
func (a *admin) check(name, words string, err error) string {
	if err == nil {
		return "ok"
	}
	a.log.Error("not ready", "check", name, "error", err)
	return words
}

func (a *admin) storeWritable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return a.s.store.Ready(ctx)
}

// doorServes asks the main listener as an endpoint does: a socket that is open proves
// neither that it is accepted from nor that anybody answers.
func (a *admin) doorServes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = a.s.cfg.nameless(conn)
		}
		return conn, err
	}}
	url := "http://" + a.s.mainLn.Addr().String()
	if a.cert != nil {
		url = "https://" + a.s.mainLn.Addr().String()
		transport.TLSClientConfig = &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true, // the certificate names the public host; it is known by its bytes
			VerifyConnection: func(cs tls.ConnectionState) error {
				if !cs.PeerCertificates[0].Equal(a.cert.Leaf) {
					return errors.New("another certificate than this server's")
				}
				return nil
			},
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

func answer(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(raw, '\n')) // who asked may be gone
}

// closeAdmin ends the admin listener; a profile under way is cut off.
func (s *Server) closeAdmin() error {
	if s.admin == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.admin.Shutdown(ctx) != nil {
		return s.admin.Close()
	}
	return nil
}
