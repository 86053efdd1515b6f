package server

import (
	"bytes"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// parcel is a bundle to be sent.
type parcel struct {
	id, sha256 string
	data       []byte
}

func newParcel(size int) parcel {
	data := make([]byte, size)
	crand.Read(data)
	copy(data, []byte{0x1f, 0x8b}) // as gzip begins
	return parcel{wire.NewID(), hashOf(data), data}
}

func (p parcel) span(from, to int) string {
	return fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(p.data))
}

// said is the server's answer to a part.
type said struct {
	status int
	held   int // by header; -1: it says nothing
	code   string
	wire.BundleState
}

// send makes one request of a parcel; to what it says, change comes last.
func (n *node) send(id identity, p parcel, span string, body io.Reader, change func(*http.Request)) (said, error) {
	req, err := http.NewRequestWithContext(n.t.Context(), "PUT", n.Info().OOBURL+"/v1/oob/bundle/"+p.id, body)
	if err != nil {
		return said{}, err
	}
	req.Header.Set("Authorization", "Bearer "+id.token(nil))
	req.Header.Set("Content-Range", span)
	req.Header.Set(wire.HeaderBundle, p.sha256)
	req.Header.Set(wire.HeaderBundleReason, "ordered by an operator")
	req.Header.Set(wire.HeaderBundleMade, "2024-05-06T07:08:09Z")
	if change != nil {
		change(req)
	}
	res, err := n.http.Do(req)
	if err != nil {
		return said{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return said{}, err
	}
	out := said{status: res.StatusCode, held: -1}
	if v := res.Header.Get(wire.HeaderBundleHeld); v != "" {
		if out.held, err = strconv.Atoi(v); err != nil {
			return out, err
		}
	}
	if res.StatusCode == http.StatusOK {
		return out, json.Unmarshal(raw, &out.BundleState)
	}
	var problem wire.Problem
	err = json.Unmarshal(raw, &problem)
	out.code = problem.Code
	return out, err
}

func (n *node) sent(id identity, p parcel, span string, body []byte, change func(*http.Request)) said {
	n.t.Helper()
	got, err := n.send(id, p, span, bytes.NewReader(body), change)
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

func (n *node) asked(id identity, p parcel) said {
	n.t.Helper()
	return n.sent(id, p, fmt.Sprintf("bytes */%d", len(p.data)), nil, nil)
}

// whole checks that an operator gets exactly the bytes that were sent.
func (n *node) whole(id identity, p parcel) {
	n.t.Helper()
	status, header, raw := n.request("GET", n.Info().URL+"/v1/agents/"+id.Agent+"/bundles/"+p.id, n.info.OperatorToken, nil)
	if status != http.StatusOK || !bytes.Equal(raw, p.data) || header.Get("ETag") != strconv.Quote(p.sha256) {
		n.t.Errorf("the operator gets %d with %d bytes of %d, %s", status, len(raw), len(p.data), header.Get("ETag"))
	}
}

// cut is a body that breaks off.
type cut struct {
	io.Reader
}

func (c cut) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		err = errors.New("broken line")
	}
	return n, err
}

