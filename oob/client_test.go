package oob_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gururmm/internal/certtest"
	"gururmm/internal/neterr"
	"gururmm/internal/pin"
	"gururmm/oob"
	"gururmm/selfcheck"
	"gururmm/wire"
)

// testDoor is a pinned TLS server that says whatever its handler says.
type testDoor struct {
	*httptest.Server
	pin   string
	conns atomic.Int32
	calls atomic.Int32
}

func newDoor(t *testing.T, handle http.HandlerFunc) *testDoor {
	t.Helper()
	cert := certtest.NewCA(t).Leaf(t, nil)
	d := &testDoor{pin: pin.Of(cert.Leaf)}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.calls.Add(1)
		handle(w, r)
	}))
	d.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	d.Config.ErrorLog = log.New(io.Discard, "", 0)
	d.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			d.conns.Add(1)
		}
	}
	d.StartTLS()
	t.Cleanup(d.Close)
	return d
}

func (d *testDoor) door() wire.OOBDoor { return wire.OOBDoor{URL: d.URL, Pin: d.pin} }

// muteDoor accepts and says nothing, not even TLS.
func muteDoor(t *testing.T) wire.OOBDoor {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
	return wire.OOBDoor{URL: "https://" + l.Addr().String()}
}

func refusedDoor(t *testing.T) wire.OOBDoor {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return wire.OOBDoor{URL: "https://" + l.Addr().String()}
}

func answer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(wire.HeaderTime, time.Now().UTC().Format(time.RFC3339Nano))
	json.NewEncoder(w).Encode(wire.PollResponse{ServerTime: time.Now(), View: &wire.ServerView{Presence: r.URL.Path}})
}

func problem(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(wire.Problem{Title: "no", Status: status, Code: code})
}

func newClient(t *testing.T, change func(*oob.ClientOptions), doors ...wire.OOBDoor) *oob.Client {
	t.Helper()
	o := oob.ClientOptions{
		Doors: doors,
		Token: func(now time.Time) (string, error) { return strconv.FormatInt(now.UnixNano(), 10), nil },
	}
	if change != nil {
		change(&o)
	}
	c, err := oob.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestBeaconArrivesWhole(t *testing.T) {
	want := sample("r1", selfcheck.SeverityError)
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got, err := oob.DecodeReport(body)
		if err != nil || got.ReportID != want.ReportID || got.Verdict.Code != want.Verdict.Code {
			t.Errorf("read %+v, %v", got.ReportID, err)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/v1/oob/beacon" || r.Header.Get("Content-Encoding") != "gzip" ||
			!strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || len(r.Header["Idempotency-Key"]) != 0 {
			t.Errorf("%s %s, headers %v", r.Method, r.URL, r.Header)
		}
		answer(w, r)
	})
	c := newClient(t, nil, d.door())
	resp, err := c.Beacon(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if resp.View == nil || resp.View.Presence != "/v1/oob/beacon" {
		t.Errorf("view %+v", resp.View)
	}
	if offset, ok := c.Offset(); !ok || offset.Abs() > time.Second {
		t.Errorf("offset %v, %v", offset, ok)
	}
}

// A mute door must not cost a beacon more than three seconds, nor be asked
// first the next time.
func TestFailoverFromAMuteDoor(t *testing.T) {
	second := newDoor(t, answer)
	c := newClient(t, nil, muteDoor(t), second.door())
	began := time.Now()
	if _, err := c.Beacon(t.Context(), sample("r", selfcheck.SeverityError)); err != nil {
		t.Fatal(err)
	}
	// The limit is 2.5 s; the rest is for this machine, which may be busy.
	if took := time.Since(began); took < 2*time.Second || took > 8*time.Second {
		t.Errorf("failover took %v", took)
	}
	if c.Door() != second.URL {
		t.Errorf("door in use is %s", c.Door())
	}
	began = time.Now()
	if _, err := c.Beacon(t.Context(), sample("r", selfcheck.SeverityError)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the door that works was not asked first: %v", took)
	}
}

// A door that is the only one and slow gets a second, patient round.
func TestSlowDoorIsAskedAgain(t *testing.T) {
	var calls atomic.Int32
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		}
		answer(w, r)
	})
	c := newClient(t, nil, refusedDoor(t), d.door())
	if _, err := c.Beacon(t.Context(), sample("r", selfcheck.SeverityError)); err != nil {
		t.Fatal(err)
	}
	if calls.Load() != 2 {
		t.Errorf("%d calls", calls.Load())
	}
}

