package server

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	"gururmm/oob"
	"gururmm/operator"
	"gururmm/selfcheck"
	"gururmm/wire"
)

func TestBadTokensAreRefusedBeforeTheUpgrade(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	_, foreign, _ := ed25519.GenerateKey(rand.Reader)
	stranger := id
	stranger.key = foreign
	nobody := id
	nobody.Agent = wire.NewID()
	shifted := func(d time.Duration) string {
		return id.token(func(c *jwt.RegisteredClaims) {
			c.IssuedAt, c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(d)), jwt.NewNumericDate(time.Now().Add(d+time.Minute))
		})
	}
	claims := strings.Split(id.token(nil), ".")[1]
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + claims + "."
	hmac, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Subject: id.Agent}).SignedString([]byte(id.key.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	used := id.token(nil)
	if ws, _, err := n.dialLink(id, used, new(atomic.Bool)); err != nil {
		t.Fatal(err)
	} else {
		ws.Close()
	}
	for name, c := range map[string]struct{ token, code string }{
		"none at all":      {"", wire.ProblemUnauthorized},
		"not a token":      {"hello", wire.ProblemUnauthorized},
		"expired":          {shifted(-5 * time.Minute), wire.ProblemClock},
		"of the future":    {shifted(5 * time.Minute), wire.ProblemClock},
		"replayed":         {used, wire.ProblemUnauthorized},
		"of a wrong key":   {stranger.token(nil), wire.ProblemUnauthorized},
		"of nobody":        {nobody.token(nil), wire.ProblemUnauthorized},
		"unsigned":         {none, wire.ProblemUnauthorized},
		"of another kind":  {hmac, wire.ProblemUnauthorized},
		"too long":         {strings.Repeat("x", 5000), wire.ProblemUnauthorized},
		"for another":      {id.token(func(c *jwt.RegisteredClaims) { c.Audience = jwt.ClaimStrings{"other"} }), wire.ProblemUnauthorized},
		"without an id":    {id.token(func(c *jwt.RegisteredClaims) { c.ID = "" }), wire.ProblemUnauthorized},
		"without times":    {id.token(func(c *jwt.RegisteredClaims) { c.IssuedAt, c.ExpiresAt = nil, nil }), wire.ProblemUnauthorized},
		"good for an hour": {id.token(func(c *jwt.RegisteredClaims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Hour)) }), wire.ProblemUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			for _, door := range []struct{ method, url string }{
				{"GET", n.Info().URL + "/v1/link"}, {"POST", n.Info().OOBURL + "/v1/oob/poll"}, {"POST", n.Info().OOBURL + "/v1/oob/beacon"},
			} {
				status, _, raw := n.request(door.method, door.url, c.token, nil)
				if status != http.StatusUnauthorized || codeOf(t, raw) != c.code {
					t.Errorf("%s: %d %s", door.url, status, raw)
				}
			}
		})
	}
	// A minute's skew within the leeway still works.
	if ws, _, err := n.dialLink(id, shifted(20*time.Second), new(atomic.Bool)); err != nil {
		t.Errorf("20 s ahead: %v", err)
	} else {
		ws.Close()
	}
}

