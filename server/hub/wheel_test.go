package hub

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/internal/crew"
	"gururmm/internal/memnet"
	"gururmm/session"
)

// Links that are pinged at different times meet, and none waits longer than its interval.
func TestPingsMeet(t *testing.T) {
	w := newWheel()
	for _, interval := range []time.Duration{time.Millisecond, time.Second, 30 * time.Second, time.Hour} {
		moments := map[time.Time]bool{}
		for i := range 1000 {
			now := w.base.Add(time.Duration(i) * interval / 1000)
			next := w.together(now, interval)
			if d := next.Sub(now); d <= 0 || d > interval || d < interval-interval/100 {
				t.Fatalf("of %v, at %v: again after %v", interval, now.Sub(w.base), d)
			}
			moments[next] = true
		}
		if len(moments) > 125 {
			t.Errorf("of %v: %d moments", interval, len(moments))
		}
	}
}

// A visit that is asked for is not lost, whatever was asked for before, and though one is under way.
func TestTheEarliestVisitCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWheel()
		l := &link{}
		l.entry.at.Store(unset)
		now := time.Now()
		due := func() time.Duration {
			_, wait := w.take(now)
			return wait
		}
		for _, step := range []struct{ ask, due time.Duration }{{30, 30}, {40, 30}, {5, 5}, {6, 5}, {5, 5}, {4, 4}} {
			w.atLatest(l, now.Add(step.ask*time.Second))
			if d := due(); d != step.due*time.Second {
				t.Errorf("asked for %d s: due in %v", step.ask, d)
			}
		}
		now = now.Add(4 * time.Second)
		if got, _ := w.take(now); got != l {
			t.Fatal("it is not due")
		}
		w.atLatest(l, now.Add(5*time.Second)) // while it is visited
		w.atLatest(l, now.Add(7*time.Second))
		w.back(l, now.Add(30*time.Second))
		if d := due(); d != 5*time.Second {
			t.Errorf("asked for during a visit: due in %v", d)
		}
		w.remove(l)
		w.atLatest(l, now)
		if d := due(); d != time.Hour {
			t.Errorf("once it is removed: due in %v", d)
		}
	})
}

// Links whose peers take nothing hold up the pings of the others for a moment, and by no more
// than one moment each.
func TestAPeerThatTakesNothingHoldsNoOtherPingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stuck = 3 // the first ones
		listener := memnet.Listen("server:443")
		upgraded := make(chan *websocket.Conn)
		web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
			}
			upgraded <- ws
		})}
		go web.Serve(listener)
		defer web.Close()
		dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return listener.Dial(ctx) }}
		began := time.Now()
		came := make(chan time.Duration, pingedAtOnce)
		var batch pings
		for i := range pingedAtOnce {
			go func() {
				ws, _, err := dialer.Dial("ws://server/v1/link", nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer ws.Close()
				if i < stuck {
					time.Sleep(time.Minute) // it reads nothing
					return
				}
				ws.SetPingHandler(func(string) error { came <- time.Since(began); return nil })
				ws.ReadMessage()
			}()
			l := &link{conn: session.New(<-upgraded, session.Options{})}
			batch.links = append(batch.links, l)
		}
		var c crew.Crew
		defer c.Close()
		c.Go(func() { batch.write(&c) })
		for range pingedAtOnce - stuck {
			if at := <-came; at > stuck*pingStuck {
				t.Errorf("a ping came after %v", at)
			}
		}
		time.Sleep(session.DefaultWriteTimeout)
		for i, l := range batch.links {
			if failed := l.conn.Err() != nil; failed != (i < stuck) {
				t.Errorf("link %d ended: %v", i, l.conn.Err())
			}
			l.conn.Close(websocket.CloseGoingAway, errDead)
		}
		time.Sleep(time.Minute) // for the peers to end
	})
}
