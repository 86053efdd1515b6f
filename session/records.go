package session

import (
	"crypto/tls"
	"net"
)

// recordSize bounds what one record of a link over TLS carries, in bytes. It fills a whole
// segment, so that what is lost by its size still is; and the other end's buffer, which
// crypto/tls keeps as large as its largest records need, stays as its handshake left it.
const recordSize = 1500

// Records makes a TLS connection that writes records of 1500 bytes at most. The end of a link
// that many others dial is to be written to by such: each of its quiet links keeps the buffer.
func Records(conn *tls.Conn) net.Conn { return records{conn} }

type records struct{ *tls.Conn }

func (r records) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var took int
		took, err = r.Conn.Write(p[n:min(n+recordSize, len(p))])
		n += took
	}
	return n, err
}