func TestLinkIsForAgentsOnly(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	try := func(header map[string]string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", n.Info().URL+"/v1/link", nil)
		for k, v := range map[string]string{
			"Authorization": "Bearer " + id.token(nil), "Connection": "Upgrade", "Upgrade": "websocket",
			"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": wire.Subprotocol,
		} {
			req.Header.Set(k, v)
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		res, err := n.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode, res.Header.Get("Content-Type")
	}
	for name, c := range map[string]struct {
		header map[string]string
		status int
	}{
		"a page in a browser": {map[string]string{"Origin": "https://evil.test"}, http.StatusForbidden},
		"no WebSocket":        {map[string]string{"Upgrade": "h2c"}, http.StatusUpgradeRequired},
		"another protocol":    {map[string]string{"Sec-WebSocket-Protocol": "chat"}, http.StatusBadRequest},
		"an old version":      {map[string]string{"Sec-WebSocket-Version": "8"}, http.StatusBadRequest},
	} {
		if status, kind := try(c.header); status != c.status || kind != "application/problem+json" {
			t.Errorf("%s: %d %s, want %d", name, status, kind, c.status)
		}
	}
}

func report(id identity, delivering bool) oob.Report {
	r := oob.Report{
		Schema: oob.SchemaVersion, ReportID: wire.NewID(), Agent: id.Agent, At: time.Now(), Cause: "verdict",
		Presence: presence("i1", "b1", "f1"),
		Verdict:  selfcheck.Verdict{Code: selfcheck.CodeLinkTextLost, Sentence: "2 texts are lost"},
	}
	r.Snapshot.OOB.Delivering = delivering
	return r
}

func TestBeaconIsRecordedOnceBesideTheServersView(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	r := report(id, false)
	raw, _ := json.Marshal(r)
	for range 2 {
		status, _, answer := n.request("POST", n.Info().OOBURL+"/v1/oob/beacon", id.token(nil), zip(raw))
		var poll wire.PollResponse
		if status != http.StatusOK || json.Unmarshal(answer, &poll) != nil || poll.View == nil || poll.ServerTime.IsZero() {
			t.Fatalf("%d %s", status, answer)
		}
	}
	list := operate[operator.List[operator.Beacon]](n, "GET", "/v1/beacons?agent=alpha", nil)
	if len(list.Items) != 1 || list.Items[0].View == nil || list.Items[0].Verdict != "link.text.lost" {
		t.Fatalf("recorded: %+v", list)
	}
	a := n.agent(id)
	if a.Verdict != "link.text.lost" || a.LastVia != "beacon" || a.Presence != "connecting" {
		t.Errorf("the agent shows as %+v", a)
	}
}

func TestBeaconOfAClockThatIsAheadDoesNotShutOutTheNext(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	ahead := report(id, false)
	ahead.At = time.Now().Add(24 * time.Hour)
	n.post(id, "/v1/oob/beacon", ahead)
	time.Sleep(time.Millisecond) // the next one is later
	right := report(id, true)
	right.Verdict.Code = selfcheck.CodeLinkUplinkLost
	n.post(id, "/v1/oob/beacon", right)
	if a := n.agent(id); a.Verdict != string(selfcheck.CodeLinkUplinkLost) || a.Presence != "out-of-band" {
		t.Errorf("the agent is shown %s with %s", a.Presence, a.Verdict)
	}
}

func TestBeaconGivesCommandsAndDirectivesOutOfBand(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	cmd := operate[operator.Command](n, "POST", "/v1/agents/alpha/commands", operator.NewCommand{Script: "true"})
	operate[wire.Directive](n, "POST", "/v1/agents/alpha/directives", operator.NewDirective{Kind: wire.DirectiveReconnect})
	types := func(raw []byte) (out []wire.Type) {
		var poll wire.PollResponse
		if err := json.Unmarshal(raw, &poll); err != nil {
			t.Fatal(err)
		}
		for _, env := range poll.Downstream {
			out = append(out, env.Type)
		}
		return out
	}
	_, raw := n.post(id, "/v1/oob/beacon", report(id, false))
	if got := types(raw); len(got) != 1 || got[0] != wire.TypeDirective {
		t.Errorf("with the link trusted: %v", got)
	}
	_, raw = n.post(id, "/v1/oob/beacon", report(id, true))
	if got := types(raw); len(got) != 1 || got[0] != wire.TypeCommand {
		t.Errorf("out of band: %v", got)
	}
	if p := n.agent(id).Presence; p != "out-of-band" {
		t.Errorf("presence %s", p)
	}
	ack, _ := wire.Seal(wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID})
	result, _ := wire.Seal(wire.TypeCommandResult, wire.CommandResult{ID: cmd.ID, State: wire.StateCompleted, ExitCode: new(int)})
	_, raw = n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1", Deliver: true, WaitMS: 60_000, Upstream: []wire.Envelope{ack, result}})
	if got := types(raw); len(got) != 1 || got[0] != wire.TypeResultAck {
		t.Errorf("answer to a result: %v", got)
	}
	if got := operate[operator.Command](n, "GET", "/v1/commands/"+cmd.ID, nil); got.State != wire.StateCompleted || got.Channel != wire.ChannelOOB {
		t.Errorf("the command is %+v", got)
	}
}

