// Package gururmm holds the project's architecture in a test; it has no code.
package gururmm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "gururmm"

// allowed lists, for each package, which packages of this module it may import.
// "internal" stands for every leaf under internal/. Anything not listed is
// forbidden; a new arrow is a decision, to be recorded in docs/decisions.
var allowed = map[string][]string{
	"internal":               {"internal"},
	"wire":                   {},
	"selfcheck":              {"wire"},
	"session":                {"internal", "wire", "selfcheck"},
	"oob":                    {"internal", "wire", "selfcheck"},
	"operator":               {"internal", "wire"},
	"diagnosis":              {"internal", "selfcheck"},
	"diagnosis/evidence":     {"wire", "selfcheck", "operator", "diagnosis"},
	"diagnosis/timeline":     {"wire", "selfcheck", "operator"},
	"diagnosis/dossier":      {"internal", "wire", "selfcheck", "checkup", "operator", "diagnosis", "diagnosis/evidence", "diagnosis/timeline"},
	"checkup":                {"internal"},
	"release":                {"internal", "wire"},
	"agent/state":            {"internal", "wire", "oob", "release"},
	"agent/versions":         {"internal", "wire", "release"},
	"agent/pipe":             {"internal", "wire", "selfcheck"},
	"agent/local":            {"internal", "wire", "selfcheck", "agent/versions", "agent/pipe"},
	"agent/history":          {"internal", "selfcheck"},
	"agent/task/tree":        {"internal"},
	"agent/task":             {"internal", "wire", "selfcheck", "agent/task/tree"},
	"agent/link":             {"internal", "wire", "selfcheck", "session"},
	"agent/probe":            {"internal", "wire", "selfcheck", "checkup", "session", "oob", "agent/state", "agent/link"},
	"agent/worker":           {"internal", "wire", "selfcheck", "session", "agent/state", "agent/pipe", "agent/task", "agent/link"},
	"agent/guardian":         {"internal", "wire", "selfcheck", "oob", "release", "agent/versions", "agent/pipe", "agent/history", "agent/task/tree", "agent/local"},
	"agent/bundle":           {"internal", "wire", "oob", "agent/state", "agent/history", "agent/task", "agent/local"},
	"agent":                  {"internal", "wire", "selfcheck", "checkup", "agent/probe", "oob", "release", "agent/versions", "agent/state", "agent/history", "agent/task/tree", "agent/worker", "agent/guardian", "agent/bundle", "agent/local"},
	"server/store":           {"internal", "wire", "operator"},
	"server/store/storetest": {"internal", "wire", "operator", "server/store"},
	"server/store/pgtest":    {},
	"server/delivery":        {"internal", "wire", "operator", "server/store"},
	"server/builds":          {"internal", "wire", "operator", "release", "server/store"},
	"server/bundles":         {"internal", "wire", "operator", "server/store"},
	"server/rollout":         {"internal", "wire", "operator", "release", "server/store"},
	"server/jobs":            {"operator", "server/store", "server/delivery", "wire"},
	"server/retention":       {"server/store"},
	"server/backup":          {},
	"server/cluster":         {"server/store"},
	"server/probe":           {"internal", "wire", "selfcheck", "operator"},
	"server/hub":             {"internal", "wire", "selfcheck", "session", "oob", "operator", "server/store", "server/delivery", "server/probe"},
	"server/api":             {"internal", "wire", "session", "oob", "operator", "release", "server/store", "server/delivery", "server/builds", "server/bundles", "server/rollout", "server/jobs", "server/hub", "server/probe"},
	"server/metrics":         {"internal", "wire", "operator", "server/store", "server/cluster", "server/delivery", "server/hub"},
	"server":                 {"internal", "wire", "operator", "release", "server/store", "server/delivery", "server/builds", "server/bundles", "server/rollout", "server/jobs", "server/retention", "server/probe", "server/hub", "server/api", "server/metrics", "server/backup", "server/cluster"},
	"lab":                    {},
	"lab/virtual":            {},
	"lab/proxy":              {},
	"lab/harness":            {"internal", "wire", "operator", "lab/proxy", "agent/local"},
	"lab/demo":               {"internal", "wire", "selfcheck", "oob", "operator", "lab/proxy", "lab/harness"},
	"lab/fleet":              {"internal", "wire", "session", "operator", "agent/state", "agent/link"},
	"lab/figures":            {"internal", "wire", "selfcheck", "operator", "release", "lab/harness", "lab/demo", "agent/local"},
	"lab/replay":             {"internal", "diagnosis"},
	"lab/blind":              {"internal", "wire", "operator", "diagnosis", "diagnosis/evidence", "lab/proxy", "lab/harness"},
	"lab/bench":              {"internal", "operator", "server", "server/store/pgtest", "lab/harness", "lab/fleet"},
	"installer":              {"release", "agent"},
	"cmd/gururmm-agent":      {"internal", "selfcheck", "checkup", "agent/probe", "agent/state", "agent/history", "agent/guardian", "agent/bundle", "agent", "agent/local"},
	"cmd/gururmm":            {"internal", "wire", "checkup", "diagnosis", "diagnosis/dossier", "diagnosis/evidence", "diagnosis/timeline", "operator", "release", "server"},
	"cmd/gururmm-lab":        {"internal", "operator", "lab/proxy", "lab/harness", "lab/demo", "lab/figures", "lab/fleet", "lab/bench", "diagnosis", "lab/replay", "lab/blind"},
}

