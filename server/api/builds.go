package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"gururmm/operator"
	"gururmm/release"
	"gururmm/server/store"
	"gururmm/wire"
)

func (a *API) listBuilds(w http.ResponseWriter, r *http.Request, _ string) error {
	items, err := a.o.Builds.List(r.Context())
	if err != nil {
		return err
	}
	return a.answer(w, http.StatusOK, operator.List[operator.Build]{Items: orEmpty(items)})
}

// publish takes a program in. All that its signature can tell is checked before the
// body is read: a client that waits for 100 (RFC 9110 §10.1.1) sends none in vain.
func (a *API) publish(w http.ResponseWriter, r *http.Request, by string) error {
	bad := func(detail string) error {
		return problem(http.StatusBadRequest, wire.ProblemBadRequest, detail)
	}
	signature, err := base64.StdEncoding.DecodeString(r.Header.Get(operator.HeaderSignature))
	if err != nil || len(signature) == 0 {
		return bad(operator.HeaderSignature + ": want a minisign signature file in base64")
	}
	b, err := release.Signed(string(signature))
	if err != nil {
		return bad(err.Error())
	}
	if r.ContentLength < 0 {
		return problem(http.StatusLengthRequired, wire.ProblemBadRequest, "the program's size must be told: Content-Length")
	}
	b.SHA256, b.Size = r.PathValue("sha256"), r.ContentLength
	if err := a.o.Builds.Publish(r.Context(), b, &pacedReader{r: r.Body, ctl: http.NewResponseController(w)}, by); err != nil {
		return err
	}
	a.log.Info("build published", "version", b.Version, "os", b.OS, "arch", b.Arch, "sha256", b.SHA256, "bytes", b.Size, "by", by)
	return a.answer(w, http.StatusOK, b)
}

func (a *API) removeBuilds(w http.ResponseWriter, r *http.Request, by string) error {
	version := r.PathValue("version")
	if id, err := a.o.Rollouts.Uses(r.Context(), version); err != nil {
		return err
	} else if id != "" {
		return problem(http.StatusConflict, wire.ProblemConflict, fmt.Sprintf("rollout %s needs it; stop it first: gururmm update stop %s", id, id))
	}
	removed, err := a.o.Builds.Remove(r.Context(), version)
	if errors.Is(err, store.ErrNotFound) {
		return unknown("published version", version)
	}
	if err != nil {
		return err
	}
	a.log.Info("builds removed", "version", version, "builds", len(removed), "by", by)
	return a.answer(w, http.StatusOK, operator.List[operator.Build]{Items: removed})
}

// program hands a program out, whole or a range of it (RFC 9110 §14). Any agent may
// have any published one: programs are no secret, and what an agent may run is
// decided by their signature and by its orders, not by who can fetch them.
func (a *API) program(w http.ResponseWriter, r *http.Request, agent store.Agent) error {
	release, ok := a.downloads.take(agent.ID, maxDownloads)
	if !ok {
		return errTooMany
	}
	defer release()
	f, b, err := a.o.Builds.Open(r.Context(), r.PathValue("sha256"))
	if errors.Is(err, store.ErrNotFound) {
		return unknown("build", clip(r.PathValue("sha256")))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Time{}) // see front; nothing more is read
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", strconv.Quote(b.SHA256))
	http.ServeContent(&pacedWriter{w, ctl}, r, "", b.PublishedAt, f)
	return nil
}

// pacedReader reads a body of any size for as long as it makes progress.
type pacedReader struct {
	r   io.Reader
	ctl *http.ResponseController

	mu      sync.Mutex
	stopped bool
}

func (p *pacedReader) Read(b []byte) (int, error) {
	if !p.goOn() {
		return 0, os.ErrDeadlineExceeded
	}
	return p.r.Read(b)
}

// goOn gives the next read its time, unless Stop was called.
func (p *pacedReader) goOn() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		now := time.Now()
		_ = p.ctl.SetReadDeadline(now.Add(readTimeout)) // see front
		_ = p.ctl.SetWriteDeadline(now.Add(readTimeout + writeTimeout))
	}
	return !p.stopped
}

// Stop ends the read under way, and all later ones.
func (p *pacedReader) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	_ = p.ctl.SetReadDeadline(time.Unix(1, 0)) // long ago
}

// pacedWriter writes an answer of any size for as long as each piece gets through:
// at 32 KiB a piece, a link of 1.1 KB/s still does.
type pacedWriter struct {
	http.ResponseWriter
	ctl *http.ResponseController
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	_ = p.ctl.SetWriteDeadline(time.Now().Add(writeTimeout)) // see front
	return p.ResponseWriter.Write(b)
}
