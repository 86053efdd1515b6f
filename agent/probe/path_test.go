package probe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gururmm/checkup"
	"gururmm/internal/certtest"
	"gururmm/internal/neterr"
	"gururmm/internal/pin"
	"gururmm/wire"
)

func TestHealthyPath(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	subject := s.enrolled(t, s.URL)
	var told []string
	report, err := Run(ctx, subject, Options{Told: func(p Probe, r *checkup.Result, done, total int) {
		if r != nil {
			told = append(told, p.ID)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if r.Name == MTU && runtime.GOOS != "linux" {
			continue // the platform may not tell it
		}
		if r.Group != machine && r.Status != checkup.Pass || r.Name == Clock && r.Status != checkup.Pass {
			t.Errorf("%s %s: %s %s", r.Group, r.Name, r.Status, r.Seen)
		}
		if r.Name == Echo && (r.Figures["up_passed_bytes"] != 256<<10 || r.Figures["down_passed_bytes"] != 256<<10) {
			t.Errorf("echo: %v", r.Figures)
		}
	}
	if len(told) != len(report.Results) || report.Agent != "agent-1" || s.links.Load() != 0 {
		t.Errorf("told of %d of %d; agent %q; %d requests without the probe's mark", len(told), len(report.Results), report.Agent, s.links.Load())
	}
}

func TestBeforeEnrollment(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	subject := s.enrolled(t, s.URL)
	subject.Agent, subject.Token, subject.NotEnrolled, subject.Addresses = "", nil, "not enrolled", subject.Addresses[:1]
	got := visit(t, subject, Echo, Upgrade, Clock)
	if got[Upgrade].Status != checkup.Pass || !strings.Contains(got[Upgrade].Seen, "401") || got[Clock].Status != checkup.Pass ||
		got[Ping].Status != checkup.Skip || got[Echo].Status != checkup.Skip || !strings.Contains(got[Echo].Seen, "not enrolled") {
		t.Errorf("%+v", got)
	}
	if s.tokens.Load() != 0 {
		t.Error("a token was sent, without an identity")
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, c := range []struct {
		name   string
		issuer string
		bend   func(*x509.Certificate)
		trust  func(s *server, a *Address)
		status checkup.Status
		typ    string
		seen   string // is contained in what was seen, and
		do     string // in what is to be done
	}{
		{name: "by its CA", status: checkup.Pass, seen: "TLS 1.3"},
		{name: "by its key", trust: func(s *server, a *Address) { a.CA, a.Pin = "", pin.Of(s.leaf) }, status: checkup.Pass, seen: "the pinned key"},
		{name: "by neither", trust: func(s *server, a *Address) { a.CA = "" }, status: checkup.Fail, typ: neterr.TLSCertAuthority, do: "issuer"},
		{name: "another key", trust: func(s *server, a *Address) { a.CA, a.Pin = "", "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" },
			status: checkup.Fail, typ: neterr.TLSCertPin, do: "Another key"},
		{name: "another CA", trust: func(s *server, a *Address) { a.CA = string(certtest.NewCA(t).PEM) },
			status: checkup.Fail, typ: neterr.TLSCertAuthority, do: "box on the way"},
		{name: "over", bend: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, status: checkup.Fail, typ: neterr.TLSCertDate, do: "Renew"},
		{name: "soon over", bend: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-60*day), time.Now().Add(5*day+time.Hour)
		}, status: checkup.Warn, seen: "5 days", do: "Renew"},
		{name: "made for a week, and fresh", bend: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(6 * day) }, status: checkup.Pass},
		{name: "soon over, but pinned", bend: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(5 * day) },
			trust: func(s *server, a *Address) { a.CA, a.Pin = "", pin.Of(s.leaf) }, status: checkup.Pass},
		{name: "inspected, and the inspector trusted", issuer: "Zscaler Root CA", status: checkup.Warn, seen: "Zscaler opens this connection", do: "exempted"},
		{name: "inspected", issuer: "Zscaler Root CA", trust: func(s *server, a *Address) { a.CA = string(certtest.NewCA(t).PEM) },
			status: checkup.Fail, typ: neterr.TLSCertAuthority, do: "Zscaler opens this connection"},
		{name: "another name", bend: func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }, status: checkup.Fail, typ: neterr.TLSCertName, do: "name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newServerOf(t, certtest.NewNamedCA(t, cmp.Or(c.issuer, "test authority")), c.bend)
			subject := s.enrolled(t, s.URL)
			if c.trust != nil {
				c.trust(s, &subject.Addresses[0])
			}
			got := visit(t, subject, Upgrade)
			r := got[TLS]
			if r.Status != c.status || r.Type != c.typ || !strings.Contains(r.Seen, c.seen) || !strings.Contains(r.Do, c.do) {
				t.Errorf("%+v", r)
			}
			if r.Status == checkup.Fail && (got[Upgrade].Status != checkup.Skip || s.tokens.Load() > 0) {
				t.Errorf("to a server that is not trusted: %+v, %d tokens", got[Upgrade], s.tokens.Load())
			}
		})
	}
}

