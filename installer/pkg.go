package main

import (
	"bytes"
	"context"
	"debug/macho"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"gururmm/agent"
)

// The package for macOS: a product archive (a xar of Distribution and one component) with one
// program for both kinds of processors. The program lies where no account but root's can
// exchange it, which /usr/local/bin is not on each Mac.

//go:embed macos
var macos embed.FS

const (
	macID      = "gururmm.agent"
	macProgram = "/Library/GuruRMM/bin/gururmm-agent"
	macPlist   = "/Library/LaunchDaemons/gururmm-agent.plist"
	macOldest  = "12.0" // what Go 1.26 runs on
)

// macPackage builds the agent for both processors, into stage, and the package of it.
func macPackage(ctx context.Context, o order, stage string) (made []string, err error) {
	programs := map[macho.Cpu][]byte{}
	for arch, cpu := range map[string]macho.Cpu{"amd64": macho.CpuAmd64, "arm64": macho.CpuArm64} {
		program, bill, err := compile(ctx, o, stage, agentName, "darwin", arch)
		if err != nil {
			return nil, err
		}
		made = append(made, bill)
		if programs[cpu], err = os.ReadFile(program); err != nil {
			return nil, err
		}
	}
	joined := filepath.Join(stage, agentName)
	if err := os.WriteFile(joined, universal(programs, []macho.Cpu{macho.CpuAmd64, macho.CpuArm64}), 0o755); err != nil {
		return nil, err
	}
	if err := signBy(ctx, o.macProgramSigner, joined); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(joined)
	if err != nil {
		return nil, err
	}
	raw, err := macProduct(o, program)
	if err != nil {
		return nil, err
	}
	name := agentName + "-" + o.bare() + ".pkg"
	if err := os.WriteFile(filepath.Join(stage, name), raw, 0o644); err != nil {
		return nil, err
	}
	return append(made, name), signBy(ctx, o.macPackageSigner, filepath.Join(stage, name))
}

// signBy has command sign file in place; "": nobody does.
func signBy(ctx context.Context, command, file string) error {
	if command == "" {
		return nil
	}
	if out, err := exec.CommandContext(ctx, command, file).CombinedOutput(); err != nil {
		return fmt.Errorf("%s did not sign %s: %w\n%s", command, filepath.Base(file), err, out)
	}
	return nil
}

// macProduct is the package around program.
func macProduct(o order, program []byte) ([]byte, error) {
	plist, err := agent.Service{Program: macProgram}.Definition("launchd")
	if err != nil {
		return nil, err
	}
	payload := []member{{".", fs.ModeDir | 0o755, nil}}
	for _, m := range []member{{macProgram, 0o755, program}, {macPlist, 0o644, []byte(plist)}} {
		payload = appendWithFolders(payload, m)
	}
	version := o.bare()
	scripts := []member{{".", fs.ModeDir | 0o755, nil}}
	for _, name := range []string{"preinstall", "postinstall"} {
		text, err := macos.ReadFile("macos/" + name)
		if err != nil {
			return nil, err
		}
		scripts = append(scripts, member{"./" + name, 0o755, bytes.ReplaceAll(text, []byte("@VERSION@"), []byte(version))})
	}
	list, err := bom(payload, o.when)
	if err != nil {
		return nil, err
	}
	kbytes := (len(program) + len(plist) + 1023) / 1024
	info := fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<pkg-info format-version="2" identifier="%s" version="%s" install-location="/" auth="root" overwrite-permissions="true" relocatable="false" postinstall-action="none">
    <payload numberOfFiles="%d" installKBytes="%d"/>
    <scripts>
        <preinstall file="./preinstall"/>
        <postinstall file="./postinstall"/>
    </scripts>
</pkg-info>
`, macID, version, len(payload), kbytes)
	distribution := fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<installer-gui-script minSpecVersion="1">
    <title>GuruRMM agent</title>
    <options customize="never" require-scripts="false" rootVolumeOnly="true" hostArchitectures="x86_64,arm64"/>
    <volume-check><allowed-os-versions><os-version min="%s"/></allowed-os-versions></volume-check>
    <choices-outline><line choice="default"/></choices-outline>
    <choice id="default" title="GuruRMM agent"><pkg-ref id="%s"/></choice>
    <pkg-ref id="%[2]s" version="%[3]s" installKBytes="%[4]d" auth="root">#%[5]s.pkg</pkg-ref>
</installer-gui-script>
`, macOldest, macID, version, kbytes, agentName)
	return xar([]member{
		{"Distribution", 0o644, []byte(distribution)},
		{agentName + ".pkg", fs.ModeDir | 0o755, nil},
		{agentName + ".pkg/Bom", 0o644, list},
		{agentName + ".pkg/PackageInfo", 0o644, []byte(info)},
		{agentName + ".pkg/Payload", 0o644, compressed(cpio(payload, o.when))},
		{agentName + ".pkg/Scripts", 0o644, compressed(cpio(scripts, o.when))},
	}, o.when)
}

// appendWithFolders appends m, named by its whole path, behind the folders above it.
func appendWithFolders(members []member, m member) []member {
	m.name = "." + m.name
	var above []member
	for dir := path.Dir(m.name); dir != "."; dir = path.Dir(dir) {
		dir := "./" + strings.TrimPrefix(dir, "./")
		if !slices.ContainsFunc(members, func(have member) bool { return have.name == dir }) {
			above = append([]member{{dir, fs.ModeDir | 0o755, nil}}, above...)
		}
	}
	return append(append(members, above...), m)
}
