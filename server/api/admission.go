package api

import (
	"runtime"
	"time"

	"gururmm/internal/admission"
)

// Doors of the server, each with places of its own: a storm at one closes no other. Before
// a token is looked at a place is needed: its signature and the database are what costs.
const (
	doorLink      = "link"
	doorOOB       = "oob"
	doorEnroll    = "enroll"
	doorOperators = "operators"
)

const (
	// linkPlaces, for each core, are links on their way to being verified: so many that
	// a fleet far away, at five round trips each, still comes back in a minute.
	linkPlaces = 128
	// settleWithin is how long such a link keeps its place: what takes longer waits
	// for its agent, and deaf ones must not keep the others out.
	settleWithin = time.Second
	// requestPlaces, for each core, are tokens that are being checked: milliseconds each.
	requestPlaces = 16
	// crowd is how many wait, for each place.
	crowd = 8
	// patience is how long each waits: well within the time-outs of those who ask.
	patience = 2 * time.Second
)

func newDoors() map[string]*admission.Gate {
	cores := runtime.GOMAXPROCS(0)
	doors := map[string]*admission.Gate{doorLink: admission.New(linkPlaces*cores, crowd*linkPlaces*cores, patience)}
	for _, door := range []string{doorOOB, doorEnroll, doorOperators} {
		doors[door] = admission.New(requestPlaces*cores, crowd*requestPlaces*cores, patience)
	}
	return doors
}

// Doors counts, for each door, who is in, who waits and who was sent away.
func (a *API) Doors() map[string]admission.Stats {
	out := map[string]admission.Stats{}
	for door, gate := range a.doors {
		out[door] = gate.Stats()
	}
	return out
}

// settling gives a place back once, at the latest after settleWithin.
func settling(leave func()) (settled func()) {
	late := time.AfterFunc(settleWithin, leave)
	return func() {
		late.Stop()
		leave()
	}
}
