package task

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"gururmm/wire"
)

// Who has to make room on a full disk can run what makes it, also after a restart.
func TestAFullDiskTakesCommandsOfTheBallast(t *testing.T) {
	dir := t.TempDir()
	size := func() int64 {
		info, err := os.Stat(filepath.Join(dir, ballastName))
		if err != nil {
			t.Error(err)
			return 0
		}
		return info.Size()
	}
	var full atomic.Int64 // while the ballast is that large
	d := &disk{freed: func() bool { return size() < full.Load() }}
	e, u := openWith(t, dir, d)
	eventually(t, "the ballast", func() bool { return !e.journal.ballast.short() })
	full.Store(size())
	d.full.Store(true)
	order(t, e, command("c1", "echo room"))
	if r := u.result(t, "c1"); r.State != wire.StateCompleted || strings.TrimSpace(string(r.Stdout)) != "room" {
		t.Fatalf("%+v", r)
	}
	shut(t, e)
	full.Store(size())
	e, u = openWith(t, dir, d)
	order(t, e, command("c2", "echo more"))
	if r := u.result(t, "c2"); r.State != wire.StateCompleted || e.Facts().Journal != "" {
		t.Fatalf("%+v, %q", r, e.Facts().Journal)
	}
}

func TestTheBallastEnds(t *testing.T) {
	b := newBallast(t.TempDir())
	if b.give() {
		t.Error("room of a ballast that is not there")
	}
	if !b.short() {
		t.Fatal("nothing is short where there is no ballast")
	}
	if err := b.fill(); err != nil || b.short() {
		t.Fatal(err)
	}
	full := &os.PathError{Op: "write", Path: "script", Err: syscall.ENOSPC}
	tries := 0
	if err := b.with(func() error { tries++; return full }); !isFull(err) || tries != 1+ballastSize/ballastPiece {
		t.Errorf("%d tries, %v", tries, err)
	}
	if tries = 0; b.with(func() error { tries++; return full }) == nil || tries != 1 {
		t.Errorf("%d tries without ballast", tries)
	}
	if tries = 0; b.fill() != nil || b.with(func() error { tries++; return os.ErrPermission }) == nil || tries != 1 {
		t.Errorf("%d tries for what is no lack of room", tries)
	}
}
