package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gururmm/server/store"
	"gururmm/wire"
)

// A full disk is the operator's to mend, so it is told; what else broke is the log's.
func TestAFullDiskIsToldAndOtherFailuresAreNot(t *testing.T) {
	p, known := asProblem(fmt.Errorf("database: %w: database or disk is full (13)", store.ErrFull))
	if !known || p.Status != http.StatusInsufficientStorage || p.Code != wire.ProblemDiskFull {
		t.Errorf("%+v, %v", p, known)
	}
	p, known = asProblem(errors.New("secret detail"))
	if known || p.Status != http.StatusInternalServerError || p.Detail == "secret detail" {
		t.Errorf("%+v, %v", p, known)
	}
}

// A database that is away for a moment is a reason to come back, not to give up.
func TestAnUnreachableDatabaseIsToComeBackTo(t *testing.T) {
	a := &API{log: slog.New(slog.DiscardHandler)}
	for _, err := range []error{store.ErrUnavailable, store.ErrUnknown, store.ErrInUse} {
		w := httptest.NewRecorder()
		a.fail(w, httptest.NewRequest("POST", "/v1/commands", nil), fmt.Errorf("database postgres://u@h/d: %w", err))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), wire.ProblemDatabase) || strings.Contains(w.Body.String(), "postgres") {
			t.Errorf("%v: %d %v %s", err, w.Code, w.Header(), w.Body)
		}
	}
}
