package session

import (
	"crypto/tls"
	"net"
)

// recordSize bounds what one record of a link over TLS carries, in bytes. The other end keeps
// a buffer that crypto/tls makes as large as records need, and never smaller: its handshake
// leaves 2 KB, and in those a record with what is around it must fit into a quarter, or the
// buffer is doubled when the next one has begun to come.
const recordSize = 470

// Secure makes conn the client's end of a link over TLS. Give its context to the handshake, and
// [Records] of it to the WebSocket's library.
func Secure(conn net.Conn, cfg *tls.Config) *tls.Conn { return tls.Client(Corked(conn), cfg) }

// Records has a connection of [Secure] write small records, those of one Write as one: what
// leaves are full segments all the same, so a path that loses large ones shows. A server keeps
// a buffer for each of its links, and most are idle.
func Records(conn *tls.Conn) net.Conn { return records{conn} }

type records struct{ *tls.Conn }

func (r records) Write(p []byte) (n int, err error) {
	below := r.NetConn().(*corked)
	below.cork()
	for n < len(p) && err == nil {
		var took int
		took, err = r.Conn.Write(p[n:min(n+recordSize, len(p))])
		n += took
	}
	if sent := below.uncork(); err == nil && sent != nil {
		return 0, sent
	}
	return n, err
}
