package oob

import (
	"errors"
	"net/http"
	"testing"
	"time"

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

// What counts of several doors is what the server said at its own, not the status that a
// captive portal gave at the first.
func TestAPortalDoesNotEndAnUpload(t *testing.T) {
	portal := &DoorError{Door: "https://portal.test", Status: http.StatusBadRequest, Err: errors.New("answer is 400 Bad Request")}
	server := func(status int) *DoorError {
		return &DoorError{Door: "https://door.test", Status: status, Err: wire.Problem{Title: "no", Status: status}}
	}
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"it drains":                {allFailed{portal, server(http.StatusServiceUnavailable)}, nil},
		"a portal alone":           {allFailed{portal}, nil},
		"never what was announced": {allFailed{portal, server(http.StatusUnprocessableEntity)}, ErrBundleRefused},
		"a portal behind it":       {allFailed{server(http.StatusUnprocessableEntity), portal}, ErrBundleRefused},
		"no room":                  {allFailed{portal, server(http.StatusInsufficientStorage)}, ErrBundleLater},
	} {
		u := newUpload(1000)
		var final error
		for range 2 { // a refusal counts the second time
			if final == nil {
				_, final = u.failed(c.err)
			}
		}
		if !errors.Is(final, c.want) {
			t.Errorf("%s: %v, want %v", name, final, c.want)
		}
	}
}

func TestASlowDoorsTimeIsRounded(t *testing.T) {
	if got := (&tooSlow{2502990722 * time.Nanosecond}).Error(); got != "no answer within 2.5s" {
		t.Errorf("%q", got)
	}
}