func TestFirstDoorIsTriedAgainAfterAWhile(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	first := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		answer(w, r)
	})
	second := newDoor(t, answer)
	var clock fakeClock
	c := newClient(t, func(o *oob.ClientOptions) { o.Clock = clock.now }, first.door(), second.door())
	poll := func(want *testDoor) {
		t.Helper()
		before := want.calls.Load()
		if _, err := c.Poll(t.Context(), wire.PollRequest{}); err != nil {
			t.Fatal(err)
		}
		if want.calls.Load() != before+1 || c.Door() != want.URL {
			t.Fatalf("served by %s, want %s", c.Door(), want.URL)
		}
	}
	poll(second)
	broken.Store(false)
	poll(second)
	clock.add(11 * time.Minute)
	poll(first)
	poll(first)
	if n := first.calls.Load(); n != 3 {
		t.Errorf("first door was asked %d times", n)
	}
}

// Doors come and go while requests are under way: those end where they began.
func TestDoorsAreReplaced(t *testing.T) {
	held, let := make(chan struct{}), make(chan struct{})
	first := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		close(held)
		<-let
		answer(w, r)
	})
	second := newDoor(t, answer)
	c := newClient(t, nil, first.door())
	polled := make(chan error, 1)
	go func() {
		_, err := c.Poll(t.Context(), wire.PollRequest{WaitMS: 20_000})
		polled <- err
	}()
	<-held
	if err := c.SetDoors([]wire.OOBDoor{{URL: "http://plain.example"}}); err == nil || c.Door() != first.URL {
		t.Errorf("a door that can't be: %v, then %s", err, c.Door())
	}
	if err := c.SetDoors([]wire.OOBDoor{second.door()}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Poll(t.Context(), wire.PollRequest{}); err != nil || second.calls.Load() != 1 {
		t.Errorf("at the new door: %v, %d calls", err, second.calls.Load())
	}
	close(let)
	if err := <-polled; err != nil {
		t.Errorf("the poll under way: %v", err)
	}
	// One that is gone is not gone back to, though its answer came last.
	if c.Door() != second.URL {
		t.Errorf("the door is %s", c.Door())
	}
	// A door that stays keeps its connection.
	if err := c.SetDoors([]wire.OOBDoor{first.door(), second.door()}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Poll(t.Context(), wire.PollRequest{}); err != nil || second.calls.Load() != 2 || second.conns.Load() != 1 {
		t.Errorf("%v, %d calls on %d connections", err, second.calls.Load(), second.conns.Load())
	}
}

func TestPinDecides(t *testing.T) {
	d := newDoor(t, answer)
	other := certtest.NewCA(t)
	c := newClient(t, nil, wire.OOBDoor{URL: d.URL, Pin: pin.Of(other.Cert)})
	_, err := c.Poll(t.Context(), wire.PollRequest{})
	de, ok := errors.AsType[*oob.DoorError](err)
	if !ok || !errors.Is(err, neterr.ErrPin) || de.Type != neterr.TLSCertPin || de.Phase != "connection" || de.Door != d.URL {
		t.Errorf("error %v", err)
	}
	if d.calls.Load() != 0 {
		t.Error("the token went to a server with the wrong key")
	}
	// Without a pin the roots decide.
	_, err = newClient(t, nil, wire.OOBDoor{URL: d.URL}).Poll(t.Context(), wire.PollRequest{})
	if ne := oob.NetworkError(err); ne == nil || ne.Type != neterr.TLSCertAuthority {
		t.Errorf("unpinned: %v", err)
	}
}

func TestAllDoorsFailNamesEach(t *testing.T) {
	a, b := refusedDoor(t), refusedDoor(t)
	_, err := newClient(t, nil, a, b).Poll(t.Context(), wire.PollRequest{})
	if err == nil || !strings.Contains(err.Error(), a.URL) || !strings.Contains(err.Error(), b.URL) {
		t.Fatalf("error %v", err)
	}
	if ne := oob.NetworkError(err); ne.Type != neterr.TCPRefused || ne.Phase != "connection" {
		t.Errorf("network error %+v", ne)
	}
	if _, err := newClient(t, nil).Poll(t.Context(), wire.PollRequest{}); !errors.Is(err, oob.ErrNoDoors) {
		t.Errorf("without doors: %v", err)
	}
}

func TestWrongClockIsCorrectedAtOnce(t *testing.T) {
	const skew = -3 * time.Hour
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(wire.HeaderTime, time.Now().UTC().Format(time.RFC3339Nano))
		ns, _ := strconv.ParseInt(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), 10, 64)
		if time.Since(time.Unix(0, ns)).Abs() > 30*time.Second {
			problem(w, http.StatusUnauthorized, wire.ProblemClock)
			return
		}
		answer(w, r)
	})
	c := newClient(t, func(o *oob.ClientOptions) {
		o.Clock = func() time.Time { return time.Now().Add(skew) }
	}, d.door())
	if _, ok := c.Offset(); ok {
		t.Error("offset known before any answer")
	}
	if _, err := c.Poll(t.Context(), wire.PollRequest{}); err != nil {
		t.Fatal(err)
	}
	if n := d.calls.Load(); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
	if offset, ok := c.Offset(); !ok || (offset+skew).Abs() > 5*time.Second {
		t.Errorf("offset %v, %v; want about %v", offset, ok, -skew)
	}
}

