// Package endpoint says what the URL of a server's door may look like:
// encrypted, or on this very machine, and never with a secret in it.
package endpoint

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Check wants an absolute URL of scheme secure ("https", "wss"), or, to a loopback
// address only, of scheme plain; without a user name or password.
func Check(raw, secure, plain string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil && !strings.Contains(raw, "://"): // "127.0.0.1:8443", which is parsed as something else
		return fmt.Errorf("%q does not begin with %s://", raw, secure)
	case err != nil:
		return err
	case u.Hostname() == "":
		return fmt.Errorf("%q names no host; write %s://host:port", raw, secure)
	case u.User != nil:
		return errors.New("a user name or password does not belong into a URL")
	case u.Scheme == secure:
		return nil
	case u.Scheme == plain && Loopback(u.Hostname()):
		return nil
	case u.Scheme == plain:
		return fmt.Errorf("%q is not encrypted; write %s://%s", raw, secure, u.Host)
	}
	return fmt.Errorf("%q does not begin with %s://", raw, secure)
}

// Loopback reports whether host, a name or an address without a port, is this very
// machine. A name that merely looks like an address ("127.example.com") is not.
func Loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
