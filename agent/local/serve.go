package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"gururmm/agent/pipe"
	"gururmm/wire"
)

const (
	// maxConns bounds the local connections at once: each costs memory of the process
	// that must outlive trouble.
	maxConns = 32
	// maxOrder bounds the body of an order, in bytes.
	maxOrder = 4 << 10
)

// Answers are what a guardian says here; calls obey their context. What is nil is not
// there, but Frames, of which there are none then.
type Answers struct {
	Status func(context.Context) (Status, error)
	Frames func(context.Context) (Frames, error)
	// For root and our own account alone. Stacks and traces cost processor time and stop
	// the world for moments; a reconnect costs what is under way on the link.
	Stacks    func(context.Context) Stacks
	Traces    func(context.Context, time.Duration) Traces
	Reconnect func(context.Context, ReconnectRequest) (Acted, error)
	Beacon    func(context.Context) (Acted, error)
}

// Handler serves a's answers.
func Handler(a Answers) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := a.Status(r.Context())
		answerJSON(w, s, err)
	})
	mux.HandleFunc("GET /frames", func(w http.ResponseWriter, r *http.Request) {
		if a.Frames == nil {
			answerJSON(w, Frames{At: time.Now().UTC(), Stale: true}, nil)
			return
		}
		f, err := a.Frames(r.Context())
		answerJSON(w, f, err)
	})
	if a.Stacks != nil {
		mux.HandleFunc("GET /stacks", forOwner(func(w http.ResponseWriter, r *http.Request) {
			answerJSON(w, a.Stacks(r.Context()), nil)
		}))
	}
	if a.Traces != nil {
		mux.HandleFunc("GET /trace", forOwner(func(w http.ResponseWriter, r *http.Request) {
			ms, err := strconv.ParseInt(r.URL.Query().Get("ms"), 10, 64)
			if err != nil || ms < 1 || ms > pipe.MaxTraceMS {
				refuse(w, http.StatusBadRequest, wire.ProblemBadRequest, fmt.Sprintf("ms: want 1 to %d", pipe.MaxTraceMS))
				return
			}
			answerJSON(w, a.Traces(r.Context(), time.Duration(ms)*time.Millisecond), nil)
		}))
	}
	if a.Reconnect != nil {
		mux.HandleFunc("POST /reconnect", forOwner(func(w http.ResponseWriter, r *http.Request) {
			order, err := decode[ReconnectRequest](http.MaxBytesReader(w, r.Body, maxOrder))
			if err != nil {
				refuse(w, http.StatusBadRequest, wire.ProblemBadRequest, "order: "+err.Error())
				return
			}
			acted, err := a.Reconnect(r.Context(), order)
			answerJSON(w, acted, err)
		}))
	}
	if a.Beacon != nil {
		mux.HandleFunc("POST /beacon", forOwner(func(w http.ResponseWriter, r *http.Request) {
			acted, err := a.Beacon(r.Context())
			answerJSON(w, acted, err)
		}))
	}
	return mux
}

// decode reads one JSON object and nothing it does not know.
func decode[T any](r io.Reader) (v T, err error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	err = d.Decode(&v)
	return v, err
}

func answerJSON(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded): // the loop, which never blocks, hangs
		refuse(w, http.StatusGatewayTimeout, wire.ProblemDraining, err.Error())
		return
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, wire.ProblemDraining, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// refuse answers why there is no answer.
func refuse(w http.ResponseWriter, status int, code, detail string) {
	title := "the guardian does not answer"
	if status != http.StatusServiceUnavailable {
		title = http.StatusText(status)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(wire.NewProblem(status, title, code, detail))
}

// waitGroup is what Serve needs of a sync.WaitGroup.
type waitGroup interface{ Go(f func()) }

// Serve answers local requests with h in goroutines of wg, until ctx ends; it closes l.
func Serve(ctx context.Context, wg waitGroup, l net.Listener, h http.Handler) {
	var open atomic.Int32
	server := &http.Server{
		ReadHeaderTimeout: 2 * time.Second,
		// By its state, not by a wrapped listener: who asks is read from the socket itself.
		ConnState: func(c net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				if open.Add(1) > maxConns {
					c.Close() // those that are served go on
				}
			case http.StateClosed:
				open.Add(-1)
			}
		},
		Handler: h,
		// Where no descriptor is left, each second would bring a line past the bounded log.
		ErrorLog: log.New(io.Discard, "", 0),
		// Local and small: whoever is slower than this holds a connection for nothing.
		ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
		MaxHeaderBytes: 8 << 10,
		BaseContext:    func(net.Listener) context.Context { return ctx },
		ConnContext:    withPeer,
	}
	wg.Go(func() { server.Serve(l) })
	wg.Go(func() {
		<-ctx.Done()
		server.Close()
	})
}

// peerKey carries a local request's connection.
type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, c)
}

// forOwner lets h answer root and our own account, nobody else.
func forOwner(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(peerKey{}).(net.Conn)
		if ok, err := ownerAsks(c); err != nil || !ok {
			detail := "only root and the account that the agent runs as may ask for this"
			if err != nil {
				detail += ": " + err.Error()
			}
			refuse(w, http.StatusForbidden, "forbidden", detail)
			return
		}
		h(w, r)
	}
}
