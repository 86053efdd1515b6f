package neterr_test

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
)

// quiet swallows what the test servers have to say of failed handshakes.
var quiet = log.New(io.Discard, "", 0)

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// resolver asks only the DNS server at addr.
func resolver(addr string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", addr)
	}}
}
