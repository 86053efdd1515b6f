package link

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"gururmm/internal/neterr"
)

// proxyTimeout: a proxy connects onwards before it answers.
const proxyTimeout = connectTimeout + 5*time.Second

// ErrProxy says that the proxy did not let us through.
var ErrProxy = errors.New("the proxy does not connect us")

// way gives the proxy for u; nil: none. Loopback is never proxied.
func (o Options) way(u *url.URL) (*url.URL, error) {
	if o.Proxy == nil || u.Scheme != "wss" {
		return nil, nil
	}
	as := *u
	as.Scheme = "https" // proxies are configured for https://, not for wss://
	via, err := o.Proxy(&http.Request{Method: http.MethodGet, URL: &as, Host: as.Host})
	if err != nil {
		return nil, fmt.Errorf("choose the link's proxy: %w", err)
	}
	return via, nil
}

// through connects to u by the proxy via, which also resolves u's name.
func (o Options) through(ctx context.Context, via, u *url.URL) (net.Conn, string, error) {
	addrs, err := o.addresses(ctx, via, defaultPort(via))
	if err != nil {
		return nil, "", err
	}
	conn, remote, err := o.connect(ctx, addrs)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := tunnel(ctx, conn, via, net.JoinHostPort(u.Hostname(), defaultPort(u)))
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, "", neterr.During(neterr.StepHTTP, fmt.Errorf("%w: %s: %w", ErrProxy, remote, err))
	}
	return tunnel, remote, nil
}

func defaultPort(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	switch u.Scheme {
	case "wss", "https":
		return "443"
	case "socks5", "socks5h":
		return "1080"
	}
	return "80"
}

// tunnel asks the proxy at the other end of conn for a way to target.
func tunnel(ctx context.Context, conn net.Conn, via *url.URL, target string) (net.Conn, error) {
	switch via.Scheme {
	case "https":
		secure := tls.Client(conn, &tls.Config{ServerName: via.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		return secure, httpConnect(secure, via, target)
	case "http":
		return conn, httpConnect(conn, via, target)
	case "socks5", "socks5h":
		return conn, socksConnect(conn, via, target)
	}
	return nil, fmt.Errorf("a proxy of scheme %q is not supported", via.Scheme)
}

// httpConnect is RFC 9110 §9.3.6.
func httpConnect(conn net.Conn, via *url.URL, target string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if via.User != nil {
		secret, _ := via.User.Password()
		req.Header.Set("Proxy-Authorization",
			"Basic "+base64.StdEncoding.EncodeToString([]byte(via.User.Username()+":"+secret)))
	}
	var head bytes.Buffer
	if err := req.Write(&head); err != nil {
		return err
	}
	if _, err := conn.Write(head.Bytes()); err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(conn, 64<<10))
	resp, err := http.ReadResponse(in, req)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return &Refused{Status: resp.StatusCode}
	case in.Buffered() > 0:
		return errors.New("it spoke before we did")
	}
	return nil
}

// socksConnect is RFC 1928, with the name resolved by the proxy, and RFC 1929
// where it asks for a password.
func socksConnect(conn net.Conn, via *url.URL, target string) error {
	const (
		version, noAuth, password = 5, 0, 2
		connect, byName           = 1, 3
	)
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || len(host) > 255 {
		return fmt.Errorf("target %q", target)
	}
	hello := []byte{version, 1, noAuth}
	if via.User != nil {
		hello = []byte{version, 2, noAuth, password}
	}
	answer, err := ask(conn, hello, 2)
	if err != nil {
		return err
	}
	switch {
	case answer[0] != version:
		return errors.New("it is no SOCKS 5 proxy")
	case answer[1] == password && via.User != nil:
		secret, _ := via.User.Password()
		name := via.User.Username()
		if len(name) > 255 || len(secret) > 255 {
			return errors.New("user name or password too long")
		}
		login := append([]byte{1, byte(len(name))}, name...)
		login = append(append(login, byte(len(secret))), secret...)
		if answer, err = ask(conn, login, 2); err != nil {
			return err
		}
		if answer[1] != 0 {
			return &Refused{Status: http.StatusProxyAuthRequired}
		}
	case answer[1] != noAuth:
		return &Refused{Status: http.StatusProxyAuthRequired}
	}
	req := append([]byte{version, connect, 0, byName, byte(len(host))}, host...)
	req = append(req, byte(number>>8), byte(number))
	if answer, err = ask(conn, req, 4); err != nil {
		return err
	}
	if answer[1] != 0 {
		return fmt.Errorf("SOCKS reply %d", answer[1])
	}
	rest := map[byte]int{1: 4, 4: 16}[answer[3]]
	if answer[3] == byName {
		if answer, err = ask(conn, nil, 1); err != nil {
			return err
		}
		rest = int(answer[0])
	}
	_, err = ask(conn, nil, rest+2)
	return err
}

// ask writes b and reads n bytes.
func ask(conn net.Conn, b []byte, n int) ([]byte, error) {
	if len(b) > 0 {
		if _, err := conn.Write(b); err != nil {
			return nil, err
		}
	}
	answer := make([]byte, n)
	_, err := io.ReadFull(conn, answer)
	return answer, err
}