func TestInspectorsAreNamed(t *testing.T) {
	for _, c := range []struct {
		issuer pkix.Name
		want   string
	}{
		{pkix.Name{CommonName: "Zscaler Intermediate Root CA (zscalertwo.net)", Organization: []string{"Zscaler Inc."}}, "Zscaler"},
		{pkix.Name{CommonName: "FGT60F0000000001", Organization: []string{"Fortinet"}}, "Fortinet FortiGate"},
		{pkix.Name{CommonName: "ca.acme.goskope.com"}, "Netskope"},
		{pkix.Name{CommonName: "Gateway CA - Cloudflare Managed G1"}, "Cloudflare Gateway"},
		{pkix.Name{CommonName: "Cloudflare Inc ECC CA-3", Organization: []string{"Cloudflare, Inc."}}, ""},
		{pkix.Name{CommonName: "R11", Organization: []string{"Let's Encrypt"}}, ""},
		{pkix.Name{CommonName: "DigiCert Global G2 TLS RSA SHA256 2020 CA1", Organization: []string{"DigiCert Inc"}}, ""},
	} {
		if got := vendorOf(&x509.Certificate{Issuer: c.issuer}); got != c.want {
			t.Errorf("%s: %q, want %q", c.issuer, got, c.want)
		}
	}
}

func TestWhoAnswersIsNotOurs(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	website := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("<html>")) }))
	defer website.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	ours := newServer(t, nil)
	subject := func(url, pinned string) Subject {
		s := ours.enrolled(t, url)
		s.Addresses = []Address{{Kind: KindLink, URL: wss(url), Pin: pinned}, {Kind: KindDoor, URL: url, Pin: pinned}}
		return s
	}
	deleted := subject(ours.URL, pin.Of(ours.leaf))
	deleted.Token = func(time.Time) (string, error) { return "of a deleted agent", nil }

	for _, c := range []struct {
		name         string
		subject      Subject
		probe, typ   string
		seen, advice string
	}{
		{"nobody listens", subject("https://"+closed.Addr().String(), ""), TCP, neterr.TCPRefused, "refused", "Nothing listens"},
		{"plain HTTP", subject(strings.Replace(plain.URL, "http:", "https:", 1), ""), TLS, neterr.TLSProtocolError, "", "wrong port"},
		{"a website at the link", subject(website.URL, pin.Of(website.Certificate())), Upgrade, neterr.WSUpgradeRefused, "not in our server's words", "not our server"},
		{"a website at the door", subject(website.URL, pin.Of(website.Certificate())), Door, neterr.HTTPFailed, "", ""},
		{"the identity is refused at the link", deleted, Upgrade, neterr.HTTPError, "401", "--force"},
		{"the identity is refused at the door", deleted, Door, neterr.HTTPError, "", "--force"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := visit(t, c.subject, Upgrade, Door)[c.probe]
			if got.Status != checkup.Fail || got.Type != c.typ || !strings.Contains(got.Seen, c.seen) || !strings.Contains(got.Do, c.advice) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestPings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault, seen, do, typ string
		status               checkup.Status
	}{
		{fault: "", status: checkup.Pass, seen: "3 of 3"},
		{fault: "up answer-pings", status: checkup.Fail, seen: "not by the server", do: "answers pings by itself"},
		{fault: "both strip-pings", status: checkup.Warn, seen: "changes what they carry", do: "unaltered"},
		{fault: "down rewrite-pings", status: checkup.Warn, seen: "changes what they carry", do: "unaltered"},
		{fault: "both freeze", status: checkup.Fail, typ: neterr.WSSilent, seen: "no answer", do: "holds what follows"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			p, subject := s.boxed(t)
			order(t, p, c.fault)
			got := visit(t, subject, Ping)[Ping]
			if got.Status != c.status || got.Type != c.typ || !strings.Contains(got.Seen, c.seen) || !strings.Contains(got.Do, c.do) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestEchoesFindTheLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault        string
		up, down     [2]int // passed, failed; failed 0: none
		seen, do     string
		typ, because string
	}{
		{fault: "up drop-text-above:16384", up: [2]int{16 << 10, 17 << 10}, down: [2]int{256 << 10, 0},
			seen: "up passes 16 KiB, fails at 17 KiB; down to 256 KiB", do: "texts of 16 KiB and none of more", typ: neterr.WSUnverified, because: "was lost"},
		{fault: "down drop-text-above:65536", up: [2]int{256 << 10, 0}, down: [2]int{64 << 10, 68 << 10},
			seen: "down passes 64 KiB", do: "texts of 64 KiB", typ: neterr.WSUnverified, because: "the server wrote it"},
		{fault: "both drop-text", up: [2]int{0, 100}, seen: "up fails at 100 B; down is unknown", do: "no text passes", typ: neterr.WSUnverified, because: "was lost"},
		{fault: "down drop-text", down: [2]int{0, 100}, seen: "up is unknown; down fails at 100 B", because: "the server wrote it", typ: neterr.WSUnverified},
		{fault: "up alter-text", up: [2]int{0, 100}, seen: "up fails", because: "", typ: neterr.WSProtocol},
		{fault: "down cut-mid-frame", up: [2]int{0, 100}, seen: "fails", because: "cut under it", typ: ""},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			p, subject := s.boxed(t)
			order(t, p, c.fault)
			r := visit(t, subject, Echo)[Echo]
			if r.Status != checkup.Fail || !strings.Contains(r.Seen, c.seen) || !strings.Contains(r.Do, c.do) || c.typ != "" && r.Type != c.typ ||
				!strings.Contains(strings.Join(r.Notes, " "), c.because) {
				t.Errorf("%+v", r)
			}
			for way, want := range map[way][2]int{up: c.up, down: c.down} {
				if want == ([2]int{}) {
					if r.Figures[string(way)+"_passed_bytes"] != nil {
						t.Errorf("%s is not known: %v", way, r.Figures)
					}
					continue
				}
				failed, _ := r.Figures[string(way)+"_failed_bytes"].(int)
				if r.Figures[string(way)+"_passed_bytes"] != want[0] || failed != want[1] {
					t.Errorf("%s: %v, want %v", way, r.Figures, want)
				}
			}
		})
	}
}

