package neterr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
)

// numbered gives an error of the platform's own that is classified so.
func numbered(t *testing.T, typ string) syscall.Errno {
	t.Helper()
	for e, is := range errnos {
		if is == typ {
			return e
		}
	}
	t.Fatalf("no error of this platform is %s", typ)
	return 0
}

func TestPeopleReadNoneOfTheLibrarysWords(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, Err: os.NewSyscallError("connect", numbered(t, TCPRefused))}
	name := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "no.example", Server: "192.0.2.53:53", Err: "no such host", IsNotFound: true}}
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{fmt.Errorf("own words"), "own words"},
		{&url.Error{Op: "Get", URL: "https://127.0.0.1:1/v1/agents", Err: refused}, "127.0.0.1:1: connection refused"},
		{fmt.Errorf("upgrade: %w", refused), "upgrade: 127.0.0.1:1: connection refused"},
		{&url.Error{Op: "Post", URL: "https://no.example/", Err: name}, "the name no.example does not exist"},
		{fmt.Errorf("not logged in: %w", &url.Error{Op: "Get", URL: "https://x", Err: context.DeadlineExceeded}), "not logged in: no answer in time"},
		{fmt.Errorf("read: %w", os.ErrDeadlineExceeded), "read: no answer in time"},
		{&url.Error{Op: "Get", URL: "https://x", Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, "its certificate is not trusted: certificate signed by unknown authority"},
	} {
		got := Plain(c.err)
		if got != c.want {
			t.Errorf("%v is told as %q, want %q", c.err, got, c.want)
		}
		for _, raw := range []string{"dial tcp", "deadline exceeded", "x509:", "Get \"", "i/o timeout", "lookup "} {
			if strings.Contains(got, raw) {
				t.Errorf("%q has %q in it", got, raw)
			}
		}
	}
}

func TestAdviceIsThereForWhatAPersonCanMend(t *testing.T) {
	for _, err := range []error{
		numbered(t, TCPRefused), numbered(t, TCPUnreachable), context.DeadlineExceeded, x509.UnknownAuthorityError{}, x509.HostnameError{},
		ErrPin, &net.DNSError{IsNotFound: true}, &net.DNSError{IsTimeout: true}, numbered(t, TCPReset), tls.RecordHeaderError{},
	} {
		if Advice(err) == "" {
			t.Errorf("%v (%T): no advice", err, err)
		}
	}
	if got := Advice(fmt.Errorf("disk full")); got != "" {
		t.Errorf("advice about what is no network error: %q", got)
	}
}
