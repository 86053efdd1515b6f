package oob

import (
	"testing"

	"gururmm/wire"
)

// A line too slow for a whole part gets smaller ones, and larger ones again once it moves.
func TestPartsFitTheLine(t *testing.T) {
	u := newUpload(wire.MaxBundle)
	slow := allFailed{&DoorError{Door: "https://door.test", Err: &tooSlow{patientLimit}}}
	for range 20 {
		if _, final := u.failed(slow); final != nil {
			t.Fatal(final)
		}
	}
	if wait, _ := u.failed(slow); wait != uploadWaitMax || u.part != minPart {
		t.Errorf("wait %v, part %d", wait, u.part)
	}
	if done, err := u.took(wire.BundleState{Total: wire.MaxBundle}); done || err != nil {
		t.Fatal(done, err)
	}
	from, to, ask := u.next()
	if from != 0 || to != minPart || ask {
		t.Errorf("next is %d to %d, %v", from, to, ask)
	}
	if _, err := u.took(wire.BundleState{Held: to, Total: wire.MaxBundle}); err != nil {
		t.Fatal(err)
	}
	if from, to, _ = u.next(); from != minPart || to != 3*minPart || u.wait != uploadWaitMin {
		t.Errorf("next is %d to %d, wait %v", from, to, u.wait)
	}
}