// The sizes named are those of the texts as they cross the link.
func TestTextsHaveTheSizeNamed(t *testing.T) {
	for _, size := range rungs {
		for _, seq := range []uint64{1, 10, 999} {
			for _, w := range []way{up, down} {
				echo, want := shape("0007", w, size)
				env, err := wire.Seal(wire.TypeEcho, echo)
				if w == down {
					env, err = wire.Seal(wire.TypeEchoReply, wire.EchoReply{ID: echo.ID, Pad: strings.Repeat("x", want)})
				}
				if err != nil {
					t.Fatal(err)
				}
				env.Seq = seq
				text, err := env.Encode()
				if err != nil || len(text) > size || len(text) < size-2 {
					t.Errorf("%s, text %d of %d bytes has %d, %v", w, seq, size, len(text), err)
				}
			}
		}
	}
}

func TestBrokenBeyondAPacket(t *testing.T) {
	for _, c := range []struct {
		e    echoed
		want string
	}{
		{echoed{}, ""},
		{echoed{up: {Passed: 256 << 10}, down: {Passed: 256 << 10}}, ""},
		{echoed{up: {Passed: 1024, Failed: 1400}, down: {Passed: 256 << 10}}, "up"},
		{echoed{up: {Passed: 1400, Failed: 2048}, down: {Passed: 1400, Failed: 2048}}, "up and down"},
		{echoed{up: {Passed: 16 << 10, Failed: 17 << 10}}, ""}, // a limit on messages
		{echoed{up: {Failed: 100}}, ""},                        // nothing passes at all
	} {
		for _, segment := range []int{1448, 8948, 32741} { // Ethernet, jumbo frames, loopback
			if got := c.e.brokenBeyond(segment); got != c.want {
				t.Errorf("%v by segments of %d: %q, want %q", c.e, segment, got, c.want)
			}
		}
	}
}

