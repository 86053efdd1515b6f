package state

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/internal/endpoint"
	"gururmm/internal/fault"
	"gururmm/internal/moment"
	"gururmm/internal/neterr"
	"gururmm/release"
	"gururmm/wire"
)

// enrollTimeout bounds the whole exchange; a person waits for it, perhaps on a
// slow link.
const enrollTimeout = 30 * time.Second

// maxEnrollResponse bounds the answer in bytes: a policy is at most one message.
const maxEnrollResponse = 2 * wire.MaxMessage

// EnrollOptions says where and how to enroll.
type EnrollOptions struct {
	ServerURL string // https://host:port
	Token     string // enrollment token; never logged
	CAPEM     []byte // trust these roots, not the system's
	Pin       string // trust exactly this key
	Presence  wire.Presence
	// Key is traded for the identity; nil: a fresh one.
	Key ed25519.PrivateKey
	// Proxy chooses the way out; nil: as the environment says.
	Proxy func(*http.Request) (*url.URL, error)
	// HTTPClient is a seam. Nil: one that obeys CAPEM, Pin and the environment's proxy.
	HTTPClient *http.Client
	// Now is the clock that certificates are judged by; nil: the machine's.
	Now func() time.Time
}

// EnrollError says why enrollment failed, and what a person can do.
type EnrollError struct {
	Err  error
	Hint string // may be empty
}

func (e *EnrollError) Error() string {
	if e.Hint == "" {
		return "enroll: " + neterr.Plain(e.Err)
	}
	return "enroll: " + neterr.Plain(e.Err) + " (" + e.Hint + ")"
}
func (e *EnrollError) Unwrap() error { return e.Err }

// Enroll makes a key pair and trades the token for an identity. The policy that
// comes along is verified. It stores nothing: see [Dir.Enroll]. Errors are
// *[EnrollError]; a refusal wraps a [wire.Problem].
func Enroll(ctx context.Context, o EnrollOptions) (id Identity, policy wire.Envelope, serverTime time.Time, err error) {
	fail := func(err error, hint string) (Identity, wire.Envelope, time.Time, error) {
		return Identity{}, wire.Envelope{}, time.Time{}, &EnrollError{err, hint}
	}
	if err := endpoint.Check(o.ServerURL, "https", "http"); err != nil {
		return fail(err, "the server prints the right one when it starts: https://host:port")
	}
	if o.Token == "" {
		return fail(errors.New("the enrollment token is empty"), "make one with: gururmm enroll-token create")
	}
	now := o.Now
	if now == nil {
		now = fault.Now
	}
	client := o.HTTPClient
	if client == nil {
		cfg, err := tlsConfig(o.CAPEM, o.Pin, now)
		if err != nil {
			return fail(err, "")
		}
		proxy := o.Proxy
		if proxy == nil {
			proxy = http.ProxyFromEnvironment
		}
		transport := &http.Transport{Proxy: proxy, TLSClientConfig: cfg, DisableKeepAlives: true}
		client = &http.Client{
			Transport: transport,
			// The token must not follow a redirect to another host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	key := o.Key
	if key == nil {
		var err error
		if _, key, err = ed25519.GenerateKey(nil); err != nil {
			return fail(err, "")
		}
	}
	public := key.Public().(ed25519.PublicKey)
	body, err := json.Marshal(wire.EnrollRequest{Token: o.Token, PublicKey: public, Presence: o.Presence})
	if err != nil {
		return fail(err, "")
	}
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(o.ServerURL, "/")+"/v1/enroll", bytes.NewReader(body))
	if err != nil {
		return fail(err, "")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fail(err, hintFor(err, o, now()))
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxEnrollResponse+1))
	if err != nil {
		return fail(fmt.Errorf("read the answer: %w", err), "the token may be spent: make a new one")
	}
	if len(raw) > maxEnrollResponse {
		return fail(errors.New("the answer is too large"), wrongURL)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		hint, err := refusal(resp, raw)
		return fail(err, hint)
	}
	var answer wire.EnrollResponse
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fail(fmt.Errorf("the answer can't be understood: %w", err), wrongURL)
	}
	id = Identity{
		Agent: answer.Agent, Server: answer.Server, Key: key, CommandKeys: answer.CommandKeys,
		LinkURLs: answer.LinkURLs, LinkCA: string(o.CAPEM), LinkPin: o.Pin, OOB: answer.OOB,
		EnrolledAt: now().UTC(),
	}
	serverTime = answer.ServerTime
	if !serverTime.IsZero() {
		id.EnrolledAt = serverTime.UTC()
	}
	if _, err := release.ParseKeys(answer.ReleaseKeys); err != nil {
		return fail(fmt.Errorf("the server's answer is not usable: %w", err), "")
	}
	id.ReleaseKeys = answer.ReleaseKeys
	if err := id.validate(); err != nil {
		return fail(fmt.Errorf("the server's answer is not usable: %w", err), "")
	}
	if _, err := OpenPolicy(id, answer.Policy); err != nil {
		return fail(fmt.Errorf("the server's answer is not usable: %w", err), "")
	}
	return id, answer.Policy, serverTime, nil
}