// foreign lists where a third-party module may be used at all; a module that is
// not listed may not be imported by anything but a command.
var foreign = map[string]struct {
	in  []string
	why string
}{
	"github.com/gorilla/websocket": {[]string{"session", "agent/link", "agent/worker", "server/hub", "server/api", "lab/fleet"},
		"the second door must not share the link's library"},
	"modernc.org/sqlite":           {[]string{"server/store"}, "one house knows the database"},
	"github.com/jackc/pgx/v5":      {[]string{"server/store", "server/store/pgtest"}, "one house knows the database"},
	"github.com/golang-jwt/jwt/v5": {[]string{"agent/state", "server/api"}, "tokens are made and checked in one place each"},
	"github.com/shirou/gopsutil/v4": {[]string{"agent/worker", "agent/bundle", "agent/task/tree", "lab/harness"},
		"metrics live in the worker, the machine's facts in the bundle"},
	"github.com/rs/zerolog":               {[]string{"cmd/gururmm", "cmd/gururmm-agent"}, "packages log to slog; the commands choose the writer"},
	"go.yaml.in/yaml/v3":                  {[]string{"agent/state", "cmd/gururmm", "diagnosis", "internal"}, "configuration is read in one place each, and so are case files; internal/deploytest reads a compose file"},
	"aead.dev/minisign":                   {[]string{"release"}, "one house says which program may run"},
	"github.com/goreleaser/nfpm/v2":       {[]string{"installer"}, "no program that is installed carries what installs it"},
	"golang.org/x/mod":                    {[]string{"release"}, "versions are compared in one place"},
	"github.com/Microsoft/go-winio":       {[]string{"agent/local"}, "named pipes are the status door on Windows"},
	"golang.org/x/sys":                    {[]string{"internal", "agent", "agent/state", "agent/task", "agent/task/tree", "agent/local", "agent/probe"}, "platform seams only"},
	"github.com/prometheus/client_golang": {[]string{"server", "server/metrics"}, "counted in one place, shown in one"},
	"github.com/pires/go-proxyproto":      {[]string{"server"}, "who a client is, is settled where connections come in"},
	"github.com/nats-io/nats-server/v2":   {[]string{"lab/bench"}, "what ours is measured beside; nothing of ours runs on it"},
	"github.com/nats-io/nats.go":          {[]string{"server/cluster", "lab/bench"}, "one house wakes other nodes; the other measures beside it"},
	"github.com/coreos/go-systemd/v22":    {[]string{"internal"}, "internal/sdnotify alone speaks to systemd"},
}

type pkg struct {
	docs    int
	imports map[string]string // path → file
	tests   bool
}

func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	out := map[string]*pkg{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		p := out[dir]
		if p == nil {
			p = &pkg{imports: map[string]string{}}
			out[dir] = p
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.ImportsOnly)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "_test.go") {
			p.tests = true
			if dir != "." {
				return nil
			}
		}
		if hasDoc(f) {
			p.docs++
		}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			p.imports[name] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hasDoc(f *ast.File) bool {
	return f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != ""
}