func TestPollsOnAnOrderLeaveTheLinkVerified(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	say := func(code selfcheck.Code, delivering bool) operator.Agent {
		t.Helper()
		r := report(id, delivering)
		r.Verdict = selfcheck.Verdict{Code: code, Sentence: "as said"}
		if status, raw := n.post(id, "/v1/oob/beacon", r); status != http.StatusOK {
			t.Fatalf("beacon: %d %s", status, raw)
		}
		return n.agent(id)
	}
	if a := say(selfcheck.CodeLinkConnecting, false); a.Presence != "connecting" || a.Verdict != "link.connecting" || a.VerdictAt == nil {
		t.Errorf("before its link: %+v", a)
	}
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	defer m.close()
	if a := n.agent(id); a.Presence != "verified" || a.Verdict != "ok" || a.Sentence != "" {
		t.Errorf("verified since it said link.connecting: %s, %s %q", a.Presence, a.Verdict, a.Sentence)
	}
	if a := say(selfcheck.CodeOK, true); a.Presence != "verified" || !strings.Contains(a.Sentence, "operator's order") {
		t.Errorf("well, polling: %s %q", a.Presence, a.Sentence)
	}
	if a := say(selfcheck.CodeRouteStale, true); a.Presence != "out-of-band" || a.Sentence != "as said" {
		t.Errorf("ill, polling: %s %q", a.Presence, a.Sentence)
	}
}

func TestLongPollWaitsForACommand(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	var wait sync.WaitGroup
	wait.Go(func() {
		status, raw := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1", Deliver: true, WaitMS: 60_000})
		if status != http.StatusOK || !strings.Contains(string(raw), `"type":"command"`) {
			t.Errorf("%d %s", status, raw)
		}
	})
	await(t, "the poll is seen", func() bool { return n.agent(id).Presence == "out-of-band" })
	operate[operator.Command](n, "POST", "/v1/agents/alpha/commands", operator.NewCommand{Script: "true"})
	wait.Wait()
}

func TestNewerPollEndsTheOlderOne(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	first := make(chan int, 1)
	go func() {
		status, _ := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1", WaitMS: 60_000})
		first <- status
	}()
	await(t, "the first poll is seen", func() bool { return n.agent(id).LastVia == "poll" })
	await(t, "the first poll has ended", func() bool {
		n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1", WaitMS: 1})
		return len(first) == 1
	})
	if status := <-first; status != http.StatusOK {
		t.Errorf("the older poll was answered %d", status)
	}
}

// An ack or output that goes up must not cost the waiting poll its place.
func TestUploadLeavesTheWaitingPollAlone(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	got := make(chan string, 1)
	go func() {
		_, raw := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1", Deliver: true, WaitMS: 60_000})
		got <- string(raw)
	}()
	await(t, "the poll is seen", func() bool { return n.agent(id).Presence == "out-of-band" })
	for range 20 {
		if status, raw := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1"}); status != http.StatusOK {
			t.Fatalf("%d %s", status, raw)
		}
	}
	if len(got) != 0 {
		t.Fatalf("the waiting poll was ended by an upload: %s", <-got)
	}
	operate[operator.Command](n, "POST", "/v1/agents/alpha/commands", operator.NewCommand{Script: "true"})
	if raw := <-got; !strings.Contains(raw, `"type":"command"`) {
		t.Errorf("the waiting poll got %s", raw)
	}
}

