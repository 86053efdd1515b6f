package neterr

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
)

// Plain is err's text for people: where a part of it comes from the standard library's
// network code, what that means stands in its place. What others put around it stays,
// addresses and names too.
func Plain(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, part := range []func(error) (says string, of error){ofURL, ofOp, ofDNS, ofCertificate, ofDeadline} {
		if says, of := part(err); of != nil {
			if plain := strings.Replace(text, of.Error(), says, 1); plain != text || of.Error() == says {
				return plain
			}
		}
	}
	return text
}

func ofURL(err error) (string, error) {
	e, ok := errors.AsType[*url.Error](err)
	if !ok {
		return "", nil
	}
	return Plain(e.Err), e // the caller knows which URL that was
}

func ofOp(err error) (string, error) {
	e, ok := errors.AsType[*net.OpError](err)
	if !ok {
		return "", nil
	}
	at := ""
	if e.Addr != nil {
		at = e.Addr.String() + ": "
	}
	why := Plain(e.Err)
	switch _, typ := Classify(err); typ {
	case TCPRefused:
		why = "connection refused"
	case TCPTimedOut:
		why = "no answer in time"
	}
	return at + why, e
}

func ofDNS(err error) (string, error) {
	e, ok := errors.AsType[*net.DNSError](err)
	switch {
	case !ok:
		return "", nil
	case e.IsNotFound:
		return "the name " + e.Name + " does not exist", e
	case e.IsTimeout:
		return "no name server answered for " + e.Name, e
	}
	return "the name " + e.Name + " can't be looked up: " + e.Err, e
}

func ofCertificate(err error) (string, error) {
	e, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		return "", nil
	}
	return "its certificate is not trusted: " + strings.TrimPrefix(e.Err.Error(), "x509: "), e
}

func ofDeadline(err error) (string, error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time", context.DeadlineExceeded
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer in time", os.ErrDeadlineExceeded
	case errors.Is(err, context.Canceled):
		return "given up", context.Canceled
	}
	return "", nil
}

// Advice says what a person at this end can do about err, in half a sentence; "": nothing
// that is known from here.
func Advice(err error) string {
	switch _, typ := Classify(err); typ {
	case TLSCertAuthority, TLSCertInvalid:
		return "trust this server by its key, --pin sha256/… (it prints it when it starts), or by its CA, --ca FILE"
	case TLSCertName:
		return "the certificate is for another name: use that one, or give the server's key with --pin sha256/…"
	case TLSCertDate:
		return "look at the clocks of both machines; --pin does not need them"
	case TLSCertPin:
		return "either the pin is not the one the server printed, or something answers in the server's place"
	case TLSProtocolError, HTTPProtocolError:
		return "what answers there does not speak as the URL says: wrong port, or http for https?"
	case DNSNameNotResolved:
		return "is the URL spelt right?"
	case DNSUnreachable, DNSFailed:
		return "look at this machine's name servers"
	case TCPRefused:
		return "nothing listens there: is the server running, and the port right?"
	case TCPTimedOut, TCPUnreachable, TLSFailed, HTTPFailed, TCPFailed:
		return "is there a firewall or a proxy (HTTPS_PROXY) on the way?"
	case TCPClosed, TCPReset:
		return "the server, or something on the way, cut the connection: try again in a moment"
	}
	return ""
}
