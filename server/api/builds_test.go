package api

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// Who sends a body slowly is stopped in the middle of a read, and still told why.
func TestAStoppedBodyIsAnsweredAllTheSame(t *testing.T) {
	bodies := make(chan *pacedReader, 1)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &pacedReader{r: r.Body, ctl: http.NewResponseController(w)}
		first := make([]byte, 1)
		if _, err := io.ReadFull(body, first); err != nil {
			t.Error(err)
		}
		bodies <- body
		for range 2 { // the read under way, and the next one
			if _, err := body.Read(first); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a read ends with %v", err)
			}
		}
		http.Error(w, "gave way", http.StatusTooManyRequests)
	}))
	defer s.Close()
	body, line := io.Pipe()
	defer line.Close() // the client's reader of it
	go func() {
		if _, err := line.Write([]byte("a")); err != nil {
			t.Error(err)
		}
		b := <-bodies
		time.Sleep(50 * time.Millisecond) // likely within the read; either order must do
		b.Stop()
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1000
	began := time.Now()
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusTooManyRequests {
		t.Error(res.Status)
	}
	if took := time.Since(began); took >= readTimeout {
		t.Errorf("after %v: it was the read's own deadline that ended it", took)
	}
}
