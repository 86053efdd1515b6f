package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/internal/admission"
	"gururmm/server/store"
	"gururmm/wire"
)

// asked is a store that knows nobody, and counts who asked.
type asked struct {
	store.Store
	agents, operators int
}

func (s *asked) Agent(context.Context, string) (store.Agent, error) {
	s.agents++
	return store.Agent{}, store.ErrNotFound
}

func (s *asked) OperatorToken(context.Context, store.Hash, time.Time) (store.OperatorToken, error) {
	s.operators++
	return store.OperatorToken{}, store.ErrNotFound
}

// A token that is well formed, of nobody.
const stranger = "Bearer eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ4In0.AAAA"

// While one door is full, who comes there is sent away before anything is looked up, with
// a turn of its own; the other doors are open.
func TestAFullDoorClosesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &asked{}
		a := New(Options{Store: st, ServerID: "s", Log: slog.New(slog.DiscardHandler)})
		main, oob := a.Main(), a.OOB()
		ask := func(h http.Handler, method, path string) (int, string, string) {
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader("{}"))
			r.Header.Set("Authorization", stranger)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code, codeIn(w.Body.String()), w.Header().Get("Retry-After")
		}
		doors := map[string]func() (int, string, string){
			doorLink:      func() (int, string, string) { return ask(main, "GET", "/v1/link") },
			doorOOB:       func() (int, string, string) { return ask(oob, "POST", "/v1/oob/poll") },
			doorOperators: func() (int, string, string) { return ask(main, "GET", "/v1/agents") },
		}
		for full := range doors {
			a.doors[full] = admission.New(1, 0, 0)
			leave, err := a.doors[full].Enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := *st
			last := 0
			for range 200 {
				status, code, after := doors[full]()
				n, err := strconv.Atoi(after)
				if status != http.StatusServiceUnavailable || code != wire.ProblemBusy || err != nil || n < 1 || n < last {
					t.Fatalf("%s is full: %d %s, Retry-After %q", full, status, code, after)
				}
				last = n
			}
			if last < 10 {
				t.Errorf("%s: the last of 200 may come after %d s", full, last)
			}
			if st.agents != before.agents || st.operators != before.operators {
				t.Errorf("%s: somebody was looked up", full)
			}
			for other, ask := range doors {
				if status, code, _ := ask(); other != full && status != http.StatusUnauthorized {
					t.Errorf("while %s is full, %s answers %d %s", full, other, status, code)
				}
			}
			leave()
			a.doors = newDoors()
			if status, code, _ := doors[full](); status != http.StatusUnauthorized {
				t.Errorf("%s with room again: %d %s", full, status, code)
			}
		}
		for door, s := range a.Doors() {
			if s.In != 0 || s.Waiting != 0 {
				t.Errorf("%s: a place was not given back: %+v", door, s)
			}
		}
	})
}

func codeIn(body string) string {
	_, rest, _ := strings.Cut(body, `"code":"`)
	code, _, _ := strings.Cut(rest, `"`)
	return code
}
