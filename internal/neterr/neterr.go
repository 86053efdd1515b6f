// Package neterr names network errors in the vocabulary of W3C Network Error
// Logging, so that status, beacon and operator say the same word for the same
// thing, and a program can branch on it.
//
// Errors are told apart by type and identity, never by their text.
package neterr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"reflect"
	"syscall"
)

// ErrPin says that a server showed another key than the pinned one.
var ErrPin = errors.New("server's key is not the pinned one")

// ErrRedirectLoop is for an HTTP client's CheckRedirect.
var ErrRedirectLoop = errors.New("too many redirects")

// Step of an exchange; [During] marks an error with it.
type Step string

// The steps.
const (
	StepDNS  Step = "dns"
	StepDial Step = "dial"
	StepTLS  Step = "tls"
	StepHTTP Step = "http"
)

type stepError struct {
	step Step
	err  error
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// During marks err as having occurred in step. The standard library returns
// plain errors and bare time-outs out of a TLS handshake, which say nothing by
// their type; who runs the step knows. The text is unchanged; nil stays nil.
func During(step Step, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{step, err}
}

// Classify gives phase ("dns", "connection", "application") and type of err,
// both "" for nil. What is not recognised is "unknown", without a phase, unless
// [During] tells its step.
func Classify(err error) (phase, typ string) {
	if err == nil {
		return "", ""
	}
	typ = classify(err)
	phase = Phase(typ)
	if e, ok := errors.AsType[*stepError](err); ok && e.step == StepHTTP {
		phase = PhaseApplication
	}
	return phase, typ
}

func classify(err error) string {
	var step Step
	if e, ok := errors.AsType[*stepError](err); ok {
		step = e.step
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return Abandoned
	case errors.Is(err, ErrPin):
		return TLSCertPin
	case errors.Is(err, ErrRedirectLoop):
		return HTTPRedirectLoop
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		switch {
		case e.IsNotFound:
			return DNSNameNotResolved
		case e.IsTimeout:
			return DNSUnreachable
		}
		return DNSFailed
	}
	if typ := ofTLS(err); typ != "" {
		return typ
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		if typ, ok := errnos[e]; ok {
			return typ
		}
	}
	if ofAddress(err) {
		return TCPAddressInvalid
	}
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		return HTTPProtocolError
	}
	if timedOut(err) {
		switch step {
		case StepDNS:
			return DNSUnreachable
		case StepTLS:
			return TLSFailed
		case StepHTTP:
			return HTTPFailed
		}
		return TCPTimedOut
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return TCPClosed
	}
	switch step {
	case StepDNS:
		return DNSFailed
	case StepTLS:
		return TLSFailed
	case StepHTTP:
		return HTTPFailed
	case StepDial:
		return TCPFailed
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && (e.Op == "dial" || e.Op == "read" || e.Op == "write") {
		return TCPFailed
	}
	return Unknown
}

func timedOut(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func ofAddress(err error) bool {
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.ParseError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.InvalidAddrError](err); ok {
		return true
	}
	_, ok := errors.AsType[net.UnknownNetworkError](err)
	return ok
}

func ofTLS(err error) string {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return TLSProtocolError
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return TLSCertName
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return TLSCertAuthority
	}
	if _, ok := errors.AsType[x509.SystemRootsError](err); ok {
		return TLSCertAuthority
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch e.Reason {
		case x509.Expired:
			return TLSCertDate
		case x509.CANotAuthorizedForThisName, x509.NameMismatch, x509.NameConstraintsWithoutSANs:
			return TLSCertName
		}
		return TLSCertInvalid
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return TLSCertInvalid
	}
	if e, ok := errors.AsType[tls.AlertError](err); ok {
		return ofAlert(uint8(e))
	}
	// Over TCP an alert is a *net.OpError of Op "remote error" whose Err is a
	// number of an unexported type (crypto/tls, type alert): its kind and value say what it is.
	if e, ok := errors.AsType[*net.OpError](err); ok && (e.Op == "remote error" || e.Op == "local error") {
		if v := reflect.ValueOf(e.Err); v.Kind() == reflect.Uint8 {
			return ofAlert(uint8(v.Uint()))
		}
	}
	return ""
}

// ofAlert sorts TLS alerts (RFC 8446 §6.2). Alerts about certificates come from
// a peer that judged ours: one that it shows is judged here.
func ofAlert(n uint8) string {
	switch n {
	case 40, 70, 71, 120: // handshake_failure, protocol_version, insufficient_security, no_application_protocol
		return TLSVersionOrCipher
	case 41, 42, 43, 44, 45, 46, 48, 49, 116: // no_, bad_, unsupported_certificate, revoked, expired, unknown, unknown_ca, access_denied, required
		return TLSBadClientCert
	case 10, 20, 21, 22, 30, 47, 50, 51, 109, 110: // unexpected_message … unsupported_extension
		return TLSProtocolError
	case 112: // unrecognized_name
		return TLSCertName
	}
	return TLSFailed
}