func TestDrainEndsPollsWithRetryAfter(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	type answer struct {
		status int
		header http.Header
		body   []byte
	}
	answered := make(chan answer, 1)
	go func() {
		raw, _ := json.Marshal(wire.PollRequest{Instance: "i1", WaitMS: 60_000})
		status, header, body := n.request("POST", n.Info().OOBURL+"/v1/oob/poll", id.token(nil), raw)
		answered <- answer{status, header, body}
	}()
	await(t, "the poll is seen", func() bool { return n.agent(id).LastVia == "poll" })
	if err := n.stop(); err != nil {
		t.Error(err)
	}
	a := <-answered
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || codeOf(t, a.body) != wire.ProblemDraining {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	big := func(n int) []byte { return bytes.Repeat([]byte(" "), n) }
	noise := make([]byte, oob.MaxReport+1)
	rand.Read(noise)
	agent := func() string { return id.token(nil) }
	operator := func() string { return n.Info().OperatorToken }
	none := func() string { return "" }
	for name, c := range map[string]struct {
		url    string
		bearer func() string
		body   []byte
		status int
	}{
		"enrollment":             {n.Info().URL + "/v1/enroll", none, big(64<<10 + 1), 413},
		"operator":               {n.Info().URL + "/v1/enroll-tokens", operator, big(1<<20 + 1), 413},
		"poll":                   {n.Info().OOBURL + "/v1/oob/poll", agent, big(8<<20 + 1), 413},
		"beacon, packed":         {n.Info().OOBURL + "/v1/oob/beacon", agent, noise, 413},
		"beacon, a gzip bomb":    {n.Info().OOBURL + "/v1/oob/beacon", agent, zip(big(oob.MaxReportRaw + 1)), 413},
		"beacon, broken gzip":    {n.Info().OOBURL + "/v1/oob/beacon", agent, zip([]byte("{}"))[:15], 400},
		"beacon, not JSON":       {n.Info().OOBURL + "/v1/oob/beacon", agent, zip([]byte("hello")), 400},
		"beacon, other schema":   {n.Info().OOBURL + "/v1/oob/beacon", agent, zip([]byte(`{"schema":9}`)), 400},
		"poll without instance":  {n.Info().OOBURL + "/v1/oob/poll", agent, []byte(`{}`), 400},
		"operator, unknown word": {n.Info().URL + "/v1/enroll-tokens", operator, []byte(`{"usess":1}`), 400},
		"operator, not UTF-8":    {n.Info().URL + "/v1/agents/alpha/commands", operator, []byte("{\"script\":\"rm caf\xe9\"}"), 400},
		"operator, two values":   {n.Info().URL + "/v1/enroll-tokens", operator, []byte(`{} {}`), 400},
	} {
		t.Run(name, func(t *testing.T) {
			status, _, raw := n.request("POST", c.url, c.bearer(), c.body)
			if status != c.status {
				t.Errorf("%d %s, want %d", status, raw, c.status)
			}
		})
	}
	if _, _, raw := n.request("POST", n.Info().URL+"/v1/enroll-tokens", operator(), []byte(`{"usess":1}`)); !strings.Contains(string(raw), "usess") {
		t.Errorf("the unknown field is not named: %s", raw)
	}
}

func TestBodiesOfOneAgentLeaveRoomForTheOthers(t *testing.T) {
	n := start(t, false, nil)
	id, other := n.enroll("alpha"), n.enroll("beta")
	var ended sync.WaitGroup
	defer ended.Wait()
	for range 6 { // requests whose bodies do not end
		body, rest := io.Pipe()
		defer rest.Close()
		req, err := http.NewRequestWithContext(t.Context(), "POST", n.Info().OOBURL+"/v1/oob/poll", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+id.token(nil))
		ended.Go(func() {
			if res, err := n.http.Do(req); err == nil {
				res.Body.Close()
			}
		})
	}
	poll := wire.PollRequest{Instance: "i1"}
	await(t, "the agent is refused more bodies", func() bool {
		status, raw := n.post(id, "/v1/oob/poll", poll)
		return status == http.StatusTooManyRequests && codeOf(t, raw) == wire.ProblemRateLimited
	})
	if status, raw := n.post(other, "/v1/oob/poll", poll); status != http.StatusOK {
		t.Errorf("another agent was answered %d %s", status, raw)
	}
}

func TestForeignBeaconIsRefused(t *testing.T) {
	n := start(t, false, nil)
	id, other := n.enroll("alpha"), n.enroll("beta")
	if status, raw := n.post(id, "/v1/oob/beacon", report(other, false)); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, raw)
	}
}