// Texts of one packet pass, longer ones do not: that is told as the path's, by mtu.
func TestEchoesTellOfThePacketSize(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]checkup.Status{"up drop-text-above:1400": checkup.Warn, "down drop-text-above:1400": checkup.Warn, "up drop-text-above:16384": checkup.Pass} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			p, subject := s.boxed(t)
			order(t, p, fault)
			r := visit(t, subject, MTU)[MTU]
			if r.Status == checkup.Skip && runtime.GOOS != "linux" {
				return // the platform may not tell of packets
			}
			dir, _, _ := strings.Cut(fault, " ")
			if r.Status != want || want == checkup.Warn && !strings.Contains(r.Do, "Texts of one packet pass "+dir+", longer ones do not") {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestSecondDoorClosed(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	p, subject := s.boxed(t)
	order(t, p, "oob refuse")
	subject.Addresses[1].URL = "https://" + p.OOBAddr()
	subject.Addresses = subject.Addresses[1:]
	got := visit(t, subject, Door)
	if r := got[TCP]; r.Status != checkup.Fail || r.Type != neterr.TCPRefused || r.Do == "" {
		t.Errorf("%+v", r)
	}
	if r := got[Door]; r.Status != checkup.Skip || r.Seen != "needs tls, which was skipped" {
		t.Errorf("%+v", r)
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	for skew, want := range map[time.Duration]checkup.Status{
		0: checkup.Pass, 20 * time.Second: checkup.Warn, -time.Hour: checkup.Fail, 40 * 24 * time.Hour: checkup.Fail,
	} {
		s := newServer(t, nil)
		s.skew = skew
		r := visit(t, s.enrolled(t, s.URL), Clock)[Clock]
		off, _ := r.Figures["offset_ms"].(float64)
		if diff := time.Duration(off*float64(time.Millisecond)) - skew; r.Status != want || diff.Abs() > 5*time.Second {
			t.Errorf("%v off: %+v", skew, r)
		}
	}
}

func TestProxiesAreTold(t *testing.T) {
	gateway, err := url.Parse("http://user:secret@gateway.example:3128")
	if err != nil {
		t.Fatal(err)
	}
	via := http.ProxyURL(gateway)
	both := Subject{ProxyFrom: map[Kind]string{KindLink: "by agent.yaml", KindDoor: "by agent.yaml"}, Addresses: []Address{
		{Kind: KindLink, URL: linkURL, Proxy: via}, {Kind: KindDoor, URL: doorURL, Proxy: via}}}
	r := visit(t, both, Proxy)[Proxy]
	if r.Status != checkup.Warn || !strings.Contains(r.Seen, "gateway.example:3128") || strings.Contains(r.Seen, "secret") || !strings.Contains(r.Do, "another way out") {
		t.Errorf("%+v", r)
	}
	both.Addresses[0].Proxy = nil
	if r := visit(t, both, Proxy)[Proxy]; r.Status != checkup.Pass || !strings.Contains(r.Seen, "link straight") {
		t.Errorf("%+v", r)
	}
	both.Addresses[0].Proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("bad setting") }
	if r := visit(t, both, Proxy)[Proxy]; r.Status != checkup.Fail || !strings.Contains(r.Seen, "bad setting") {
		t.Errorf("%+v", r)
	}
}

// Types of questions (RFC 1035 §3.2.2, RFC 3596 §2.1).
const (
	typeA    = 1
	typeAAAA = 28
)

// records are a name's addresses; questions of the type fails are answered SERVFAIL.
type records struct {
	a, aaaa string // "": none of that family
	fails   byte
}

// nameServer answers questions for the names in zone, and for all others with code.
func nameServer(t *testing.T, zone map[string]records, code byte) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() { // ends when pc is closed
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			end := bytes.IndexByte(buf[12:n], 0) + 12
			known, ok := zone[nameIn(buf[12:end])]
			kind := buf[end+2]
			// RFC 1035 §4.1: an answer, with the question and nothing else in it.
			reply := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, buf[12:end+5]...)
			addr, err := netip.ParseAddr(map[byte]string{typeA: known.a, typeAAAA: known.aaaa}[kind])
			switch {
			case !ok:
				reply[3] |= code
			case known.fails == kind:
				reply[3] |= 2
			case err == nil:
				reply[7] = 1
				ip := addr.AsSlice()
				reply = append(reply, 0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, byte(len(ip)))
				reply = append(reply, ip...)
			}
			pc.WriteTo(reply, from)
		}
	}()
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", pc.LocalAddr().String())
	}
}

// nameIn reads labels with their lengths before them as a name with dots.
func nameIn(labels []byte) string {
	var parts []string
	for len(labels) > 0 && int(labels[0]) < len(labels) {
		parts = append(parts, strings.ToLower(string(labels[1:1+labels[0]])))
		labels = labels[1+labels[0]:]
	}
	return strings.Join(parts, ".")
}

