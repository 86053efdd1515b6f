package server

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"gururmm/operator"
	"gururmm/session"
	"gururmm/wire"
)

// The answer to an echo does not wait behind a result that waits for the database: the link
// would be ended as one whose writer is stuck.
func TestEchoBehindASlowDatabase(t *testing.T) {
	n := start(t, false, nil)
	id := n.enroll("alpha")
	m := n.link(id, presence("i1", "b1", "f1")).awaitVerified()
	cmd := operate[operator.Command](n, "POST", "/v1/agents/"+id.Agent+"/commands", operator.NewCommand{Script: "true"})
	<-m.commands
	db, err := sql.Open("sqlite", filepath.Join(n.cfg.StateDir, "gururmm.db"))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	m.send(wire.TypeCommandAck, wire.CommandAck{ID: cmd.ID}, true)
	time.Sleep(500 * time.Millisecond)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	zero := 0
	hold := func(typ wire.Type, p any) {
		env, _ := wire.Seal(typ, p)
		m.conn.Send(env, session.SendOptions{Hold: true})
	}
	for range 20 {
		hold(wire.TypeEcho, wire.Echo{ID: "e"})
	}
	for i := range 2 {
		hold(wire.TypeCommandOutput, wire.CommandOutput{ID: cmd.ID, Stream: "stdout", Offset: int64(i), Data: []byte("x")})
	}
	hold(wire.TypeCommandResult, wire.CommandResult{ID: cmd.ID, State: wire.StateCompleted, ExitCode: &zero})
	m.conn.Drain()
	began := time.Now()
	select {
	case err := <-m.ended:
		t.Fatalf("after %v: %v", time.Since(began), err)
	case <-time.After(9 * time.Second):
	}
}
