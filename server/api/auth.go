package api

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// maxBearer bounds a token before it is parsed, in bytes.
	maxBearer = 4096
	// tokenLife bounds exp − iat of an endpoint's token.
	tokenLife = time.Minute
	// clockLeeway is how far an endpoint's clock may be off without being told.
	clockLeeway = 30 * time.Second
)

// errUnauthorized tells nobody which part was wrong.
var errUnauthorized = problem(http.StatusUnauthorized, wire.ProblemUnauthorized, "the token is not one of an enrolled agent")

func bearer(r *http.Request) (string, bool) {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, found && strings.EqualFold(scheme, "Bearer") && token != "" && len(token) <= maxBearer
}

// agent routes a pattern for enrolled endpoints: a JWT (RFC 7519, EdDSA by RFC
// 8037) signed by the agent's own key, for this server, of now, and never seen.
// What it takes until then needs a place at the door.
func (a *API) agent(mux *http.ServeMux, pattern, door string, h func(w http.ResponseWriter, r *http.Request, agent store.Agent) error) {
	a.handle(mux, pattern, func(w http.ResponseWriter, r *http.Request) error {
		if a.isDraining() {
			return errDraining
		}
		leave, err := a.doors[door].Enter(r.Context())
		if err != nil {
			return err
		}
		v := visitor{leave: leave}
		defer func() { v.leave() }()
		agent, copied, err := a.authenticate(r, time.Now())
		if err != nil {
			return err
		}
		v.copy = copied
		if door != doorLink { // a poll waits for hours, and takes nobody's place
			leave()
		}
		if err := spend(a.o.Quota.Of(agent.ID), QuotaRequests, 1); err != nil {
			return err
		}
		release, ok := a.requests.take(agent.ID, maxRequests)
		if !ok {
			return errTooMany
		}
		defer release()
		err = h(w, r.WithContext(context.WithValue(r.Context(), visitorKey{}, &v)), agent)
		if errors.Is(err, store.ErrRemoved) { // after it was let in
			return errRemoved
		}
		return err
	})
}

// agentClaims are those of an endpoint's token: who asks, and which copy of it.
type agentClaims struct {
	jwt.RegisteredClaims
	wire.Copy
}

// visitor is who was let in.
type visitor struct {
	copy  wire.Copy
	leave func() // gives the place at the door back
}

type visitorKey struct{}

// caller is which copy of the agent sent r, as its token says; of an older agent nothing is known.
func caller(r *http.Request) wire.Copy {
	if v, ok := r.Context().Value(visitorKey{}).(*visitor); ok {
		return v.copy
	}
	return wire.Copy{}
}

// keepPlace has the caller's place at the door kept beyond its request.
func keepPlace(r *http.Request) (leave func()) {
	v, ok := r.Context().Value(visitorKey{}).(*visitor)
	if !ok {
		return func() {}
	}
	leave, v.leave = v.leave, func() {}
	return leave
}

func (a *API) authenticate(r *http.Request, now time.Time) (store.Agent, wire.Copy, error) {
	agent, claims, err := a.claims(r, now)
	if err != nil || !claims.Copy.Valid() {
		return agent, wire.Copy{}, err
	}
	return agent, claims.Copy, nil
}

