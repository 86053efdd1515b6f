package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"gururmm/agent/link"
	"gururmm/checkup"
	"gururmm/internal/moment"
	"gururmm/internal/neterr"
	"gururmm/internal/pin"
)

// expirySoon is when somebody should know that a certificate ends, if less than a
// third of its life is left, too: renewals that run by themselves have done it by then.
const expirySoon = 14 * 24 * time.Hour

// vendors are TLS inspection products, by what their issuers call themselves
// (lower case, in common name or organization).
var vendors = []struct{ mark, name string }{
	{"zscaler", "Zscaler"}, {"fortinet", "Fortinet FortiGate"}, {"fortigate", "Fortinet FortiGate"},
	{"palo alto", "Palo Alto Networks"}, {"globalprotect", "Palo Alto Networks"}, {"netskope", "Netskope"}, {"goskope", "Netskope"},
	{"cisco umbrella", "Cisco Umbrella"}, {"cisco secure access", "Cisco Secure Access"}, {"ironport", "Cisco IronPort"},
	{"blue coat", "Symantec Blue Coat"}, {"bluecoat", "Symantec Blue Coat"}, {"proxysg", "Symantec Blue Coat"},
	{"symantec web", "Symantec Web Security"}, {"mcafee web gateway", "McAfee Web Gateway"}, {"skyhigh", "Skyhigh Security"},
	{"forcepoint", "Forcepoint"}, {"websense", "Forcepoint Websense"}, {"check point", "Check Point"}, {"checkpoint", "Check Point"},
	{"sophos", "Sophos"}, {"cyberoam", "Sophos Cyberoam"}, {"barracuda", "Barracuda"}, {"watchguard", "WatchGuard"}, {"fireware", "WatchGuard"},
	{"sonicwall", "SonicWall"}, {"untangle", "Untangle"}, {"arista edge", "Arista Edge Threat Management"},
	{"gateway ca - cloudflare", "Cloudflare Gateway"}, {"cloudflare for teams", "Cloudflare Gateway"}, {"cloudflare gateway", "Cloudflare Gateway"},
	{"iboss", "iboss"}, {"smoothwall", "Smoothwall"}, {"lightspeed", "Lightspeed Systems"}, {"securly", "Securly"}, {"contentkeeper", "ContentKeeper"},
	{"trend micro", "Trend Micro"}, {"menlo", "Menlo Security"}, {"cato networks", "Cato Networks"}, {"clavister", "Clavister"}, {"stormshield", "Stormshield"},
	{"kaspersky", "Kaspersky"}, {"eset ssl filter", "ESET"}, {"avast", "Avast"}, {"avg web", "AVG"}, {"bitdefender", "Bitdefender"}, {"dr.web", "Dr.Web"},
	{"adguard", "AdGuard"}, {"net nanny", "Net Nanny"}, {"pfsense", "pfSense"}, {"opnsense", "OPNsense"}, {"squid", "Squid"},
	{"mitmproxy", "mitmproxy"}, {"portswigger", "Burp Suite"}, {"charles proxy", "Charles"}, {"do_not_trust_fiddler", "Fiddler"},
}

// vendorOf names the inspection product that signed cert; "": none that is known.
func vendorOf(cert *x509.Certificate) string {
	issuer := strings.ToLower(strings.Join(append(cert.Issuer.Organization, cert.Issuer.CommonName), " "))
	for _, v := range vendors {
		if strings.Contains(issuer, v.mark) {
			return v.name
		}
	}
	return ""
}