// Enroll enrolls and stores identity and policy. It does not spend the token if the
// endpoint is enrolled already (unless force; the old identity is then kept
// under another name) or if the directory can't be written.
func (d *Dir) Enroll(ctx context.Context, o EnrollOptions, force bool) (id Identity, serverTime time.Time, err error) {
	if !force {
		if err := d.vacant(); err != nil {
			return Identity{}, time.Time{}, err
		}
	}
	trial := d.Path(".enroll")
	if err := atomicfile.Write(trial, []byte("trial\n"), 0o600); err != nil {
		return Identity{}, time.Time{}, fmt.Errorf("enroll: state directory is not writable: %w", err)
	}
	if err := os.Remove(trial); err != nil {
		return Identity{}, time.Time{}, fmt.Errorf("enroll: %w", err)
	}
	id, policy, serverTime, err := Enroll(ctx, o)
	if err != nil {
		return Identity{}, time.Time{}, err
	}
	save := d.SaveIdentity
	if force {
		save = d.ReplaceIdentity
	}
	if err := save(id); err != nil {
		return Identity{}, time.Time{}, fmt.Errorf("enroll: the token is spent, but the identity can't be stored: %w", err)
	}
	if err := d.SavePolicy(policy); err != nil {
		return Identity{}, time.Time{}, fmt.Errorf("enroll: enrolled, but the policy can't be stored (the link will bring it again): %w", err)
	}
	return id, serverTime, nil
}

const wrongURL = "is this the server's URL? It prints the right one when it starts"

func useTLS(host string) string { return "use https: https://" + host }

// refusal makes a hint and an error of an answer that is not a success.
func refusal(resp *http.Response, raw []byte) (hint string, err error) {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p wire.Problem
	if media != "application/problem+json" || json.Unmarshal(raw, &p) != nil || p.Title == "" {
		err = fmt.Errorf("the answer is %s, not one of a GuruRMM server", resp.Status)
		if resp.StatusCode == http.StatusBadRequest && resp.Request != nil && resp.Request.URL.Scheme == "http" {
			return useTLS(resp.Request.URL.Host), err // what a TLS port says to plain HTTP
		}
		if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
			return fmt.Sprintf("it redirects to %q: give that server's URL", to), err
		}
		return wrongURL, err
	}
	switch p.Code {
	case wire.ProblemToken:
		return "make a new one with: gururmm enroll-token create", p
	case wire.ProblemNotFound:
		return wrongURL, p
	case wire.ProblemRateLimited, wire.ProblemBusy, wire.ProblemDraining, wire.ProblemDatabase:
		if after := resp.Header.Get("Retry-After"); after != "" {
			return "try again in " + after + " s", p
		}
		return "try again in a minute", p
	}
	return "", p
}

// hintFor says what a person can do about a failed connection.
func hintFor(err error, o EnrollOptions, now time.Time) string {
	_, typ := neterr.Classify(err)
	switch typ {
	case neterr.TLSCertAuthority, neterr.TLSCertInvalid:
		hint := "this machine does not trust the server's certificate: give its CA with --ca FILE, or its key with --pin sha256/…"
		if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(e.UnverifiedCertificates) > 0 {
			hint += "; it showed " + PinOf(e.UnverifiedCertificates[0]) + ", compare that with what the server printed"
		}
		return hint
	case neterr.TLSCertName:
		return "the certificate is for another name: use the host name in it, or give the server's key with --pin sha256/…"
	case neterr.TLSCertDate:
		return "the certificate is not valid at this machine's time, " + moment.Local(now) + ": is its clock right? --pin does not need it"
	case neterr.TLSCertPin:
		return "either the pin is not the one the server printed, or something answers in the server's place"
	case neterr.TLSProtocolError, neterr.HTTPProtocolError:
		if u, err := url.Parse(o.ServerURL); err == nil && u.Scheme == "http" {
			return useTLS(u.Host)
		}
		return "what answers does not speak TLS: wrong port?"
	case neterr.DNSNameNotResolved:
		return "the name does not exist: is the URL spelt right?"
	case neterr.DNSUnreachable, neterr.DNSFailed:
		return "this machine's DNS server does not answer"
	case neterr.TCPRefused:
		return "nothing listens there: is the server running, and the port right?"
	case neterr.TCPTimedOut, neterr.TCPUnreachable, neterr.TLSFailed:
		return "is there a firewall or a proxy (HTTPS_PROXY) on the way?"
	}
	return ""
}