func TestClockIsRetriedOnlyOnce(t *testing.T) {
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(wire.HeaderTime, time.Now().UTC().Format(time.RFC3339Nano))
		problem(w, http.StatusUnauthorized, wire.ProblemClock)
	})
	_, err := newClient(t, nil, d.door()).Poll(t.Context(), wire.PollRequest{})
	if err == nil || errors.Is(err, oob.ErrRejected) || d.calls.Load() != 2 {
		t.Errorf("error %v after %d calls", err, d.calls.Load())
	}
}

func TestStatuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		handle http.HandlerFunc
		want   error // of errors.Is
		status int
		wait   time.Duration
		second int32 // calls the second door gets
	}{
		{"unknown agent", func(w http.ResponseWriter, r *http.Request) { problem(w, 401, wire.ProblemUnauthorized) },
			oob.ErrRejected, 401, 0, 0},
		{"too large", func(w http.ResponseWriter, r *http.Request) { problem(w, 413, wire.ProblemTooLarge) },
			nil, 413, 0, 0},
		{"too many", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "7")
			problem(w, 429, wire.ProblemRateLimited)
		}, nil, 429, 7 * time.Second, 0},
		{"too many, for a week", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "604800")
			problem(w, 429, wire.ProblemRateLimited)
		}, nil, 429, time.Hour, 0},
		{"a box's 401", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "log in", http.StatusUnauthorized) }, nil, 0, 0, 1},
		{"not found", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, nil, 0, 0, 1},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, nil, 0, 0, 1},
		{"draining", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "5")
			problem(w, 503, wire.ProblemDraining)
		}, nil, 0, 0, 1},
		{"not JSON", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>welcome to the hotel") }, nil, 0, 0, 1},
		{"too much", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"view":"`)
			chunk := bytes.Repeat([]byte{'x'}, 1<<20)
			for range 9 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, nil, 0, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, second := newDoor(t, c.handle), newDoor(t, answer)
			client := newClient(t, nil, first.door(), second.door())
			_, err := client.Poll(t.Context(), wire.PollRequest{})
			if got := second.calls.Load(); got != c.second {
				t.Errorf("second door got %d calls, want %d", got, c.second)
			}
			if c.second > 0 {
				if err != nil {
					t.Errorf("error %v although the second door answered", err)
				}
				return
			}
			de, ok := errors.AsType[*oob.DoorError](err)
			if !ok || de.Status != c.status || de.Type != neterr.HTTPError || oob.RetryAfter(err) != c.wait {
				t.Fatalf("error %#v, wait %v", err, oob.RetryAfter(err))
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	var busy atomic.Bool
	busy.Store(true)
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if busy.Load() {
			w.Header().Set("Retry-After", "60")
			problem(w, http.StatusServiceUnavailable, wire.ProblemDraining)
			return
		}
		answer(w, r)
	})
	var clock fakeClock
	c := newClient(t, func(o *oob.ClientOptions) { o.Clock = clock.now }, d.door())
	_, err := c.Poll(t.Context(), wire.PollRequest{})
	if oob.RetryAfter(err) != time.Minute {
		t.Fatalf("error %v, wait %v", err, oob.RetryAfter(err))
	}
	busy.Store(false)
	clock.add(59 * time.Second)
	_, err = c.Poll(t.Context(), wire.PollRequest{})
	if !errors.Is(err, oob.ErrResting) || oob.RetryAfter(err) <= 0 || oob.RetryAfter(err) > time.Second || d.calls.Load() != 1 {
		t.Errorf("error %v, wait %v, %d calls", err, oob.RetryAfter(err), d.calls.Load())
	}
	clock.add(2 * time.Second)
	if _, err = c.Poll(t.Context(), wire.PollRequest{}); err != nil {
		t.Error(err)
	}
}

