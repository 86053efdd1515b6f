// Command installer builds the packages of a release, from one description of what each
// holds ([describe]) and a writer for each format ([writers]).
//
// Rules that hold here:
//   - the same source and the same SOURCE_DATE_EPOCH give the same bytes: no clock, no host
//     name, no map's order gets into a package;
//   - the unit that a package owns is the one that `gururmm-agent install` writes;
//   - maintainer scripts are POSIX sh, and say what became of the machine;
//   - a private key is read from a file, and never written.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/mail"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gururmm/release"
)

const usage = `Builds the packages of a release: deb and rpm, for amd64 and arm64, of agent and
server, a pkg of the agent for macOS and an msi for Windows; beside them SHA256SUMS, an SBOM of each
program (CycloneDX) and, with --sign-key, minisign signatures.

  go run ./installer --version 1.2.3
  SOURCE_DATE_EPOCH=1700000000 go run ./installer --version 1.2.3 --sign-key release.key

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "installer:", strings.TrimSpace(err.Error())) // what a compiler or a signer said ends its line itself
		os.Exit(1)
	}
}

// order is what is to be built.
type order struct {
	version  string // v1.2.3
	out      string // folder
	products []string
	archs    []string
	formats  []string
	when     time.Time // SOURCE_DATE_EPOCH
	key      *release.PrivateKey
	// Commands that sign a program or a package for macOS or Windows, in place; "": unsigned.
	macProgramSigner, macPackageSigner         string
	windowsProgramSigner, windowsPackageSigner string
	// maintainer is NAME <ADDRESS>, who answers for the packages.
	maintainer string
	source     string // root of this module
}

// bare is the version as files are named by it, without the v.
func (o order) bare() string { return strings.TrimPrefix(o.version, "v") }

func run(ctx context.Context, args []string, out, errs io.Writer) error {
	o, err := parse(args, errs, os.Getenv)
	if err != nil {
		return err
	}
	made, err := build(ctx, o)
	if err != nil {
		return err
	}
	for _, name := range made {
		fmt.Fprintln(out, filepath.Join(o.out, name))
	}
	return nil
}

// parse understands a command line; nothing is built or written.
func parse(args []string, errs io.Writer, env func(string) string) (order, error) {
	flags := flag.NewFlagSet("installer", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong is said once, by main
	var o order
	var products, archs, formats, keyFile, passwordFile string
	flags.StringVar(&o.version, "version", "", "version of the release: 1.2.3 or 1.2.3-rc.1")
	flags.StringVar(&o.out, "out", "", "`folder` to write to (default dist/VERSION)")
	flags.StringVar(&products, "products", strings.Join(allProducts, ","), "of these only")
	flags.StringVar(&archs, "arch", strings.Join(allArchs, ","), "for these only")
	flags.StringVar(&formats, "formats", strings.Join(allFormats, ","), "in these only")
	flags.StringVar(&o.maintainer, "maintainer", nobody, "who answers for the packages: NAME <ADDRESS>")
	flags.StringVar(&o.macProgramSigner, "mac-program-signer", "", "`command` that is called with the path of macOS's program and signs it, before it is packed")
	flags.StringVar(&o.macPackageSigner, "mac-package-signer", "", "`command` that is called with the path of macOS's package and signs it")
	flags.StringVar(&o.windowsProgramSigner, "windows-program-signer", "", "`command` that is called with the path of Windows' program and signs it, before it is packed")
	flags.StringVar(&o.windowsPackageSigner, "windows-package-signer", "", "`command` that is called with the path of Windows' package and signs it")
	flags.StringVar(&keyFile, "sign-key", "", "`file` of the private release key, of minisign or gururmm update keygen")
	flags.StringVar(&passwordFile, "sign-password-file", "", "`file` with its password, if it has one")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(errs, usage)
		flags.SetOutput(errs)
		flags.PrintDefaults()
		return o, err
	} else if err != nil {
		return o, fmt.Errorf("%w, see --help", err)
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q: only flags are understood, see --help", flags.Arg(0))
	}
	if o.version == "" {
		return o, errors.New("which version? give --version 1.2.3 (make packages VERSION=1.2.3)")
	}
	o.version = "v" + strings.TrimPrefix(o.version, "v")
	if err := release.CheckVersion(o.version); err != nil {
		return o, fmt.Errorf("--version: %w (make packages VERSION=1.2.3)", err)
	}
	for _, list := range []struct {
		flag, given string
		all         []string
		to          *[]string
	}{{"products", products, allProducts, &o.products}, {"arch", archs, allArchs, &o.archs}, {"formats", formats, allFormats, &o.formats}} {
		var err error
		if *list.to, err = some(list.given, list.all); err != nil {
			return o, fmt.Errorf("--%s: %w", list.flag, err)
		}
	}
	if !slices.Contains(o.products, agentName) && !slices.ContainsFunc(o.formats, func(f string) bool { return slices.Contains(linuxFormats, f) }) {
		return o, fmt.Errorf("nothing to build: of %s there is no %s, only %s", strings.Join(o.products, ","), strings.Join(o.formats, ","), strings.Join(linuxFormats, ", "))
	}
	if _, err := mail.ParseAddress(o.maintainer); err != nil || strings.ContainsAny(o.maintainer, "\r\n\"") {
		return o, fmt.Errorf("--maintainer %.80q is not like NAME <ADDRESS>", o.maintainer)
	}
	var err error
	if o.when, err = epoch(env); err != nil {
		return o, err
	}
	if o.source, err = moduleRoot(); err != nil {
		return o, err
	}
	if o.out == "" {
		o.out = filepath.Join(o.source, "dist", o.bare())
	}
	if passwordFile != "" && keyFile == "" {
		return o, errors.New("--sign-password-file: the password of which key? give --sign-key")
	}
	if keyFile != "" {
		key, err := readKey(keyFile, passwordFile)
		if err != nil {
			return o, fmt.Errorf("--sign-key: %w", err)
		}
		o.key = &key
	}
	return o, nil
}

// some are the words of a comma-separated list, each one of all, in all's order.
func some(list string, all []string) ([]string, error) {
	given := map[string]bool{}
	for word := range strings.SplitSeq(list, ",") {
		given[strings.TrimSpace(word)] = true
	}
	var out []string
	for _, word := range all {
		if given[word] {
			out = append(out, word)
			delete(given, word)
		}
	}
	for word := range given {
		return nil, fmt.Errorf("%q is none of %s", word, strings.Join(all, ", "))
	}
	return out, nil
}

// defaultEpoch is the time in packages whose builder names none: any fixed one gives the
// same bytes. It is 2026-01-01.
const defaultEpoch = 1767225600

// epoch is SOURCE_DATE_EPOCH (reproducible-builds.org), in seconds since 1970.
func epoch(env func(string) string) (time.Time, error) {
	text := env("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(defaultEpoch, 0).UTC(), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > 1<<32-1 { // rpm keeps 32 bits
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%.40q: want seconds since 1970", text)
	}
	return time.Unix(n, 0).UTC(), nil
}