func house(path string) string {
	path = strings.TrimPrefix(path, module+"/")
	if strings.HasPrefix(path, "internal/") {
		return "internal"
	}
	return path
}

func TestArrows(t *testing.T) {
	type arrow struct{ from, to string }
	used := map[arrow]bool{}
	for dir, p := range packages(t) {
		if dir == "." {
			continue
		}
		may, known := allowed[house(dir)]
		if !known {
			t.Errorf("package %s has no place in the architecture: add it to allowed, with a decision", dir)
			continue
		}
		for name, file := range p.imports {
			if strings.HasPrefix(name, module+"/") {
				used[arrow{house(dir), house(name)}] = true
				if !slices.Contains(may, house(name)) {
					t.Errorf("%s imports %s: not along the arrows (docs/architecture.md)", file, name)
				}
				continue
			}
			for mod, rule := range foreign {
				if name != mod && !strings.HasPrefix(name, mod+"/") {
					continue
				}
				used[arrow{house(dir), mod}] = true
				if !slices.Contains(rule.in, house(dir)) {
					t.Errorf("%s imports %s: %s", file, name, rule.why)
				}
			}
			if dir == "wire" || dir == "selfcheck" {
				if first, _, _ := strings.Cut(name, "/"); strings.Contains(first, ".") {
					t.Errorf("%s imports %s: %s is standard library only", file, name, dir)
				}
			}
			if dir == "wire" || dir == "selfcheck" || dir == "diagnosis" || strings.HasPrefix(dir, "diagnosis/") {
				if slices.Contains([]string{"net", "net/http", "os", "os/exec", "log", "log/slog"}, name) {
					t.Errorf("%s imports %s: %s does no I/O", file, name, dir)
				}
			}
		}
	}
	// What nobody needs any more is not left open for the next to walk through.
	for from, may := range allowed {
		for _, to := range may {
			if to != "internal" && !used[arrow{from, to}] {
				t.Errorf("%s may import %s and does not: take it out of allowed", from, to)
			}
		}
	}
	for mod, rule := range foreign {
		for _, from := range rule.in {
			if !used[arrow{from, mod}] {
				t.Errorf("%s may import %s and does not: take it out of foreign", from, mod)
			}
		}
	}
}

// renames may use os.Rename itself; why.
var renames = map[string]string{
	"agent/logfile.go":       "a rotation that fails is tried again at the next line",
	"installer/build.go":     "packages are built on Linux",
	"cmd/gururmm/bundles.go": "a file of the operator's own, made a moment ago",
}

// On Windows a scanner may hold what was written just now: [atomicfile.Rename] waits for it.
func TestRenamesWaitForScanners(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path = filepath.ToSlash(path)
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || path == "internal" || path == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "os.Rename(") != (renames[path] != "") {
			t.Errorf("%s: os.Rename only where renames says why, and nothing in renames without it", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEachPackageSaysWhatItIsOnce(t *testing.T) {
	for dir, p := range packages(t) {
		if p.docs != 1 {
			t.Errorf("package %s has %d package comments, want exactly one", dir, p.docs)
		}
	}
}

var repoPath = regexp.MustCompile("(?m)`((?:[a-z][a-z0-9_-]*/)+[a-zA-Z0-9_.-]*|[A-Z]+\\.md|Makefile)`|\\]\\(([^)#:]+)\\)")

// What a reader is sent to must be there.
func TestPathsNamedInDocsExist(t *testing.T) {
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("docs/*/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range append(append([]string{"README.md", "CONTRIBUTING.md", "SECURITY.md"}, docs...), more...) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range repoPath.FindAllStringSubmatch(string(text), -1) {
			path, base := m[1], "."
			if m[2] != "" {
				path, base = m[2], filepath.Dir(doc)
			}
			if strings.HasPrefix(path, "bin/") || strings.HasPrefix(path, "v1/") || strings.HasPrefix(path, "testing/") {
				continue // made by the build; an HTTP path; the standard library
			}
			if _, err := os.Stat(filepath.Join(base, path)); err != nil {
				t.Errorf("%s names %s, which is not there", doc, path)
			}
		}
	}
}
