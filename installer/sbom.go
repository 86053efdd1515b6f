package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// bill is a software bill of materials, CycloneDX 1.5, as far as it is used here.
type bill struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     billMetadata `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type billMetadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"` // application or library
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	URL        string     `json:"purl"` // package URL
	Hashes     []hash     `json:"hashes,omitempty"`
	Licenses   []license  `json:"licenses,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type license struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

// writeBill writes what a built program is made of, by what the Go linker put into it: that
// is what was linked, not what go.mod allows.
func writeBill(program string, o order, product, system, arch, to string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	sum, err := sumOf(program)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(billOf(info, o.version, product, system, arch, sum, o.when), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(to, append(raw, '\n'), 0o644)
}

func billOf(info *debug.BuildInfo, version, product, system, arch, sum string, when time.Time) bill {
	own := component{Ref: "program", Type: "application", Name: product, Version: strings.TrimPrefix(version, "v"),
		URL:    "pkg:generic/" + product + "@" + strings.TrimPrefix(version, "v") + "?arch=" + arch + "&os=" + system,
		Hashes: []hash{{"SHA-256", sum}}, Properties: []property{{"gururmm:go:package", info.Path}}}
	own.Licenses = make([]license, 1)
	own.Licenses[0].License.ID = "Apache-2.0"
	libraries := []component{library("stdlib", "v"+strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		libraries = append(libraries, library(m.Path, m.Version, m.Sum))
	}
	slices.SortFunc(libraries, func(a, b component) int { return cmp.Compare(a.Ref, b.Ref) })
	on := dependency{Ref: own.Ref}
	for _, l := range libraries {
		on.On = append(on.On, l.Ref)
	}
	return bill{
		Schema: "http://cyclonedx.org/schema/bom-1.5.schema.json", Format: "CycloneDX", Spec: "1.5", Serial: serial(sum), Version: 1,
		Metadata:   billMetadata{when.Format(time.RFC3339), own},
		Components: libraries, Dependencies: []dependency{on},
	}
}

// library is a Go module; goSum its hash as in go.sum, "" for the standard library.
func library(path, version, goSum string) component {
	url := "pkg:golang/" + path + "@" + version
	c := component{Ref: url, Type: "library", Name: path, Version: version, URL: url}
	if goSum != "" {
		c.Properties = []property{{"gururmm:go:sum", goSum}}
	}
	return c
}

// serial is made of the program's own hash: the same program has the same bill.
func serial(sum string) string { return "urn:uuid:" + uuid("gururmm sbom "+sum) }

// uuid is an UUID made of a text (version 8, RFC 9562).
func uuid(text string) string {
	h := sha256.Sum256([]byte(text))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
