package oob_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"gururmm/internal/certtest"
	"gururmm/internal/neterr"
	"gururmm/internal/pin"
	"gururmm/oob"
	"gururmm/wire"
)

// connectProxy is an HTTP proxy that knows CONNECT only.
func connectProxy(t *testing.T) *url.URL {
	t.Helper()
	var wg sync.WaitGroup
	wg.Add(1) // a tunnel may begin, unseen by s.Close, while the end is waited for
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("the proxy was shown the token")
		}
		up, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		wg.Go(func() { io.Copy(up, down); up.Close() })
		wg.Go(func() { io.Copy(down, up); down.Close() })
	}))
	t.Cleanup(func() { s.Close(); wg.Done(); wg.Wait() })
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// The pin holds through a proxy as well, and a proxy that is gone is a failure of the door.
func TestProxy(t *testing.T) {
	d := newDoor(t, answer)
	via := connectProxy(t)
	through := func(o *oob.ClientOptions) { o.Proxy = http.ProxyURL(via) }
	c := newClient(t, through, d.door())
	if _, err := c.Poll(t.Context(), wire.PollRequest{}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	wrong := newClient(t, through, wire.OOBDoor{URL: d.URL, Pin: pin.Of(certtest.NewCA(t).Cert)})
	_, err := wrong.Poll(t.Context(), wire.PollRequest{})
	if ne := oob.NetworkError(err); ne == nil || ne.Type != neterr.TLSCertPin {
		t.Errorf("wrong key through a proxy: %v", err)
	}
	gone, err := url.Parse(refusedDoor(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	gone.Scheme = "http"
	lost := newClient(t, func(o *oob.ClientOptions) { o.Proxy = http.ProxyURL(gone) }, d.door())
	_, err = lost.Poll(t.Context(), wire.PollRequest{})
	if ne := oob.NetworkError(err); ne == nil || ne.Type != neterr.TCPRefused {
		t.Errorf("no proxy there: %v", err)
	}
}