func TestQuarantine(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	path := "/v1/agents/" + id.Agent
	running := operate[operator.Command](n, "POST", path+"/commands", operator.NewCommand{Script: "true"})
	m.send(wire.TypeCommandAck, wire.CommandAck{ID: (<-m.commands).ID}, true)
	operate[operator.Directive](n, "POST", path+"/directives", operator.NewDirective{Kind: wire.DirectiveQuarantine})
	if code, reason := m.closedWith(10 * time.Second); code != websocket.ClosePolicyViolation || !strings.Contains(reason, "quarantined") {
		t.Errorf("its link ended with %d %q", code, reason)
	}
	if p := n.agent(id).Presence; p != "quarantined" {
		t.Errorf("presence %s", p)
	}
	body, _ := json.Marshal(operator.NewCommand{Script: "true"})
	if status, _, raw := n.request("POST", n.Info().URL+path+"/commands", n.Info().OperatorToken, body); status != http.StatusConflict || codeOf(t, raw) != wire.ProblemQuarantined {
		t.Errorf("a command: %d %s", status, raw)
	}
	if _, res, err := n.dialLink(id, id.token(nil), new(atomic.Bool)); err == nil || res == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("another link: %v, %v", res, err)
	}
	// By the second door it is examined and freed, and tells how what ran ended.
	operate[operator.Command](n, "POST", "/v1/commands/"+running.ID+"/cancel", nil)
	status, raw := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i1", Deliver: true})
	var p wire.PollResponse
	if err := json.Unmarshal(raw, &p); err != nil || status != http.StatusOK {
		t.Fatalf("poll: %d %s", status, raw)
	}
	if got := types(p.Downstream); !slices.Equal(got, []wire.Type{wire.TypeCancelCommand, wire.TypeDirective}) {
		t.Errorf("it was handed %v", got)
	}
	n = n.restartedReal() // it is on disk
	if p := n.agent(id).Presence; p != "quarantined" {
		t.Errorf("presence after a restart: %s", p)
	}
	operate[operator.Directive](n, "POST", path+"/directives", operator.NewDirective{Kind: wire.DirectiveQuarantine, Lift: true})
	id.LinkURLs = []string{strings.Replace(n.Info().URL, "https", "wss", 1) + "/v1/link"}
	n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	if p := n.agent(id).Presence; p != "verified" {
		t.Errorf("presence once lifted: %s", p)
	}
}

func TestEnrollment(t *testing.T) {
	n := start(t, false, nil)
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	enroll := func(token string, key []byte) (int, []byte) {
		body, _ := json.Marshal(wire.EnrollRequest{Token: token, PublicKey: key})
		status, _, raw := n.request("POST", n.Info().URL+"/v1/enroll", "", body)
		return status, raw
	}
	if status, raw := enroll("gre_guess", pub); status != http.StatusForbidden || codeOf(t, raw) != wire.ProblemToken {
		t.Errorf("unknown token: %d %s", status, raw)
	}
	if status, raw := enroll(n.Info().EnrollToken, pub[:31]); status != http.StatusBadRequest {
		t.Errorf("short key: %d %s", status, raw)
	}
	status, raw := enroll(n.Info().EnrollToken, pub)
	var id wire.EnrollResponse
	if status != http.StatusOK || json.Unmarshal(raw, &id) != nil {
		t.Fatalf("%d %s", status, raw)
	}
	ring, err := wire.NewKeyring(id.CommandKeys[0])
	if err != nil || ring.Verify(id.Policy) != nil {
		t.Errorf("the first policy is not signed by the key that came with it: %v", err)
	}
	if len(id.OOB) != 1 || id.OOB[0].Pin != n.Info().OOBPin || id.OOB[0].URL != n.Info().OOBURL || n.Info().OOBPin == n.Info().Pin {
		t.Errorf("the second door: %+v", id.OOB)
	}
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	if status, raw := enroll(n.Info().EnrollToken, other); status != http.StatusForbidden {
		t.Errorf("spent token: %d %s", status, raw)
	}
	limited := false
	for range 12 {
		status, _ := enroll("gre_guess", pub)
		limited = limited || status == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("guessing was not slowed down")
	}
}