func (a *API) claims(r *http.Request, now time.Time) (store.Agent, agentClaims, error) {
	raw, ok := bearer(r)
	if !ok {
		return store.Agent{}, agentClaims{}, errUnauthorized
	}
	var (
		agent  store.Agent
		claims agentClaims
		failed error
	)
	// The times are judged below: a wrong clock gets an answer of its own.
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())
	_, err := parser.ParseWithClaims(raw, &claims, func(*jwt.Token) (any, error) {
		agent, failed = a.o.Store.Agent(r.Context(), claims.Subject)
		if failed != nil {
			return nil, failed
		}
		if len(agent.PublicKey) != ed25519.PublicKeySize {
			return nil, errors.New("no key")
		}
		return agent.PublicKey, nil
	})
	if failed != nil && !errors.Is(failed, store.ErrNotFound) {
		return agent, claims, failed // the database, not the agent: never a 401
	}
	if err != nil || claims.Subject == "" || claims.ID == "" || len(claims.ID) > 128 ||
		claims.IssuedAt == nil || claims.ExpiresAt == nil || !slices.Contains(claims.Audience, a.o.ServerID) {
		a.log.Info("agent token refused", "addr", a.clientAddr(r), "path", r.URL.Path, "reason", reason(err))
		return agent, claims, errUnauthorized
	}
	issued, expires := claims.IssuedAt.Time, claims.ExpiresAt.Time
	if life := expires.Sub(issued); life <= 0 || life > tokenLife {
		return agent, claims, problem(http.StatusUnauthorized, wire.ProblemUnauthorized, "a token may live 60 s")
	}
	if now.Before(issued.Add(-clockLeeway)) || now.After(expires.Add(clockLeeway)) {
		a.log.Info("agent clock is off", "agent", agent.ID, "offset", now.Sub(issued).Round(time.Millisecond))
		return agent, claims, problem(http.StatusUnauthorized, wire.ProblemClock, "the token's times do not fit the server's clock; see "+wire.HeaderTime)
	}
	switch a.replays.use(agent.ID, claims.ID, now, expires.Add(clockLeeway)) {
	case replayed:
		a.log.Warn("agent token replayed", "agent", agent.ID, "addr", a.clientAddr(r))
		return agent, claims, problem(http.StatusUnauthorized, wire.ProblemUnauthorized, "the token was used before")
	case replaysTooMany:
		return agent, claims, problem(http.StatusTooManyRequests, wire.ProblemRateLimited, "too many requests of this agent within two minutes")
	case replaysFull:
		return agent, claims, problem(http.StatusServiceUnavailable, wire.ProblemRateLimited, "too many requests are remembered; come back in a few seconds")
	}
	// At another node, perhaps: asked last, it costs a write.
	if a.o.Cluster != nil {
		first, err := a.o.Cluster.UseToken(r.Context(), agent.ID, claims.ID, expires.Add(clockLeeway))
		if err != nil {
			return agent, claims, err
		}
		if !first {
			a.log.Warn("agent token replayed", "agent", agent.ID, "addr", a.clientAddr(r))
			return agent, claims, problem(http.StatusUnauthorized, wire.ProblemUnauthorized, "the token was used before")
		}
	}
	if agent.RemovedAt != nil {
		a.log.Info("a removed agent calls", "agent", agent.ID, "addr", a.clientAddr(r))
		return agent, claims, errRemoved
	}
	return agent, claims, nil
}

func reason(err error) string {
	if err == nil {
		return "claims are missing or for another server"
	}
	return err.Error() // golang-jwt's words; they hold no token
}

// operator routes a pattern for operators; h gets the token's name.
func (a *API) operator(mux *http.ServeMux, pattern string, h func(w http.ResponseWriter, r *http.Request, by string) error) {
	a.handle(mux, pattern, func(w http.ResponseWriter, r *http.Request) error {
		if a.isDraining() {
			return errDraining
		}
		raw, ok := bearer(r)
		if !ok {
			return problem(http.StatusUnauthorized, wire.ProblemUnauthorized, "an operator token is needed")
		}
		leave, err := a.doors[doorOperators].Enter(r.Context())
		if err != nil {
			return err
		}
		defer leave()
		// Looked up by its SHA-256: how long that takes tells nothing of the token.
		token, err := a.o.Store.OperatorToken(r.Context(), store.HashToken(raw), time.Now())
		if errors.Is(err, store.ErrTokenInvalid) || errors.Is(err, store.ErrNotFound) {
			a.log.Warn("operator token refused", "addr", a.clientAddr(r), "path", r.URL.Path)
			return problem(http.StatusUnauthorized, wire.ProblemUnauthorized, "the operator token is not known")
		}
		if err != nil {
			return err
		}
		if err := spend(a.o.Operators.Of(token.Name), QuotaRequests, 1); err != nil {
			return err
		}
		leave() // an operator may follow a command for hours
		return h(w, r, token.Name)
	})
}

// clientAddr is who sent the request: the connection's other end, or, if that
// is a trusted proxy, the last address in X-Forwarded-For that is not one.
func (a *API) clientAddr(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr // an in-memory connection
	}
	addr := peer.Addr().Unmap()
	if !a.trusted(addr) {
		return addr.String()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		addr = next.Unmap()
		if !a.trusted(addr) {
			break
		}
	}
	return addr.String()
}

func (a *API) trusted(addr netip.Addr) bool {
	return slices.ContainsFunc(a.o.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}