func TestNames(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *x509.Certificate) { c.DNSNames = []string{"rmm.test"} })
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	zone := map[string]records{
		"rmm.test":  {a: "127.0.0.1"},
		"both.test": {a: "127.0.0.1", aaaa: "::1"}, // where the server does not listen
		"half.test": {a: "127.0.0.1", fails: typeAAAA},
	}
	for _, c := range []struct {
		name, host string
		code       byte
		status     checkup.Status
		typ        string
		addresses  []string
		note, do   string         // of dns
		tcp        checkup.Status // and
		notes      string         // of it
	}{
		{name: "known", host: "rmm.test", code: 3, status: checkup.Pass, addresses: []string{"127.0.0.1"}, note: "AAAA: none", tcp: checkup.Pass},
		{name: "one of two addresses is dead", host: "both.test", code: 3, status: checkup.Pass, addresses: []string{"127.0.0.1", "::1"}, note: "AAAA: 1 address in ",
			tcp: checkup.Warn, notes: "[::1]:" + port + ": "},
		{name: "one of two families fails", host: "half.test", code: 3, status: checkup.Warn, addresses: []string{"127.0.0.1"}, note: "AAAA: lookup half.test",
			do: "One family was answered", tcp: checkup.Pass},
		{name: "unknown", host: "other.test", code: 3, status: checkup.Fail, typ: neterr.DNSNameNotResolved, do: "no name server knows", tcp: checkup.Skip},
		{name: "the name server fails", host: "other.test", code: 2, status: checkup.Fail, typ: neterr.DNSFailed, do: "name servers do not answer", tcp: checkup.Skip},
	} {
		subject := s.enrolled(t, s.URL)
		subject.Addresses = subject.Addresses[:1]
		subject.Addresses[0].URL = "wss://" + c.host + ".:" + port + "/v1/link" // rooted: no search list
		subject.DialDNS = nameServer(t, zone, c.code)
		got := visit(t, subject, TCP)
		r := got[DNS]
		if r.Status != c.status || r.Type != c.typ && !(c.code == 2 && strings.HasPrefix(r.Type, "dns.")) ||
			!strings.Contains(strings.Join(r.Notes, "\n"), c.note) || !strings.Contains(r.Do, c.do) || (r.Status != checkup.Pass) != (r.Do != "") {
			t.Errorf("%s: %+v", c.name, r)
		}
		addresses, _ := r.Figures["addresses"].([]string)
		if asked, _ := r.Figures["servers"].([]string); r.Status.Good() && (len(asked) == 0 || !slices.Equal(addresses, c.addresses)) {
			t.Errorf("%s: asked %v, found %v", c.name, asked, addresses)
		}
		tcp := got[TCP]
		if tcp.Status != c.tcp || !strings.Contains(strings.Join(tcp.Notes, "\n"), c.notes) {
			t.Errorf("%s: %+v", c.name, tcp)
		}
		if tcp.Status == checkup.Warn && (tcp.Type == "" || !strings.Contains(tcp.Seen, "127.0.0.1:"+port+" in ") || !strings.Contains(tcp.Do, "does not answer")) {
			t.Errorf("%s: %+v", c.name, tcp)
		}
		if connected, _ := tcp.Figures["connect_ms"].(map[string]any); tcp.Status.Good() && (len(connected) != 1 || connected["127.0.0.1:"+port] == nil) {
			t.Errorf("%s: connected to %v", c.name, connected)
		}
	}
}

// The usual hello takes two packets: on a path that loses large ones it is what breaks first.
func TestALargeHelloThatDoesNotPass(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	box, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	defer passing.Wait()
	defer box.Close()
	passing.Go(func() {
		for {
			in, err := box.Accept()
			if err != nil {
				return
			}
			passing.Go(func() {
				defer in.Close()
				hello := make([]byte, 16<<10)
				n, err := in.Read(hello)
				if err != nil || n > 1400 {
					return
				}
				out, err := net.Dial("tcp", s.Listener.Addr().String())
				if err != nil {
					return
				}
				defer out.Close()
				out.Write(hello[:n])
				passing.Go(func() { io.Copy(out, in); out.Close() })
				io.Copy(in, out)
			})
		}
	})
	subject := s.enrolled(t, "https://"+box.Addr().String())
	subject.Addresses = subject.Addresses[:1]
	got := visit(t, subject, MTU)
	if r := got[TLS]; r.Status != checkup.Fail || !strings.Contains(r.Seen, "hello of one packet is answered") || !strings.Contains(r.Do, "MTU") || r.Figures["small_hello"] != true {
		t.Errorf("%+v", r)
	}
	if r := got[MTU]; runtime.GOOS == "linux" && (r.Status != checkup.Warn || r.Do == "") {
		t.Errorf("%+v", r)
	}
	if r := got[Upgrade]; r.Status != checkup.Skip {
		t.Errorf("%+v", r)
	}
}
