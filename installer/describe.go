package main

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"gururmm/agent"
)

// Names of the packages.
const (
	agentName  = "gururmm-agent"
	serverName = "gururmm-server"
)

//go:embed files
var texts embed.FS

// pack is what a package holds and says of itself, whatever its format.
type pack struct {
	name, arch string // arch as Go names it
	version    string // v1.2.3
	summary    string // one line
	about      string // what more there is to say, wrapped
	unit       string // of systemd
	program    string // file in this machine's file system
	maintainer string // NAME <ADDRESS>
	files      []file
	when       time.Time
}

// file is one file of a package; either text or from.
type file struct {
	to   string
	mode fs.FileMode
	kind kind
	text []byte
	from string
}

type kind int

const (
	plain  kind = iota
	config      // kept as the administrator left it
	folder
	licensed // the license's text
	manual
)

const vendor = "GuruRMM"

// nobody stands in a package whose builder does not say who answers for it (RFC 2606).
const nobody = "GuruRMM <packages@gururmm.invalid>"

// products are what differs between the two.
var products = map[string]struct {
	summary, about, unit, command string
	configs                       map[string]string // in a package → in files
	docs                          map[string]string
}{
	agentName: {
		summary: "GuruRMM endpoint agent",
		about: `Keeps a verified link to a GuruRMM server, runs what its operators order once,
and proves what became of it. A guardian watches the worker that does so.
.
It runs as root, because what it is ordered administers the machine: installs,
writes, mounts. For machines that are only to be observed it has a stricter
profile: gururmm-agent service-definition systemd-hardened.`,
		unit: "gururmm-agent.service", command: "gururmm-agent",
		configs: map[string]string{"/etc/default/gururmm-agent": "agent.default"},
		docs:    map[string]string{"/usr/share/man/man8/gururmm-agent.8.gz": "gururmm-agent.8"},
	},
	serverName: {
		summary: "GuruRMM server and the tool of its operators",
		about: `The server that GuruRMM endpoint agents link to, with its database, and the
command line of its operators: gururmm.
.
It runs as an account of its own, gururmm-server, which may do nothing else.`,
		unit: "gururmm.service", command: "gururmm",
		configs: map[string]string{"/etc/gururmm/server.yaml": "server.yaml"},
		docs:    map[string]string{"/usr/share/man/man8/gururmm.8.gz": "gururmm.8"},
	},
}

// describe says what the package of product for arch holds in format.
func describe(product, arch, format string, o order, program string) (pack, error) {
	d := products[product]
	p := pack{name: product, arch: arch, version: o.version, summary: d.summary, about: d.about, unit: d.unit, program: program, maintainer: o.maintainer, when: o.when}
	unit, err := unitText(product, "/usr/bin/"+d.command)
	if err != nil {
		return pack{}, err
	}
	p.files = []file{
		{to: "/usr/bin/" + d.command, mode: 0o755, from: program},
		{to: "/usr/lib/systemd/system/" + d.unit, mode: 0o644, text: unit},
	}
	for to, name := range d.configs {
		text, err := texts.ReadFile("files/" + name)
		if err != nil {
			return pack{}, err
		}
		p.files = append(p.files, file{to: to, mode: 0o644, kind: config, text: text})
	}
	if product == agentName { // where enroll.conf is put; the server's own file brings it along
		p.files = append(p.files, file{to: "/etc/gururmm", mode: 0o755, kind: folder})
	}
	for to, name := range d.docs {
		text, err := texts.ReadFile("files/" + name)
		if err != nil {
			return pack{}, err
		}
		p.files = append(p.files, file{to: to, mode: 0o644, kind: manual, text: compressed([]byte(strings.ReplaceAll(string(text), "@VERSION@", p.bare())))})
	}
	copyright, err := texts.ReadFile("files/copyright")
	if err != nil {
		return pack{}, err
	}
	docs := "/usr/share/doc/" + product + "/"
	switch format {
	case "deb":
		overrides, err := texts.ReadFile("files/" + product + ".lintian-overrides")
		if err != nil {
			return pack{}, err
		}
		p.files = append(p.files,
			file{to: docs + "copyright", mode: 0o644, text: copyright},
			file{to: docs + "changelog.Debian.gz", mode: 0o644, text: compressed(p.changelog())},
			file{to: "/usr/share/lintian/overrides/" + product, mode: 0o644, text: overrides})
	case "rpm":
		licenses := "/usr/share/licenses/" + product // rpm removes no folder that no package owns
		p.files = append(p.files, file{to: licenses, mode: 0o755, kind: folder}, file{to: licenses + "/LICENSE", mode: 0o644, kind: licensed, text: copyright})
	}
	return p, nil
}

// unitText is the unit that a product's package owns.
func unitText(product, program string) ([]byte, error) {
	if product == agentName { // the very text that `gururmm-agent install` writes
		text, err := agent.Service{Program: program}.Definition("systemd")
		return []byte(text), err
	}
	return texts.ReadFile("files/gururmm.service")
}

// bare is the version as packages write it, without the v.
func (p pack) bare() string { return strings.TrimPrefix(p.version, "v") }

// parts splits the version into what it is a release or a forerunner of.
func (p pack) parts() (release, before string) {
	release, before, _ = strings.Cut(p.bare(), "-")
	return release, before
}

// ordered is the version as dpkg and rpm order it: 1.2.3~rc.1 comes before 1.2.3.
func (p pack) ordered() string {
	release, before := p.parts()
	if before != "" {
		// A dash would part what is the version from what is the package's own.
		release += "~" + strings.ReplaceAll(before, "-", "_")
	}
	return release
}

func (p pack) changelog() []byte {
	return fmt.Appendf(nil, "%s (%s-1) stable; urgency=medium\n\n  * Release %s.\n\n -- %s  %s\n",
		p.name, p.ordered(), p.bare(), p.maintainer, p.when.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
}

// changes is the same as nfpm wants it of rpm's.
func (p pack) changes() []byte {
	return fmt.Appendf(nil, "- semver: %s-1\n  date: %s\n  packager: %q\n  changes:\n    - note: Release %s.\n",
		p.ordered(), p.when.Format(time.RFC3339), p.maintainer, p.bare())
}

// compressed is text as gzip -9n gives it: without a name or a time.
func compressed(text []byte) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(text)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err) // a buffer takes all, and the level is one that there is
	}
	return b.Bytes()
}
