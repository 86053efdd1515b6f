package neterr

import "strings"

// Phases of a request (W3C Network Error Logging §5.2).
const (
	PhaseDNS         = "dns"
	PhaseConnection  = "connection"
	PhaseApplication = "application"
)

// Types of errors (W3C Network Error Logging §6, "Predefined network error types").
const (
	DNSUnreachable      = "dns.unreachable"
	DNSNameNotResolved  = "dns.name_not_resolved"
	DNSFailed           = "dns.failed"
	TCPTimedOut         = "tcp.timed_out"
	TCPClosed           = "tcp.closed"
	TCPReset            = "tcp.reset"
	TCPRefused          = "tcp.refused"
	TCPAborted          = "tcp.aborted"
	TCPAddressInvalid   = "tcp.address_invalid"
	TCPUnreachable      = "tcp.address_unreachable"
	TCPFailed           = "tcp.failed"
	TLSVersionOrCipher  = "tls.version_or_cipher_mismatch"
	TLSBadClientCert    = "tls.bad_client_auth_cert"
	TLSCertName         = "tls.cert.name_invalid"
	TLSCertDate         = "tls.cert.date_invalid"
	TLSCertAuthority    = "tls.cert.authority_invalid"
	TLSCertInvalid      = "tls.cert.invalid"
	TLSCertPin          = "tls.cert.pinned_key_not_in_cert_chain"
	TLSProtocolError    = "tls.protocol.error"
	TLSFailed           = "tls.failed"
	HTTPError           = "http.error" // a 4xx or 5xx answer
	HTTPProtocolError   = "http.protocol.error"
	HTTPRedirectLoop    = "http.response.redirect_loop"
	HTTPFailed          = "http.failed"
	Abandoned           = "abandoned" // we gave up ourselves
	Unknown             = "unknown"
	WSUpgradeRefused    = "ws.upgrade_refused"     // HTTP answered, but not with 101
	WSSubprotocol       = "ws.subprotocol"         // upgraded without our subprotocol
	WSClosed            = "ws.closed"              // a close frame, or the end of the stream
	WSProtocol          = "ws.protocol"            // not RFC 6455 any more
	WSTooLarge          = "ws.too_large"           // a message above the limit
	WSSilent            = "ws.silent"              // upgraded, then no frame within the dead deadline
	WSUnverified        = "ws.unverified"          // upgraded, not verified in time
	WSWriteTimedOut     = "ws.write_timed_out"     // a frame could not be written in time
	WSHandshakeTimedOut = "ws.handshake_timed_out" // connected, the upgrade was never answered
)

// Phase gives the phase that errors of type typ belong to; "" for "unknown".
func Phase(typ string) string {
	switch family, _, _ := strings.Cut(typ, "."); family {
	case "dns":
		return PhaseDNS
	case "tcp", "tls":
		return PhaseConnection
	case "http", "ws", "abandoned":
		return PhaseApplication
	}
	return ""
}
