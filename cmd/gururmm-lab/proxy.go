package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/lab/proxy"
)

func proxyCommand() *cobra.Command {
	var f proxyFlags
	cmd := &cobra.Command{
		Use:   "proxy --upstream HOST:PORT --cert FILE --key FILE",
		Short: "Stand between endpoints and server and break one thing at a time",
		Long: `Stand between endpoints and server and break one thing at a time.

The proxy presents the given certificate, which endpoints must trust (take the
server's own). Orders are read line by line from standard input, or from whoever
connects to --control:

  down drop-text          both freeze           up strip-pings and delay-text:2s
  oob refuse              up clear              clear
  status                  events

Faults of down and up: drop-text, drop-text-above:BYTES, drop-text-below:BYTES,
drop-text-after:N, drop-text-every:N, drop-text-first, delay-text:TIME,
answer-pings, strip-pings, rewrite-pings, alter-text, duplicate-text,
stuck-fragment, stall-above:BYTES, freeze, cut-mid-frame. Of link and oob: refuse, hang, reset.`,
		Example: `  gururmm-lab proxy --upstream 127.0.0.1:8443 --oob-upstream 127.0.0.1:8444 \
    --cert cert.pem --key key.pem --fault down:drop-text`,
		Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringVar(&f.listen, "listen", "127.0.0.1:0", "address for links")
	cmd.Flags().StringVar(&f.upstream, "upstream", "", "the server's main listener")
	cmd.Flags().StringVar(&f.oobListen, "oob-listen", "127.0.0.1:0", "address for the second door")
	cmd.Flags().StringVar(&f.oobUpstream, "oob-upstream", "", "the server's OOB listener; empty: none")
	cmd.Flags().StringVar(&f.cert, "cert", "", "certificate to present, PEM")
	cmd.Flags().StringVar(&f.key, "key", "", "its private key, PEM")
	cmd.Flags().StringVar(&f.ca, "upstream-ca", "", "what the server's certificate must chain to, PEM (default: --cert)")
	cmd.Flags().StringVar(&f.control, "control", "", "unix socket to take orders from")
	cmd.Flags().StringArrayVar(&f.faults, "fault", nil, "fault from the start, DIRECTION:FAULT; repeatable")
	cmd.Flags().BoolVar(&f.quiet, "quiet", false, "do not print events")
	for _, name := range []string{"upstream", "cert", "key"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

type proxyFlags struct {
	listen, upstream, oobListen, oobUpstream string
	cert, key, ca, control                   string
	faults                                   []string
	quiet                                    bool
}

func (f *proxyFlags) run(cmd *cobra.Command) (err error) {
	opts, err := f.options(cmd)
	if err != nil {
		return err
	}
	p, err := proxy.New(opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	for _, spec := range f.faults {
		dir, fault, ok := strings.Cut(spec, ":")
		if !ok {
			return fmt.Errorf("--fault %q: say DIRECTION:FAULT, as in down:drop-text", spec)
		}
		if _, err := p.Order(dir + " " + fault); err != nil {
			return err
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "links: %s\nsecond door: %s\n", p.Addr(), p.OOBAddr())

	ctx := cmd.Context()
	if f.control != "" {
		l, err := net.Listen("unix", f.control)
		if err != nil {
			return fmt.Errorf("listen for orders: %w", err)
		}
		return p.Control(ctx, l)
	}
	return obeyStdin(ctx, p, cmd)
}

// obeyStdin takes orders until a signal; the end of standard input leaves the
// faults in force, as under a service manager.
func obeyStdin(ctx context.Context, p *proxy.Proxy, cmd *cobra.Command) error {
	go p.Obey(cmd.InOrStdin(), cmd.OutOrStdout()) // a read of standard input ends with the process only
	<-ctx.Done()
	return nil
}

func (f *proxyFlags) options(cmd *cobra.Command) (proxy.Options, error) {
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return proxy.Options{}, err
	}
	ca := f.ca
	if ca == "" {
		ca = f.cert
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return proxy.Options{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return proxy.Options{}, fmt.Errorf("%s holds no certificate", ca)
	}
	opts := proxy.Options{
		Listen: f.listen, Upstream: f.upstream, OOBListen: f.oobListen, OOBUpstream: f.oobUpstream,
		Cert: &cert, UpstreamTLS: &tls.Config{RootCAs: roots},
	}
	if !f.quiet {
		opts.OnEvent = func(e proxy.Event) { fmt.Fprintln(cmd.ErrOrStderr(), e) }
	}
	return opts, nil
}
