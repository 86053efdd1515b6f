package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"testing"
	"time"

	"gururmm/operator"
)

// What is followed comes in order and once each, over a moment in which the server does
// not serve, and of nothing that was there before.
func TestFollowedEventsComeOnceEach(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked++
		var items []operator.AgentEvent
		switch {
		case asked == 1 && q.Get("after") == "7" && q.Get("agent") == "web-17": // behind the newest that was listed
			items = []operator.AgentEvent{{Seq: 8}}
		case asked == 2: // it restarts
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case asked == 3 && q.Get("after") == "8":
			items = []operator.AgentEvent{{Seq: 9}, {Seq: 10}}
		default:
			t.Errorf("request %d asks for %v", asked, q)
		}
		json.NewEncoder(w).Encode(operator.List[operator.AgentEvent]{Items: items})
	}))
	defer server.Close()
	client, err := operator.New(server.URL, "gro_x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var got []int64
	err = followEvents(ctx, client, operator.EventFilter{Agent: "web-17"}, []operator.AgentEvent{{Seq: 5}, {Seq: 7}}, func(e operator.AgentEvent) error {
		got = append(got, e.Seq)
		if e.Seq == 10 {
			stop() // as Ctrl-C does
		}
		return nil
	})
	if err != nil || !slices.Equal(got, []int64{5, 7, 8, 9, 10}) {
		t.Errorf("followed %v, %v", got, err)
	}
}

// What an endpoint told late is listed where it belongs.
func TestEventsAreListedInOrderOfTime(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 3, 1, 13, 20, s, 0, time.UTC) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(operator.List[operator.AgentEvent]{Items: []operator.AgentEvent{
			{Seq: 4, At: at(38), To: "fourth"}, {Seq: 3, At: at(16), To: "second"}, {Seq: 2, At: at(38), To: "third"}, {Seq: 1, At: at(10), To: "first"},
		}})
	}))
	defer server.Close()
	out, words, code := typed(t, map[string]string{"GURURMM_URL": server.URL, "GURURMM_TOKEN": "gro_x"}, "events", "web-17")
	if code != 0 || !regexp.MustCompile(`(?s)first.*second.*third.*fourth`).MatchString(out) {
		t.Errorf("exit %d, %s%s", code, out, words)
	}
}

func TestFollowingEndsWhereTheServerRefuses(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("within_ms") != "1000" { // nothing came yet: what is older stays away
			t.Errorf("asked for %v", r.URL.Query())
		}
		http.Error(w, "no", http.StatusUnauthorized)
	}))
	defer server.Close()
	client, err := operator.New(server.URL, "gro_x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = followEvents(t.Context(), client, operator.EventFilter{Within: 1e9}, nil, func(operator.AgentEvent) error { return errors.New("none came") })
	if err == nil || err.Error() == "none came" {
		t.Errorf("got %v", err)
	}
}