// tls shakes hands without believing anything, looks at what was shown, and
// judges it as the agent does. Nothing is said on this connection.
func (r *run) tls(ctx context.Context, p Probe, res *checkup.Result) {
	a := r.at(p)
	o, err := r.options(a)
	if err != nil {
		broke(res, err, "")
		return
	}
	trusted := o.TLS
	o.TLS = &tls.Config{InsecureSkipVerify: true}
	shown, remote, err := shake(ctx, o)
	if err != nil {
		broke(res, err, "What answers does not finish a TLS handshake: wrong port, or a box that allows other TLS versions only.")
		if remote == "" { // it was not even reached
			res.Do = adviseFor(res.Type)
		} else if o.TLS.CurvePreferences = []tls.CurveID{tls.X25519}; silent(res.Type) {
			r.smallHello(ctx, p, o, res)
		}
		return
	}
	leaf := shown.PeerCertificates[0]
	res.Notes = chain(shown)
	res.Figures = map[string]any{
		"version": tls.VersionName(shown.Version), "pin": pin.Of(leaf), "not_after": leaf.NotAfter.UTC(),
		"subject": subject(leaf), "issuer": issuer(leaf), "vendor": vendorOf(leaf),
	}
	vendor := vendorOf(leaf)
	if err := judge(trusted, shown, targetHost(a.URL), r.now()); err != nil {
		_, typ := neterr.Classify(err)
		do := ""
		switch {
		case vendor != "":
			do = fmt.Sprintf("%s opens this connection: have %s exempted from its TLS inspection.", vendor, targetHost(a.URL))
		case typ == neterr.TLSCertPin:
			do = "Another key than the server's answers: a box on the way, or the server's certificate was replaced (then enroll with the new pin)."
		case typ == neterr.TLSCertDate:
			do = "Renew the server's certificate, or set this machine's clock (" + moment.UTC(time.Now()) + ")."
		case typ == neterr.TLSCertName:
			do = "The certificate is for another name: use the name in it, or have one made for " + targetHost(a.URL) + "."
		default:
			do = "Compare the issuer with the server's: if it is not the same, a box on the way opens TLS; have this server exempted. Else give its CA or pin."
		}
		notes, figures := res.Notes, res.Figures
		broke(res, neterr.During(neterr.StepTLS, err), do)
		res.Notes, res.Figures = notes, figures
		res.Seen = "not trusted: " + err.Error()
		return
	}
	pinned := a.Pin != ""
	left := leaf.NotAfter.Sub(r.now())
	seen := tls.VersionName(shown.Version) + ", issued by " + issuer(leaf)
	if pinned {
		seen = tls.VersionName(shown.Version) + ", the pinned key"
	}
	switch {
	case vendor != "":
		warn(res, seen+": "+vendor+" opens this connection", fmt.Sprintf("It works, but %s reads and may alter all of it: have %s exempted from TLS inspection.", vendor, targetHost(a.URL)))
	case (!pinned || a.CA != "") && left < min(expirySoon, leaf.NotAfter.Sub(leaf.NotBefore)/3):
		warn(res, fmt.Sprintf("%s; the certificate ends in %d days", seen, int(left.Hours()/24)), "Renew the server's certificate before "+leaf.NotAfter.UTC().Format(time.DateOnly)+".")
	default:
		pass(res, seen)
	}
}

// shake connects and shakes hands; remote is empty if there was no connection.
func shake(ctx context.Context, o link.Options) (shown tls.ConnectionState, remote string, err error) {
	conn, remote, err := o.Reach(ctx)
	if err != nil {
		return shown, "", err
	}
	defer conn.Close()
	shown, err = o.Shake(ctx, conn)
	return shown, remote, err
}

// silent tells whether a handshake failed because nothing, or only an end, came back.
func silent(typ string) bool {
	return typ == neterr.TLSFailed || typ == neterr.TCPClosed || typ == neterr.TCPReset || typ == neterr.TCPTimedOut
}

// smallHello tries once more with a hello that fits into one packet: the usual one
// has a post-quantum key share (X25519MLKEM768) and takes two, and so is the first
// thing that a path loses which loses large packets.
func (r *run) smallHello(ctx context.Context, p Probe, o link.Options, res *checkup.Result) {
	if _, _, err := shake(ctx, o); err != nil {
		return
	}
	r.mu.Lock()
	r.narrow[p.Endpoint] = true
	r.mu.Unlock()
	res.Seen = "a TLS hello of one packet is answered, the usual one of two packets is not"
	res.Do = "Large packets are lost on the way: let ICMP \"fragmentation needed\" through, or lower the interface's MTU (try 1400, then 1280). " +
		"If that does not help, a box on the way can't take a large hello: update it."
	res.Figures = map[string]any{"small_hello": true}
}

// judge verifies what was shown as the agent's own handshake would.
func judge(cfg *tls.Config, shown tls.ConnectionState, host string, now time.Time) error {
	if !cfg.InsecureSkipVerify {
		between := x509.NewCertPool()
		for _, c := range shown.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := shown.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: cfg.RootCAs, DNSName: host, Intermediates: between, CurrentTime: now,
		})
		if err != nil {
			return err
		}
	}
	if cfg.VerifyConnection != nil {
		return cfg.VerifyConnection(shown)
	}
	return nil
}

// chain lists what was shown, leaf first.
func chain(shown tls.ConnectionState) []string {
	var out []string
	for _, c := range shown.PeerCertificates[:min(len(shown.PeerCertificates), 4)] {
		out = append(out, fmt.Sprintf("%s, issued by %s, until %s", subject(c), issuer(c), c.NotAfter.UTC().Format(time.DateOnly)))
	}
	return append(out, "key "+pin.Of(shown.PeerCertificates[0]))
}

func subject(c *x509.Certificate) string { return named(c.Subject.CommonName, c.Subject.String()) }
func issuer(c *x509.Certificate) string  { return named(c.Issuer.CommonName, c.Issuer.String()) }

func named(common, full string) string {
	if common != "" {
		return fmt.Sprintf("%q", common)
	}
	return fmt.Sprintf("%q", full)
}
