package session

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"gururmm/internal/certtest"
)

const applicationData = 23 // RFC 8446 section 5.1

// recorded tells how large the records of data are that are read from a connection.
type recorded struct {
	net.Conn
	unread  bytes.Buffer
	largest int
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.unread.Write(p[:n])
	for r.unread.Len() >= 5 {
		kind, size := r.unread.Bytes()[0], int(binary.BigEndian.Uint16(r.unread.Bytes()[3:5]))
		if r.unread.Len() < 5+size {
			break
		}
		r.unread.Next(5 + size)
		if kind == applicationData {
			r.largest = max(r.largest, size)
		}
	}
	return n, err
}

// writes counts them.
type writes struct {
	net.Conn
	n int
}

func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.Conn.Write(p)
}

func TestRecordsAreSmallAndLeaveTogether(t *testing.T) {
	ca := certtest.NewCA(t)
	near, far := net.Pipe()
	below := &recorded{Conn: far}
	server := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, nil)}})
	leaving := &writes{Conn: near}
	client := Secure(leaving, &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", MinVersion: tls.VersionTLS12})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10/16)
	written := make(chan error, 1)
	server.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		defer near.Close()
		if err := client.Handshake(); err != nil {
			written <- err
			return
		}
		conn := Records(client)
		for range 3 {
			leaving.n = 0
			if n, err := conn.Write(sent); err != nil || n != len(sent) {
				written <- err
				return
			}
			if most := len(sent)/maxCorked + len(sent)/maxCorked/10 + 1; leaving.n > most {
				written <- fmt.Errorf("%d writes, want %d at most", leaving.n, most)
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
	if below.largest < recordSize || below.largest > recordSize+around || around+recordSize > 512-5 {
		t.Errorf("the largest record has %d bytes, want %d and what is around them", below.largest, recordSize)
	}
}
