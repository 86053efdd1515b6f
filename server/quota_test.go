package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/operator"
	"gururmm/wire"
)

// One agent sends as fast as it can: it is read no faster than one may send, loses
// nothing, and another's commands take no longer than before.
func TestAFloodIsItsOwnAgentsMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const frames, flood = 50, 2000
		n := start(t, true, func(c *Config) { c.Limits.AgentFrames = frames })
		flooder := n.link(n.enroll("flooder"), presence("i1", "b1", "f1")).awaitVerified()
		id := n.enroll("other")
		other := n.link(id, presence("i2", "b2", "f2")).awaitVerified()

		began := time.Now()
		for range flood { // each is answered
			flooder.send(wire.TypeEcho, wire.Echo{ID: "flood"}, false)
		}
		for range 20 {
			submitted := time.Now()
			cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
			got := <-other.commands
			if took := time.Since(submitted); got.ID != cmd.ID || took > 10*time.Millisecond {
				t.Errorf("during the flood a command took %v", took)
			}
			zero := 0
			other.send(wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID}, true)
			other.send(wire.TypeCommandResult, wire.CommandResult{ID: cmd.ID, State: wire.StateCompleted, ExitCode: &zero}, true)
			time.Sleep(time.Second)
		}
		all := func() bool { return n.agent(flooder.id).Links[0].Read >= flood }
		if all() {
			t.Errorf("%d texts were read within %v", flood, time.Since(began))
		}
		awaitFor(t, 2*time.Minute, "all is read", all)
		if took := time.Since(began); took < (flood-10*frames)*time.Second/frames {
			t.Errorf("%d texts were read within %v", flood, took)
		}
		if n.quota.Exceeded()["frames"] == 0 {
			t.Error("it was not counted")
		}
		if l := n.agent(flooder.id).Links; len(l) != 1 || l[0].State != "verified" {
			t.Errorf("its link: %+v", l)
		}
		flooder.close()
		other.close()
		synctest.Wait()
	})
}

// Pings can't be slowed by reading no texts: their link ends, and only that.
func TestAFloodOfPingsEndsItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, func(c *Config) { c.Limits.AgentFrames = 50 })
		id := n.enroll("flooder")
		flooder := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
		other := n.link(n.enroll("other"), presence("i2", "b2", "f2")).awaitVerified()
		go func() {
			for flooder.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)) == nil {
			}
		}()
		if code, reason := flooder.closedWith(time.Minute); code != websocket.CloseTryAgainLater {
			t.Errorf("the link ended with %d %q", code, reason)
		}
		if got := n.hub.Evictions()["flooded"]; got != 1 {
			t.Errorf("%d links were given up as flooded", got)
		}
		if l := n.agent(other.id).Links; len(l) != 1 || l[0].State != "verified" {
			t.Errorf("the other's link: %+v", l)
		}
		time.Sleep(time.Minute)
		n.link(id, presence("i1", "b1", "f1")).awaitVerified().close()
		other.close()
		synctest.Wait()
	})
}

func TestRequestsOfOneAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, func(c *Config) { c.Limits.AgentRequests, c.Limits.AgentFrames, c.Limits.Operator = 2, 30, 3 })
		one, other := n.enroll("one"), n.enroll("other")
		poll := func(id identity, upstream int) (int, http.Header, []byte) {
			req := wire.PollRequest{Instance: "i"}
			for range upstream {
				req.Upstream = append(req.Upstream, wire.Envelope{Type: wire.TypeMetrics, Payload: json.RawMessage("{}")})
			}
			raw, err := json.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			return n.request("POST", n.Info().OOBURL+"/v1/oob/poll", id.token(nil), raw)
		}
		refused := func(what string, status int, header http.Header, body []byte) {
			t.Helper()
			after, err := strconv.Atoi(header.Get("Retry-After"))
			if status != http.StatusTooManyRequests || codeOf(t, body) != wire.ProblemTooFast || err != nil || after < 1 {
				t.Fatalf("%s: %d %s, Retry-After %q", what, status, body, header.Get("Retry-After"))
			}
			time.Sleep(time.Duration(after) * time.Second)
		}
		for i := range 20 {
			if status, _, body := poll(one, 0); status != http.StatusOK {
				t.Fatalf("request %d: %d %s", i+1, status, body)
			}
		}
		status, header, body := poll(one, 0)
		if other, _, _ := poll(other, 0); other != http.StatusOK {
			t.Errorf("another agent is answered %d", other)
		}
		refused("the 21st request", status, header, body)
		if status, _, body = poll(one, 0); status != http.StatusOK {
			t.Errorf("when it was told to come: %d %s", status, body)
		}
		time.Sleep(time.Minute)
		if status, _, body = poll(one, 300); status != http.StatusOK {
			t.Fatalf("messages of a burst: %d %s", status, body)
		}
		status, header, body = poll(one, 100)
		refused("a hundred more", status, header, body)
		if status, _, body = poll(one, 100); status != http.StatusOK {
			t.Errorf("when it was told to come: %d %s", status, body)
		}

		client, err := operator.New(n.Info().URL, n.Info().OperatorToken, n.http.Transport.(*http.Transport).TLSClientConfig)
		if err != nil {
			t.Fatal(err)
		}
		client.SetDial(n.dial)
		began := time.Now()
		for range 50 { // the client waits as it is told
			if _, err := client.Agents(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 5*time.Second || took > 30*time.Second {
			t.Errorf("50 requests at 3 in a second took %v", took)
		}
		client.Close()
	})
}
