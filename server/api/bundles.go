package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gururmm/operator"
	"gururmm/server/bundles"
	"gururmm/server/store"
	"gururmm/wire"
)

const (
	// partTimeout bounds the reading of a part of a bundle: 512 KiB at 4.4 kB/s. What
	// of it comes over a slower line is kept, too.
	partTimeout = 2 * time.Minute
	// keepTimeout bounds the keeping of a part whose sender is gone.
	keepTimeout = 10 * time.Second
)

// takeBundle takes a part of a support bundle, or tells how much of it is held.
func (a *API) takeBundle(w http.ResponseWriter, r *http.Request, agent store.Agent) error {
	release, ok := a.parts.take(agent.ID, maxPartsEach)
	if !ok {
		return errTooMany
	}
	defer release()
	o, span, err := offered(r, agent.ID)
	if err != nil {
		return err
	}
	if span.question {
		state, err := a.o.Bundles.Held(r.Context(), o)
		return a.bundleState(w, state, err)
	}
	select {
	case a.taking <- struct{}{}:
		defer func() { <-a.taking }()
	default:
		return problem(http.StatusTooManyRequests, wire.ProblemRateLimited, "too many parts of bundles are being taken; come back in a few seconds")
	}
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Now().Add(partTimeout)) // see front
	_ = ctl.SetWriteDeadline(time.Now().Add(partTimeout + writeTimeout))
	// Not read by read: a bundle is gzip itself, and stays packed.
	part, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.BundlePart))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return tooLarge(wire.BundlePart, " a part")
	}
	if err != nil {
		a.keepCut(r.Context(), o, span, part)
		return bodyError(err, bound{packed: wire.BundlePart})
	}
	if int64(len(part)) != span.to-span.from+1 {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, "the body has another length than Content-Range says")
	}
	_ = ctl.SetReadDeadline(time.Time{})
	state, err := a.o.Bundles.Take(r.Context(), o, span.from, part)
	return a.bundleState(w, state, err)
}

// keepCut keeps what came of a part before its connection broke, so that even a
// line which never carries a whole one gets on.
func (a *API) keepCut(ctx context.Context, o bundles.Offer, span contentRange, part []byte) {
	if len(part) == 0 || int64(len(part)) > span.to-span.from+1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
	defer cancel()
	if _, err := a.o.Bundles.Take(ctx, o, span.from, part); err != nil {
		a.log.Info("part of a bundle that was cut off is not kept", "agent", o.Agent, "bundle", clip(o.ID), "bytes", len(part), "reason", err)
	}
}

func (a *API) bundleState(w http.ResponseWriter, state wire.BundleState, err error) error {
	held := func(n int64) { w.Header().Set(wire.HeaderBundleHeld, strconv.FormatInt(n, 10)) }
	gap, isGap := errors.AsType[*bundles.GapError](err)
	switch {
	case err == nil:
		held(state.Held)
		return a.answer(w, http.StatusOK, state)
	case isGap:
		held(gap.Held)
		return problem(http.StatusConflict, wire.ProblemConflict, err.Error())
	case errors.Is(err, bundles.ErrWrongHash):
		held(0)
	}
	return err
}

