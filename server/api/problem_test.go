package api

import (
	"errors"
	"fmt"
	"net/http"
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
