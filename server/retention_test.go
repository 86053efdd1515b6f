package server

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/wire"
)

// A command goes when it was kept long enough, and an endpoint that tells of it only then
// is told to forget it.
func TestWhatEndedLongAgoIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, func(c *Config) { c.KeepCommands = 48 * time.Hour })
		id := n.enroll("alpha")
		old := operate[operator.Command](n, "POST", "/v1/agents/alpha/commands", operator.NewCommand{Script: "true", ExpiresInMS: 1000, IdempotencyKey: "k"})
		time.Sleep(36 * time.Hour)
		young := operate[operator.Command](n, "POST", "/v1/agents/alpha/commands", operator.NewCommand{Script: "true", ExpiresInMS: 1000})
		time.Sleep(14 * time.Hour)
		all := operate[operator.List[operator.Command]](n, "GET", "/v1/commands", nil)
		if len(all.Items) != 1 || all.Items[0].ID != young.ID {
			t.Fatalf("kept are %+v", all.Items)
		}
		result, err := wire.Seal(wire.TypeCommandResult, wire.CommandResult{ID: old.ID, State: wire.StateCompleted, ExitCode: new(int)})
		if err != nil {
			t.Fatal(err)
		}
		status, raw := n.post(id, "/v1/oob/poll", wire.PollRequest{Instance: "i", Upstream: []wire.Envelope{result}})
		var poll wire.PollResponse
		if err := json.Unmarshal(raw, &poll); err != nil || status != 200 {
			t.Fatalf("%d %s", status, raw)
		}
		var ack wire.ResultAck
		for _, env := range poll.Downstream {
			if env.Type == wire.TypeResultAck {
				ack, err = wire.DecodePayload[wire.ResultAck](env)
			}
		}
		if err != nil || ack.ID != old.ID || !ack.Stored {
			t.Errorf("answered with %s", raw)
		}
		again := operate[operator.Command](n, "POST", "/v1/agents/alpha/commands", operator.NewCommand{Script: "false", IdempotencyKey: "k"})
		if again.ID == old.ID {
			t.Error("a key outlived its command")
		}
	})
}