// offered reads what a request says of a bundle and of its part; nothing of the body.
func offered(r *http.Request, agent string) (o bundles.Offer, span contentRange, err error) {
	bad := func(detail string) error {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, detail)
	}
	switch strings.ToLower(r.Header.Get("Content-Encoding")) {
	case "", "identity":
	default:
		return o, span, problem(http.StatusUnsupportedMediaType, wire.ProblemBadRequest, "a part of a bundle is sent as it is, without Content-Encoding")
	}
	span, ok := parseContentRange(r.Header.Get("Content-Range"))
	switch {
	case !ok:
		return o, span, bad("Content-Range: want bytes FROM-TO/TOTAL, or bytes */TOTAL with an empty body")
	case span.question && r.ContentLength != 0:
		return o, span, bad("bytes */TOTAL asks how much is held, with an empty body: Content-Length 0")
	case span.total > wire.MaxBundle:
		return o, span, tooLarge(wire.MaxBundle, ", a whole bundle")
	case !span.question && (span.to-span.from >= wire.BundlePart || r.ContentLength > wire.BundlePart):
		return o, span, tooLarge(wire.BundlePart, ", a part of a bundle")
	case !span.question && r.ContentLength >= 0 && r.ContentLength != span.to-span.from+1:
		return o, span, bad("Content-Range and Content-Length differ")
	}
	o = bundles.Offer{ID: r.PathValue("id"), Agent: agent, SHA256: r.Header.Get(wire.HeaderBundle), Total: span.total, Reason: reasonOf(r)}
	if v := r.Header.Get(wire.HeaderBundleMade); v != "" {
		made, err := time.Parse(time.RFC3339, v)
		if err != nil || made.Year() < 1970 || made.Year() > 9999 {
			return o, span, bad(wire.HeaderBundleMade + ": want a time as in RFC 3339")
		}
		made = made.UTC().Truncate(time.Microsecond)
		o.MadeAt = &made
	}
	return o, span, nil
}

// reasonOf is what a bundle was made for: words for people only, so what does not
// fit is mended, not refused.
func reasonOf(r *http.Request) string {
	s := r.Header.Get(wire.HeaderBundleReason)
	s = s[:min(len(s), wire.MaxBundleReason)]
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c > 0x7e {
			return '?'
		}
		return c
	}, s)
}

// contentRange is a Content-Range (RFC 9110 §14.4): bytes from to to, both included.
type contentRange struct {
	question        bool // bytes */TOTAL
	from, to, total int64
}

func parseContentRange(s string) (c contentRange, ok bool) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return c, false
	}
	span, total, ok := strings.Cut(rest, "/")
	if !ok {
		return c, false
	}
	number := func(s string) (n int64) {
		if n, err := strconv.ParseUint(s, 10, 40); err == nil && s[0] != '+' {
			return int64(n)
		}
		ok = false
		return 0
	}
	c.total = number(total)
	if c.question = span == "*"; c.question {
		return c, ok
	}
	from, to, two := strings.Cut(span, "-")
	c.from, c.to = number(from), number(to)
	return c, ok && two && c.from <= c.to && c.to < c.total
}

func (a *API) listBundles(w http.ResponseWriter, r *http.Request, _ string) error {
	s, err := a.past(r, r.PathValue("agent"))
	if err != nil {
		return err
	}
	items, err := a.o.Bundles.List(r.Context(), s.ID)
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Bundle]{Items: orEmpty(items)})
}

// bundle gives the agent and the id of its bundle that the request names.
func (a *API) bundle(r *http.Request) (agent, id string, err error) {
	s, err := a.past(r, r.PathValue("agent"))
	if err != nil {
		return "", "", err
	}
	id, err = one(r, "bundle", func(ctx context.Context, ref string) ([]string, error) {
		return a.o.Bundles.Find(ctx, s.ID, ref)
	})
	return s.ID, id, err
}

// getBundle hands a bundle out, whole or a range of it (RFC 9110 §14).
func (a *API) getBundle(w http.ResponseWriter, r *http.Request, by string) error {
	agent, id, err := a.bundle(r)
	if err != nil {
		return err
	}
	f, b, err := a.o.Bundles.Open(r.Context(), agent, id)
	if err != nil {
		return err
	}
	defer f.Close()
	a.log.Info("bundle handed out", "agent", agent, "bundle", id, "by", by)
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{}) // see front; nothing more is read
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("ETag", strconv.Quote(b.SHA256))
	http.ServeContent(&pacedWriter{w, ctl}, r, "", *b.CompletedAt, f)
	return nil
}

func (a *API) deleteBundle(w http.ResponseWriter, r *http.Request, by string) error {
	agent, id, err := a.bundle(r)
	if err != nil {
		return err
	}
	if err := a.o.Bundles.Remove(r.Context(), agent, id); err != nil {
		return err
	}
	a.log.Info("bundle removed", "agent", agent, "bundle", id, "by", by)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
