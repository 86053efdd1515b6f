package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/internal/certtest"
)

// One that begins a handshake and stands still keeps nobody out for long, and when all is
// over no place is taken.
func TestHandshakesGiveTheirPlacesBack(t *testing.T) {
	ca := certtest.NewCA(t)
	cert := ca.Leaf(t, nil)
	for name, most := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, gate := paced(&tls.Config{Certificates: []tls.Certificate{cert}})
				client := &tls.Config{InsecureSkipVerify: true, MaxVersion: most}
				shake := func(still bool) (server chan error, told error) {
					ours, theirs := net.Pipe()
					server = make(chan error, 1)
					ctx, cancel := context.WithTimeout(t.Context(), headerTimeout)
					go func() {
						defer cancel()
						defer theirs.Close()
						server <- tls.Server(theirs, cfg).HandshakeContext(ctx)
					}()
					if still { // it hears everything, and says only its first message
						c := tls.Client(&first{Conn: ours}, client)
						go c.Handshake()
						go func() { // ends with the connection
							<-ctx.Done()
							ours.Close()
						}()
						return server, nil
					}
					c := tls.Client(ours, client)
					if told = c.HandshakeContext(t.Context()); told == nil {
						go io.Copy(io.Discard, c) // a session ticket; ends with the other end
					}
					return server, told
				}
				stalled, _ := shake(true)
				synctest.Wait()
				time.Sleep(shakeWork)
				synctest.Wait()
				if s := gate.Stats(); s.In != 0 {
					t.Errorf("%d that stand still keep a place after %v", s.In, shakeWork)
				}
				server, err := shake(false)
				if err := errors.Join(err, <-server); err != nil {
					t.Error(err)
				}
				if err := <-stalled; err == nil {
					t.Error("a handshake that stood still succeeded")
				}
				synctest.Wait()
				if s := gate.Stats(); s.In != 0 || s.Waiting != 0 || s.Refused != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// first lets one write through, and swallows the rest.
type first struct {
	net.Conn
	said bool
}

func (f *first) Write(p []byte) (int, error) {
	if f.said {
		return len(p), nil
	}
	f.said = true
	return f.Conn.Write(p)
}