// Whatever an endpoint and its line do: what is complete is what was announced, and
// everything else is refused, with the truth on how much is held.
func TestABundleArrivesExactlyOrIsHonestlyRefused(t *testing.T) {
	n := start(t, false, func(c *Config) { c.Limits.AgentRequests = -1 }) // its parts are tiny
	id, other := n.enroll("alpha"), n.enroll("beta")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	restarts := 0
	for round := range 12 {
		p := newParcel(1 + rnd.IntN(200_000))
		if round == 0 {
			p = newParcel(2*wire.BundlePart + 1)
		}
		size, held, complete := len(p.data), 0, false
		expect := func(what string, got said, status, bytes int) {
			t.Helper()
			if got.status != status || got.held != bytes || status == 200 && (got.ID != p.id || int(got.Held) != bytes || int(got.Total) != size || got.Complete != (bytes == size)) {
				t.Fatalf("%s, with %d of %d held: %+v, want %d with %d", what, held, size, got, status, bytes)
			}
		}
		for step := 0; step < 400 && !complete; step++ {
			from := rnd.IntN(held + 1)
			to := min(size, from+1+rnd.IntN(max(1, min(wire.BundlePart, size/3+1))))
			switch op := rnd.IntN(16); op {
			case 0, 1, 2, 3: // goes on where it is held, or before
				if op > 0 {
					from = held
					to = min(size, from+1+rnd.IntN(min(wire.BundlePart, size/3+1)))
				}
				held = max(held, to)
				expect("a part", n.sent(id, p, p.span(from, to), p.data[from:to], nil), 200, held)
			case 4: // other bytes where some are held: those stay
				part := bytes.Clone(p.data[from:to])
				for i := range part[:min(held, to)-min(held, from)] {
					part[i] ^= 0xff
				}
				held = max(held, to)
				expect("a part with changes in what is held", n.sent(id, p, p.span(from, to), part, nil), 200, held)
			case 5:
				if held+1 < size {
					from = held + 1 + rnd.IntN(size-held-1)
					to = min(size, from+wire.BundlePart)
					expect("a gap", n.sent(id, p, p.span(from, to), p.data[from:to], nil), 409, held)
				}
			case 6:
				expect("a question", n.asked(id, p), 200, held)
			case 7:
				q := p
				q.sha256 = hashOf([]byte("other"))
				if held > 0 {
					expect("another hash", n.sent(id, q, p.span(from, to), p.data[from:to], nil), 409, -1)
				}
			case 8:
				if held > 0 {
					expect("another size", n.sent(id, p, fmt.Sprintf("bytes %d-%d/%d", from, to-1, size+1), p.data[from:to], nil), 409, -1)
				}
			case 9:
				if held > 0 {
					expect("another agent", n.sent(other, p, p.span(from, to), p.data[from:to], nil), 409, -1)
					expect("another agent's question", n.asked(other, p), 409, -1)
				}
			case 10:
				expect("too large a bundle", n.sent(id, p, fmt.Sprintf("bytes 0-0/%d", wire.MaxBundle+1), p.data[:1], nil), 413, -1)
				expect("too large a part", n.sent(id, p, fmt.Sprintf("bytes 0-%d/%d", wire.BundlePart, wire.MaxBundle), make([]byte, wire.BundlePart+1), nil), 413, -1)
			case 11:
				expect("a length that differs", n.sent(id, p, p.span(from, to), append(bytes.Clone(p.data[from:to]), 0), nil), 400, -1)
				expect("no range", n.sent(id, p, "", p.data[from:to], nil), 400, -1)
			case 12, 13: // the line breaks: what came counts, or not, and is told
				if restarts++; restarts > 15 || held == size {
					continue
				}
				body := p.data[held : held+rnd.IntN(size-held+1)]
				if _, err := n.send(id, p, p.span(held, min(size, held+wire.BundlePart)), cut{bytes.NewReader(body)}, func(r *http.Request) {
					r.ContentLength = int64(min(size-held, wire.BundlePart))
				}); err == nil && len(body) < min(size-held, wire.BundlePart) {
					t.Fatal("a part that broke off was answered")
				}
				n = n.restartedReal() // which waits for the handler
				got := n.asked(id, p)
				if got.status != 200 || got.held < held || got.held > held+len(body) {
					t.Fatalf("after a cut at %d+%d: %+v", held, len(body), got)
				}
				held = got.held
			case 14:
				if restarts++; restarts < 15 {
					n = n.restartedReal()
					expect("a question after a restart", n.asked(id, p), 200, held)
				}
			case 15:
				bad := p
				for _, bad.id = range []string{"..%2fx", "A", "-x", strings.Repeat("a", 65)} {
					if got := n.sent(id, bad, p.span(from, to), p.data[from:to], nil); got.status != 400 {
						t.Fatalf("id %q: %+v", bad.id, got)
					}
				}
			}
			complete = held == size
		}
		if !complete {
			t.Fatalf("%d of %d bytes after all steps", held, size)
		}
		n.whole(id, p)
		expect("sent again", n.sent(id, p, p.span(0, 1), p.data[:1], nil), 200, size)
	}
	list := operate[operator.List[operator.Bundle]](n, "GET", "/v1/agents/alpha/bundles", nil)
	if len(list.Items) != 12 || list.Items[0].Reason != "ordered by an operator" || list.Items[0].MadeAt == nil || list.Items[0].MadeAt.Year() != 2024 || !list.Items[0].Complete {
		t.Errorf("listed %+v", list.Items)
	}
}

