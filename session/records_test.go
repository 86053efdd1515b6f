package session

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"gururmm/internal/certtest"
)

// recorded tells how large the records are that are read from a connection.
type recorded struct {
	net.Conn
	unread  bytes.Buffer
	largest int
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.unread.Write(p[:n])
	for r.unread.Len() >= 5 {
		size := int(binary.BigEndian.Uint16(r.unread.Bytes()[3:5]))
		if r.unread.Len() < 5+size {
			break
		}
		r.unread.Next(5 + size)
		r.largest = max(r.largest, size)
	}
	return n, err
}

func TestRecordsAreOfOneSegment(t *testing.T) {
	ca := certtest.NewCA(t)
	near, far := net.Pipe()
	below := &recorded{Conn: far}
	server := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, nil)}})
	client := tls.Client(near, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", MinVersion: tls.VersionTLS12})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10/16)
	written := make(chan error, 1)
	go func() {
		defer near.Close()
		conn := Records(client)
		for range 3 {
			if n, err := conn.Write(sent); err != nil || n != len(sent) {
				written <- err
				return
			}
		}
		written <- nil
	}()
	got := make([]byte, 3*len(sent))
	if _, err := io.ReadFull(server, got); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.Repeat(sent, 3)) {
		t.Error("what came is not what was sent")
	}
	const around = 17 + 16 // a record's type, padding and tag
	if below.largest < recordSize || below.largest > recordSize+around {
		t.Errorf("the largest record has %d bytes, want %d and what is around them", below.largest, recordSize)
	}
}
