package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"gururmm/internal/admission"
	"gururmm/internal/quota"
	"gururmm/server/builds"
	"gururmm/server/bundles"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/jobs"
	"gururmm/server/rollout"
	"gururmm/server/store"
	"gururmm/wire"
)

// retryAfter is what a client that must come back is told, in seconds.
const retryAfter = 5

// problem makes an error that is answered as it is.
func problem(status int, code, detail string) wire.Problem {
	return wire.NewProblem(status, http.StatusText(status), code, detail)
}

const draining = "the server is going down; come back in a few seconds"

var errDraining = problem(http.StatusServiceUnavailable, wire.ProblemDraining, draining)

// problems are the answers to the errors of the houses below; the first that fits counts,
// so an error that wraps another stands before it.
var problems = []struct {
	err    error
	status int
	code   string
	detail string // "": what the error says
}{
	{builds.ErrNoKeys, http.StatusConflict, wire.ProblemConflict, ""},
	{builds.ErrTaken, http.StatusConflict, wire.ProblemConflict, ""},
	{builds.ErrSameBytes, http.StatusConflict, wire.ProblemConflict, ""},
	{builds.ErrRefused, http.StatusUnprocessableEntity, wire.ProblemBadRequest, ""},
	{builds.ErrBusy, http.StatusTooManyRequests, wire.ProblemRateLimited, ""},

	{bundles.ErrWrongHash, http.StatusBadRequest, wire.ProblemBadRequest, ""},
	{bundles.ErrRefused, http.StatusBadRequest, wire.ProblemBadRequest, ""},
	{bundles.ErrTooLarge, http.StatusRequestEntityTooLarge, wire.ProblemTooLarge, ""},
	{bundles.ErrTaken, http.StatusConflict, wire.ProblemConflict, ""},
	{bundles.ErrPartial, http.StatusConflict, wire.ProblemConflict, ""},
	{bundles.ErrFull, http.StatusInsufficientStorage, wire.ProblemDiskFull, ""},

	{rollout.ErrInvalid, http.StatusBadRequest, wire.ProblemBadRequest, ""},
	{rollout.ErrOverlap, http.StatusConflict, wire.ProblemConflict, ""},
	{rollout.ErrOthers, http.StatusConflict, wire.ProblemConflict, ""},
	{rollout.ErrState, http.StatusConflict, wire.ProblemConflict, ""},
	{rollout.ErrStopped, http.StatusServiceUnavailable, wire.ProblemDraining, draining},

	{jobs.ErrInvalid, http.StatusBadRequest, wire.ProblemBadRequest, ""},
	{jobs.ErrKeyUsed, http.StatusConflict, wire.ProblemConflict, ""},
	{jobs.ErrOthers, http.StatusConflict, wire.ProblemConflict, ""},

	{hub.ErrNoCopy, http.StatusNotFound, wire.ProblemNotFound, ""},
	{hub.ErrSoleCopy, http.StatusConflict, wire.ProblemConflict, ""},

	{store.ErrNotFound, http.StatusNotFound, wire.ProblemNotFound, "no such thing"},
	{store.ErrConflict, http.StatusConflict, wire.ProblemConflict, "it exists already, or changed meanwhile"},
	{store.ErrTokenInvalid, http.StatusForbidden, wire.ProblemToken, "the token is unknown, spent or expired"},
	{store.ErrFull, http.StatusInsufficientStorage, wire.ProblemDiskFull, "the disk of the server's database is full; nothing was stored. Free space there, then repeat"},
	{store.ErrUnavailable, http.StatusServiceUnavailable, wire.ProblemDatabase, "the server can't reach its database at the moment; nothing was stored. Come back in a few seconds"},
	{store.ErrUnknown, http.StatusServiceUnavailable, wire.ProblemDatabase, "the server lost its database while this was stored, and does not know whether it is; look before you repeat it"},
	{store.ErrLeaseLost, http.StatusServiceUnavailable, wire.ProblemDatabase, "this node was away from its database for too long and joins the others anew; come back in a few seconds, or ask another node"},
	{store.ErrInUse, http.StatusServiceUnavailable, wire.ProblemDatabase, "another server works on the database of this one; nothing was stored"},
	{store.ErrClosed, http.StatusServiceUnavailable, wire.ProblemDraining, draining},

	{delivery.ErrInvalid, http.StatusBadRequest, wire.ProblemBadRequest, ""},
	{delivery.ErrBusy, http.StatusTooManyRequests, wire.ProblemRateLimited, ""},
	{delivery.ErrKeyUsed, http.StatusConflict, wire.ProblemConflict, ""},
	{delivery.ErrRemoved, http.StatusGone, wire.ProblemRemoved, ""},
	{delivery.ErrQuarantined, http.StatusConflict, wire.ProblemQuarantined, ""},
	{delivery.ErrStopped, http.StatusServiceUnavailable, wire.ProblemDraining, draining},
}

// asProblem gives any error its answer; known is false for one of our own making
// that the client is told nothing of.
func asProblem(err error) (p wire.Problem, known bool) {
	if p, ok := errors.AsType[wire.Problem](err); ok {
		return p, true
	}
	if b, ok := errors.AsType[*admission.Busy](err); ok {
		return problem(http.StatusServiceUnavailable, wire.ProblemBusy, b.Error()), true
	}
	if e, ok := errors.AsType[*tooFast](err); ok {
		return problem(http.StatusTooManyRequests, wire.ProblemTooFast, e.Error()), true
	}
	for _, a := range problems {
		if errors.Is(err, a.err) {
			return problem(a.status, a.code, cmp.Or(a.detail, err.Error())), true
		}
	}
	return problem(http.StatusInternalServerError, wire.ProblemInternal, "the server failed; its log says how"), false
}

// fail answers err as a problem document.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, known := asProblem(err)
	switch {
	case !known && r.Context().Err() != nil && errors.Is(err, context.Canceled):
		a.log.Debug("request given up by the client", "path", r.URL.Path)
	case !known, p.Code == wire.ProblemDiskFull, p.Code == wire.ProblemDatabase:
		a.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		after := retryAfter
		if b, ok := errors.AsType[*admission.Busy](err); ok {
			after = quota.Seconds(b.After)
		}
		if e, ok := errors.AsType[*tooFast](err); ok {
			after = quota.Seconds(e.wait)
		}
		w.Header().Set("Retry-After", strconv.Itoa(after))
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