func TestTwoSendersOfOneBundle(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	p := newParcel(300_000)
	errs := make(chan error, 2)
	var senders sync.WaitGroup
	for range 2 {
		senders.Go(func() {
			for from := 0; ; {
				to := min(len(p.data), from+1+rand.IntN(20_000))
				got, err := n.send(id, p, p.span(from, to), bytes.NewReader(p.data[from:to]), nil)
				switch {
				case err != nil:
				case got.Complete:
					return
				case (got.status == 200 || got.status == 409) && got.held >= 0:
					if from = got.held; rand.IntN(3) == 0 {
						from = rand.IntN(from + 1)
					}
					continue
				default:
					err = fmt.Errorf("%+v", got)
				}
				errs <- err
				return
			}
		})
	}
	senders.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	n.whole(id, p)
}

func TestABundleOfOtherBytesIsDroppedWhole(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	p := newParcel(1000)
	wrong := bytes.Clone(p.data)
	wrong[500] ^= 1
	if got := n.sent(id, p, p.span(0, 600), wrong[:600], nil); got.status != 200 || got.held != 600 {
		t.Fatalf("%+v", got)
	}
	if got := n.sent(id, p, p.span(600, 1000), wrong[600:], nil); got.status != 400 || got.held != 0 || got.code != wire.ProblemBadRequest {
		t.Errorf("wrong bytes: %+v", got)
	}
	if got := n.asked(id, p); got.status != 200 || got.held != 0 {
		t.Errorf("after it: %+v", got)
	}
	if got := n.sent(id, p, p.span(0, 1000), p.data, nil); !got.Complete {
		t.Errorf("the right ones: %+v", got)
	}
	n.whole(id, p)
}

func TestBundlesAreBoundedAndRemoved(t *testing.T) {
	n := start(t, false, nil)
	id, other := n.enroll("alpha"), n.enroll("beta")
	operate[operator.Directive](n, "POST", "/v1/agents/alpha/directives", operator.NewDirective{Kind: wire.DirectiveQuarantine})
	var all []parcel
	for range 22 { // of a quarantined agent, which may still tell what is wrong
		p := newParcel(100)
		if got := n.sent(id, p, p.span(0, 100), p.data, nil); !got.Complete {
			t.Fatalf("%+v", got)
		}
		all = append(all, p)
	}
	first, second := newParcel(100), newParcel(100)
	for _, p := range []parcel{first, second} {
		if got := n.sent(id, p, p.span(0, 50), p.data[:50], nil); got.held != 50 {
			t.Fatalf("%+v", got)
		}
	}
	if got := n.asked(id, first); got.held != 0 {
		t.Errorf("of two that are not whole the older one: %+v", got)
	}
	list := operate[operator.List[operator.Bundle]](n, "GET", "/v1/agents/alpha/bundles", nil).Items
	if len(list) != 21 || list[0].ID != second.id || list[0].Complete || list[0].Held != 50 || list[20].ID != all[2].id {
		t.Fatalf("%d stay: %+v", len(list), list)
	}
	if got := operate[operator.List[operator.Bundle]](n, "GET", "/v1/agents/beta/bundles", nil).Items; len(got) != 0 {
		t.Errorf("of another agent: %+v", got)
	}
	url := n.Info().URL + "/v1/agents/"
	for path, want := range map[string]int{
		"alpha/bundles/" + second.id:  http.StatusConflict, // not whole
		"alpha/bundles/" + all[0].id:  http.StatusNotFound,
		"beta/bundles/" + all[5].id:   http.StatusNotFound, // another agent's
		"alpha/bundles/" + all[5].id:  http.StatusOK,
		"nobody/bundles/" + all[5].id: http.StatusNotFound,
	} {
		if status, _, raw := n.request("GET", url+path, n.info.OperatorToken, nil); status != want {
			t.Errorf("%s: %d %.80s", path, status, raw)
		}
	}
	for _, token := range []string{"", other.token(nil)} {
		if status, _, _ := n.request("GET", url+"alpha/bundles/"+all[5].id, token, nil); status != http.StatusUnauthorized {
			t.Errorf("without an operator's token: %d", status)
		}
	}
	for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		if status, _, raw := n.request("DELETE", url+"alpha/bundles/"+all[5].id, n.info.OperatorToken, nil); status != want {
			t.Errorf("removed: %d %.80s", status, raw)
		}
	}
}

