package server

import (
	"context"
	"crypto/tls"
	"runtime"
	"time"

	"gururmm/internal/admission"
)

// Handshakes share the processor: ten thousand at once would all end at the same late
// moment, which is after the time-out of each. So they are worked on some at a time.
const (
	// shakePlaces, for each core, are worked on together: some tens of milliseconds for all.
	shakePlaces = 32
	// shakeCrowd, for each place, wait with little more than their first message in memory.
	shakeCrowd = 64
	// shakePatience is how long: endpoints give a handshake 10 s.
	shakePatience = 5 * time.Second
	// shakeWork is when one gives its place up that waits for the other end.
	shakeWork = 100 * time.Millisecond
)

// doorways counts the doors of the API and, by the listener's setting, the handshakes.
func (s *Server) doorways() map[string]admission.Stats {
	all := s.api.Doors()
	for setting, gate := range s.shakes {
		all["tls_"+setting] = gate.Stats()
	}
	return all
}

// paced has the handshakes of cfg worked on some at a time. Each listener has places of
// its own.
func paced(cfg *tls.Config) (*tls.Config, *admission.Gate) {
	places := shakePlaces * runtime.GOMAXPROCS(0)
	gate := admission.New(places, shakeCrowd*places, shakePatience)
	out := cfg.Clone()
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		leave, err := gate.Enter(hello.Context())
		if err != nil {
			return nil, err
		}
		late := time.AfterFunc(shakeWork, leave)
		context.AfterFunc(hello.Context(), func() { // the handshake is over, or given up
			late.Stop()
			leave()
		})
		return nil, nil // as configured: one of its own would stay with each connection
	}
	return out, gate
}
