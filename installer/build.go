package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

var (
	allProducts  = []string{agentName, serverName}
	allArchs     = []string{"amd64", "arm64"}
	allFormats   = []string{"deb", "rpm", "pkg", "msi"}
	linuxFormats = []string{"deb", "rpm"}
)

// programs are what the products are built from. The agent is small
// (docs/decisions/0009-size.md); a test holds that these are the Makefile's flags.
var programs = map[string]struct {
	pkg   string
	flags []string
}{
	agentName:  {"./cmd/gururmm-agent", []string{"-tags", "nethttpomithttp2", "-gcflags=all=-l", "-gcflags=gururmm/...="}},
	serverName: {"./cmd/gururmm", nil},
}

// build makes all that o orders, and gives the names of the files in o.out. What stands there
// by one of these names is replaced, and only once all is built.
func build(ctx context.Context, o order) (made []string, err error) {
	windows := slices.Contains(o.formats, "msi") && slices.Contains(o.products, agentName)
	if windows {
		if _, err := o.msiVersion(); err != nil { // before minutes of building
			return nil, fmt.Errorf("msi: %w. To do without: --formats deb,rpm,pkg", err)
		}
		if err := haveMSITools(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, err
	}
	stage, err := os.MkdirTemp(o.out, ".build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(stage)
	for _, product := range o.products {
		for _, arch := range o.archs {
			more, err := linuxPackages(ctx, o, stage, product, arch)
			if err != nil {
				return nil, fmt.Errorf("%s for %s: %w", product, arch, err)
			}
			made = append(made, more...)
		}
	}
	if slices.Contains(o.formats, "pkg") && slices.Contains(o.products, agentName) {
		more, err := macPackage(ctx, o, stage)
		if err != nil {
			return nil, fmt.Errorf("pkg: %w", err)
		}
		made = append(made, more...)
	}
	for _, arch := range o.archs {
		if !windows {
			break
		}
		more, err := windowsPackage(ctx, o, stage, arch)
		if err != nil {
			return nil, fmt.Errorf("msi for %s: %w", arch, err)
		}
		made = append(made, more...)
	}
	slices.Sort(made)
	if made, err = seal(o, stage, made); err != nil {
		return nil, err
	}
	// Only what is whole gets its name.
	for _, name := range made {
		if err := os.Rename(filepath.Join(stage, name), filepath.Join(o.out, name)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// linuxPackages builds a product for arch, into stage, in each format of o that Linux has.
func linuxPackages(ctx context.Context, o order, stage, product, arch string) (made []string, err error) {
	program := ""
	for _, format := range linuxFormats {
		if !slices.Contains(o.formats, format) {
			continue
		}
		if program == "" {
			var bill string
			if program, bill, err = compile(ctx, o, stage, product, "linux", arch); err != nil {
				return nil, err
			}
			made = append(made, bill)
		}
		p, err := describe(product, arch, format, o, program)
		if err != nil {
			return nil, err
		}
		name, err := writers[format](p, stage)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", format, err)
		}
		made = append(made, name)
	}
	return made, nil
}

// compile builds a product's program for system and arch, into stage, and its SBOM: program is
// its path, bill the name of its SBOM there. No path of this machine, no time and no state of a
// checkout gets into it.
func compile(ctx context.Context, o order, stage, product, system, arch string) (program, bill string, err error) {
	p := programs[product]
	program = filepath.Join(stage, product+"-"+system+"-"+arch)
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X gururmm/internal/version.Version=" + o.version}, p.flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", program, p.pkg)...)
	cmd.Dir = o.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch, "GOFLAGS=-mod=readonly", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build %s for %s/%s: %w\n%s", product, system, arch, err, out)
	}
	bill = product + "-" + o.bare() + "-" + system + "-" + arch + ".cdx.json"
	if err := writeBill(program, o, product, system, arch, filepath.Join(stage, bill)); err != nil {
		return "", "", fmt.Errorf("SBOM: %w", err)
	}
	return program, bill, nil
}

// moduleRoot is the folder of this module, above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(text), "module gururmm\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("this is to be run in the project's folder: go run ./installer")
		}
		dir = up
	}
}