// One agent sends two parts at once, no more; a third is told when to come back, and
// another agent is not kept waiting. Nothing of it costs what is held.
func TestTooManyPartsAtOnceAreToldWhenToComeBack(t *testing.T) {
	n := start(t, false, nil)
	id, other := n.enroll("alpha"), n.enroll("beta")
	p, q := newParcel(300), newParcel(100)
	if got := n.sent(id, p, p.span(0, 100), p.data[:100], nil); got.held != 100 {
		t.Fatalf("%+v", got)
	}
	var lines []*io.PipeWriter
	var senders sync.WaitGroup
	for range 2 { // of each only a beginning comes
		body, line := io.Pipe()
		lines = append(lines, line)
		senders.Go(func() {
			n.send(id, p, p.span(100, 300), body, func(r *http.Request) { r.ContentLength = 200 }) // is cut off
		})
		if _, err := line.Write(p.data[100:150]); err != nil {
			t.Fatal(err)
		}
	}
	var got said
	var after string
	for range 200 { // the two may not have been taken up yet: a question shows it
		res := n.raw(id, p)
		got.status, after = res.StatusCode, res.Header.Get("Retry-After")
		res.Body.Close()
		if got.status == http.StatusTooManyRequests {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if seconds, err := strconv.Atoi(after); got.status != http.StatusTooManyRequests || err != nil || seconds < 1 || seconds > 60 {
		t.Errorf("a third at once: %d, Retry-After %q", got.status, after)
	}
	if got := n.sent(other, q, q.span(0, 100), q.data, nil); !got.Complete {
		t.Errorf("another agent: %+v", got)
	}
	for _, line := range lines {
		line.CloseWithError(errors.New("broken line"))
	}
	senders.Wait()
	for range 200 { // the handlers end by themselves
		if got = n.asked(id, p); got.status == 200 && got.held == 150 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got.status != 200 || got.held != 150 {
		t.Errorf("of two parts cut off after 50 of 200 bytes: %+v, want 150 held", got)
	}
	if got := n.sent(id, p, p.span(150, 300), p.data[150:], nil); !got.Complete {
		t.Errorf("the rest: %+v", got)
	}
	n.whole(id, p)
}

// raw asks how much of p is held, and gives the answer as it is.
func (n *node) raw(id identity, p parcel) *http.Response {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), "PUT", n.Info().OOBURL+"/v1/oob/bundle/"+p.id, http.NoBody)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+id.token(nil))
	req.Header.Set("Content-Range", fmt.Sprintf("bytes */%d", len(p.data)))
	req.Header.Set(wire.HeaderBundle, p.sha256)
	res, err := n.http.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	return res
}