func TestUnknownPathsAndMethodsAreProblems(t *testing.T) {
	n := start(t, false, nil)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404}, {"GET", "/v1/nope", 404}, {"PUT", "/v1/agents", 405}, {"GET", "/v1/enroll", 405},
		{"GET", "/v1/agents", 401}, {"GET", "/healthz", 200}, {"GET", "/readyz", 200},
	} {
		if status, _, raw := n.request(c.method, n.Info().URL+c.path, "", nil); status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, raw)
		}
	}
	for path, code := range map[string]string{
		"/v1/agents/nobody": wire.ProblemNotFound, "/v1/commands/none": wire.ProblemNotFound,
		"/v1/commands?limit=x": wire.ProblemBadRequest, "/v1/commands?state=odd": wire.ProblemBadRequest,
	} {
		if _, _, raw := n.request("GET", n.Info().URL+path, n.Info().OperatorToken, nil); codeOf(t, raw) != code {
			t.Errorf("%s: %s", path, raw)
		}
	}
	n.enroll("twin")
	n.enroll("twin")
	if status, _, raw := n.request("GET", n.Info().URL+"/v1/agents/twin", n.Info().OperatorToken, nil); status != http.StatusConflict || codeOf(t, raw) != wire.ProblemAmbiguous {
		t.Errorf("two agents of one name: %d %s", status, raw)
	}
}

// A person types the beginning of an id; what fits several names none.
func TestTheBeginningOfAnIDNamesAgentAndCommand(t *testing.T) {
	n := start(t, false, nil)
	base, op := n.Info().URL, n.Info().OperatorToken
	id := n.enroll("alpha").Agent
	submit := func() (c operator.Command) {
		status, _, raw := n.request("POST", base+"/v1/agents/"+id[:len(id)-2]+"/commands", op, []byte(`{"script":"true"}`))
		if status != http.StatusCreated || json.Unmarshal(raw, &c) != nil {
			t.Fatalf("%d %s", status, raw)
		}
		return c
	}
	one, two := submit(), submit()
	for path, want := range map[string]int{
		"/v1/commands/" + one.ID[:35]: 200, "/v1/commands/" + one.ID[:35] + "/trace": 200, "/v1/commands/" + one.ID[:35] + "/output/stdout": 200,
		"/v1/commands/" + one.ID[:4]: 409, "/v1/commands/" + one.ID[:3]: 404,
		// So does the end, as a timeline prints it.
		"/v1/commands/" + one.ID[24:]: 200, "/v1/commands/" + strings.ToUpper(one.ID[24:]) + "/trace": 200, "/v1/commands/" + one.ID[31:]: 404, "/v1/commands?agent=" + id[:8]: 200,
	} {
		if status, _, raw := n.request("GET", base+path, op, nil); status != want {
			t.Errorf("%s: %d %s", path, status, raw)
		}
	}
	status, _, raw := n.request("POST", base+"/v1/commands/"+two.ID[:35]+"/cancel", op, nil)
	if status != http.StatusOK || !strings.Contains(string(raw), two.ID) {
		t.Errorf("cancel: %d %s", status, raw)
	}
	_, _, raw = n.request("GET", base+"/v1/commands/"+one.ID[:4], op, nil)
	if codeOf(t, raw) != wire.ProblemAmbiguous || !strings.Contains(string(raw), one.ID) || !strings.Contains(string(raw), two.ID) {
		t.Errorf("what fits is not told: %s", raw)
	}
	for path, says := range map[string]string{
		"GET /v1/commands/ffffff0000": "among the newest 10000",
		"GET /v1/commands/nosuch":     `no command \"nosuch`, "GET /v1/agents/nosuch": `no agent \"nosuch`, "DELETE /v1/enroll-tokens/nosuch": `no enrollment token \"nosuch`,
	} {
		method, path, _ := strings.Cut(path, " ")
		if status, _, raw := n.request(method, base+path, op, nil); status != 404 || !strings.Contains(string(raw), says) {
			t.Errorf("%s: %d %s", path, status, raw)
		}
	}
}