// A poll is held as long as it asked for, beacons go on beside it, and polls
// share a connection.
func TestLongPoll(t *testing.T) {
	release := make(chan struct{})
	var held atomic.Bool
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/poll") && held.CompareAndSwap(false, true) {
			<-release
		}
		answer(w, r)
	})
	c := newClient(t, nil, d.door())
	polled := make(chan error, 1)
	go func() {
		_, err := c.Poll(t.Context(), wire.PollRequest{WaitMS: 20_000})
		polled <- err
	}()
	for !held.Load() {
		if _, err := c.Beacon(t.Context(), sample("r", selfcheck.SeverityWell)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-polled:
		t.Fatalf("poll ended: %v", err)
	default:
	}
	close(release)
	if err := <-polled; err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := c.Poll(t.Context(), wire.PollRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.conns.Load(); n > 3 {
		t.Errorf("%d connections", n)
	}
}

func TestCallerEndsAPoll(t *testing.T) {
	entered := make(chan struct{})
	d := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(entered)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	c := newClient(t, nil, d.door(), refusedDoor(t))
	if _, err := c.Poll(ctx, wire.PollRequest{WaitMS: 60_000}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A connection that the server has closed in between must not cost a failure.
func TestStaleConnection(t *testing.T) {
	d := newDoor(t, answer)
	c := newClient(t, nil, d.door())
	for range 3 {
		if _, err := c.Beacon(t.Context(), sample("r", selfcheck.SeverityWell)); err != nil {
			t.Fatal(err)
		}
		d.CloseClientConnections()
	}
}

func TestDoorsAreChecked(t *testing.T) {
	token := func(time.Time) (string, error) { return "t", nil }
	for _, bad := range []wire.OOBDoor{
		{URL: "http://rmm.example:8444"}, {URL: "rmm.example"}, {URL: "https://rmm.example/path"},
		{URL: "https://u:p@rmm.example"}, {URL: "https://rmm.example", Pin: "sha256/short"},
	} {
		if _, err := oob.NewClient(oob.ClientOptions{Doors: []wire.OOBDoor{bad}, Token: token}); err == nil {
			t.Errorf("door %+v was taken", bad)
		}
	}
	if _, err := oob.NewClient(oob.ClientOptions{}); err == nil {
		t.Error("a client without tokens")
	}
}

func TestTokenFailureIsSaid(t *testing.T) {
	d := newDoor(t, answer)
	broken := errors.New("no key")
	c := newClient(t, func(o *oob.ClientOptions) {
		o.Token = func(time.Time) (string, error) { return "", broken }
	}, d.door())
	if _, err := c.Poll(t.Context(), wire.PollRequest{}); !errors.Is(err, broken) || d.calls.Load() != 0 {
		t.Errorf("error %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	first, second := newDoor(t, func(w http.ResponseWriter, r *http.Request) {
		if time.Now().UnixNano()%3 == 0 {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		answer(w, r)
	}), newDoor(t, answer)
	c := newClient(t, nil, first.door(), second.door())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if _, err := c.Poll(t.Context(), wire.PollRequest{WaitMS: 1}); err != nil {
					t.Error(err)
				}
				if _, err := c.Beacon(t.Context(), sample("r", selfcheck.SeverityWell)); err != nil {
					t.Error(err)
				}
				c.Offset()
				c.Door()
			}
		})
	}
	wg.Wait()
}

// fakeClock is real time plus what was added.
type fakeClock struct{ added atomic.Int64 }

func (c *fakeClock) now() time.Time      { return time.Now().Add(time.Duration(c.added.Load())) }
func (c *fakeClock) add(d time.Duration) { c.added.Add(int64(d)) }
