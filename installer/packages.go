package main

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	"github.com/goreleaser/nfpm/v2/rpm"
)

//go:embed scripts
var scripts embed.FS

// writers write p into dir and give the file's name, by format.
var writers = map[string]func(p pack, dir string) (string, error){
	"deb": func(p pack, dir string) (string, error) {
		return p.write(dir, "deb", deb.Default, func(i *nfpm.Info) {
			i.Release = "1"
			i.Depends = []string{"init-system-helpers (>= 1.54~)", "passwd"}
			i.Recommends = []string{"ca-certificates"}
			i.Deb.Compression = "gzip"
		})
	},
	"rpm": func(p pack, dir string) (string, error) {
		return p.write(dir, "rpm", rpm.DefaultRPM, func(i *nfpm.Info) {
			i.Release = "1"
			i.Depends = []string{"/bin/sh", "/usr/sbin/groupadd", "/usr/sbin/useradd", "systemd"}
			i.Recommends = []string{"ca-certificates"}
			i.RPM.Compression = "gzip"
			i.RPM.BuildHost = "localhost" // else this machine's name
			i.RPM.Group = "System Environment/Daemons"
			i.RPM.Summary = p.summary
		})
	},
}

// packager is a format of nfpm's.
type packager interface {
	Package(info *nfpm.Info, w io.Writer) error
	ConventionalFileName(info *nfpm.Info) string
}

// write writes p through nfpm, which takes all from files: they are laid out below dir first.
func (p pack) write(dir, format string, with packager, more func(*nfpm.Info)) (name string, err error) {
	stage, err := os.MkdirTemp(dir, "files-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	about := p.about
	if format == "rpm" {
		about = strings.ReplaceAll(about, "\n.\n", "\n\n")
	}
	info := &nfpm.Info{
		Name: p.name, Arch: p.arch, Platform: "linux", Version: p.ordered(), VersionSchema: "none",
		Section: "admin", Priority: "optional", Maintainer: p.maintainer, Vendor: vendor, License: "Apache-2.0",
		Description: p.summary + "\n" + about, MTime: p.when, DisableGlobbing: true,
	}
	if format == "rpm" {
		info.Description, info.Changelog = about, filepath.Join(stage, "changelog.yaml")
		if err := os.WriteFile(info.Changelog, p.changes(), 0o644); err != nil {
			return "", err
		}
	}
	info.Overridables.Umask = 0o022
	for i, f := range p.files {
		c := &files.Content{Destination: f.to, Source: f.from, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: p.when}}
		switch f.kind {
		case config:
			c.Type = files.TypeConfigNoReplace
		case folder:
			c.Type = files.TypeDir
		case licensed:
			c.Type = files.TypeRPMLicense
		case manual:
			if format == "rpm" {
				c.Type = files.TypeRPMDoc
			}
		}
		if f.from == "" && f.kind != folder {
			c.Source = filepath.Join(stage, fmt.Sprint(i))
			if err := os.WriteFile(c.Source, f.text, 0o644); err != nil {
				return "", err
			}
		}
		info.Contents = append(info.Contents, c)
	}
	for _, s := range []struct {
		kind string
		to   *string
	}{
		{"pre", &info.Scripts.PreInstall}, {"post", &info.Scripts.PostInstall},
		{"prerm", &info.Scripts.PreRemove}, {"postrm", &info.Scripts.PostRemove},
	} {
		text, err := p.script(format, s.kind)
		if err != nil {
			return "", err
		}
		*s.to = filepath.Join(stage, s.kind)
		if err := os.WriteFile(*s.to, []byte(text), 0o755); err != nil {
			return "", err
		}
	}
	more(info)
	name = with.ConventionalFileName(info)
	out, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", err
	}
	if err := with.Package(info, out); err != nil {
		out.Close()
		return "", err
	}
	return name, out.Close()
}

// scriptKinds are the maintainer scripts of a package, in the words that are used here.
var scriptKinds = []string{"pre", "post", "prerm", "postrm"}

// script puts a maintainer script together: what the package manager's arguments mean, then
// what the product does then.
func (p pack) script(format, kind string) (string, error) {
	if !slices.Contains(scriptKinds, kind) {
		return "", fmt.Errorf("no script %q", kind)
	}
	var b strings.Builder
	interpreter := "#!/bin/sh\n"
	if format == "rpm" { // it runs what it is given by /bin/sh
		interpreter = ""
	}
	b.WriteString(interpreter + "set -e\n")
	for _, part := range []string{"common", kind, format + "-" + kind, p.name + "-" + kind, format + "-" + p.name + "-" + kind} {
		text, err := scripts.ReadFile("scripts/" + part + ".sh")
		if errors.Is(err, fs.ErrNotExist) && part != "common" && part != format+"-"+kind { // not each has something to add
			continue
		}
		if err != nil {
			return "", err
		}
		b.WriteString("\n")
		b.Write(text)
	}
	return strings.NewReplacer("@NAME@", p.name, "@UNIT@", p.unit, "@VERSION@", p.ordered(),
		"@COMMAND@", products[p.name].command).Replace(b.String()), nil
}
