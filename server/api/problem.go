package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"gururmm/server/delivery"
	"gururmm/server/store"
	"gururmm/wire"
)

// retryAfter is what a client that must come back is told, in seconds.
const retryAfter = 5

// problem makes an error that is answered as it is.
func problem(status int, code, detail string) error {
	return wire.Problem{
		Type: "urn:gururmm:problem:" + code, Title: http.StatusText(status),
		Status: status, Detail: detail, Code: code,
	}
}

var errDraining = problem(http.StatusServiceUnavailable, wire.ProblemDraining, "the server is going down; come back in a few seconds")

// asProblem gives any error its answer; known is false for one of our own making
// that the client is told nothing of.
func asProblem(err error) (p wire.Problem, known bool) {
	if p, ok := errors.AsType[wire.Problem](err); ok {
		return p, true
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		err = problem(http.StatusNotFound, wire.ProblemNotFound, "no such thing")
	case errors.Is(err, store.ErrConflict):
		err = problem(http.StatusConflict, wire.ProblemConflict, "it exists already, or changed meanwhile")
	case errors.Is(err, store.ErrTokenInvalid):
		err = problem(http.StatusForbidden, wire.ProblemToken, "the token is unknown, spent or expired")
	case errors.Is(err, delivery.ErrInvalid):
		err = problem(http.StatusBadRequest, wire.ProblemBadRequest, err.Error())
	case errors.Is(err, delivery.ErrBusy):
		err = problem(http.StatusTooManyRequests, wire.ProblemRateLimited, err.Error())
	case errors.Is(err, delivery.ErrKeyUsed):
		err = problem(http.StatusConflict, wire.ProblemConflict, err.Error())
	case errors.Is(err, delivery.ErrRemoved):
		err = problem(http.StatusGone, wire.ProblemRemoved, err.Error())
	case errors.Is(err, delivery.ErrQuarantined):
		err = problem(http.StatusConflict, wire.ProblemQuarantined, err.Error())
	case errors.Is(err, store.ErrFull):
		err = problem(http.StatusInsufficientStorage, wire.ProblemDiskFull, "the disk of the server's state directory is full; nothing was stored. Free space there, then repeat")
	case errors.Is(err, delivery.ErrStopped), errors.Is(err, store.ErrClosed):
		err = errDraining
	default:
		p, _ := asProblem(problem(http.StatusInternalServerError, wire.ProblemInternal, "the server failed; its log says how"))
		return p, false
	}
	return asProblem(err)
}

// fail answers err as a problem document.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, known := asProblem(err)
	switch {
	case !known && r.Context().Err() != nil && errors.Is(err, context.Canceled):
		a.log.Debug("request given up by the client", "path", r.URL.Path)
	case !known, p.Code == wire.ProblemDiskFull:
		a.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	raw, err := json.Marshal(p)
	if err != nil {
		a.log.Error("problem not encoded", "error", err)
		return
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(raw) // the client may be gone; the request log has the status
}

// answer writes v as JSON; the error is that of writing it out to the connection.
func (a *API) answer(w http.ResponseWriter, status int, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if err := write(w, status, append(raw, '\n')); err != nil {
		a.log.Debug("answer not written", "error", err)
	}
	return nil
}

// write sends a whole body, and says whether the connection took it.
func write(w http.ResponseWriter, status int, body []byte) error {
	ctl := http.NewResponseController(w)
	_ = ctl.SetWriteDeadline(time.Now().Add(writeTimeout)) // see front
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return err
	}
	return ctl.Flush()
}
