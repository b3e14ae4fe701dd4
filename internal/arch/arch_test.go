package arch_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/metaetcd/metaetcd"

// room is a package and what it may import of this module.
type room struct {
	name    string // below internal/; empty: the top
	imports []string
	pure    bool // knows no client
}

// rooms lists the packages from the bottom to the top: each imports only what stands above it here.
var rooms = []room{
	{name: "arch"},
	{name: "bridge"},
	{name: "keyrange", pure: true},
	{name: "latch", pure: true},
	{name: "lifetime"},
	{name: "fencer", imports: []string{"lifetime"}},
	{name: "share", imports: []string{"lifetime"}},
	{name: "backoff", imports: []string{"lifetime"}},
	{name: "record", imports: []string{"keyrange"}, pure: true},
	{name: "manifest", imports: []string{"keyrange", "record"}, pure: true},
	{name: "request", pure: true},
	{name: "ring", imports: []string{"keyrange"}, pure: true},
	{name: "statecache", pure: true},
	{name: "hedge"},
	{name: "wire", imports: []string{"hedge", "lifetime"}},
	{name: "validate", imports: []string{"keyrange", "record"}, pure: true},
	{name: "etcdfake", imports: []string{"keyrange", "request", "validate"}},
	{name: "translate", imports: []string{"keyrange", "manifest", "record", "request", "ring", "validate"}, pure: true},
	{name: "mergedlog", imports: []string{"keyrange", "manifest", "record"}, pure: true},
	{name: "snapshot", imports: []string{"keyrange", "mergedlog"}, pure: true},
	{name: "watchhub", imports: []string{"backoff", "keyrange", "lifetime", "mergedlog"}},
	{name: "clock", imports: []string{"backoff", "hedge", "lifetime", "record", "request", "wire"}},
	{name: "topology", imports: []string{"backoff", "clock", "record", "request", "ring", "wire"}},
	{name: "lease", imports: []string{"backoff", "clock", "lifetime", "record", "request", "share", "translate", "wire"}},
	{name: "commit", imports: []string{"lifetime", "manifest", "mergedlog", "translate"}},
	{name: "history", imports: []string{"backoff", "keyrange", "mergedlog", "record", "request", "watchhub", "wire"}},
	{name: "metrics", imports: []string{
		"clock",
	}},
	{name: "member", imports: []string{
		"backoff", "fencer", "history", "lifetime", "manifest", "mergedlog", "record", "request", "share", "statecache", "topology", "translate", "wire",
	}},
	{name: "feed", imports: []string{
		"clock", "fencer", "history", "lease", "lifetime", "member", "mergedlog", "record", "request", "ring", "statecache", "watchhub", "wire",
	}},
	{name: "read", imports: []string{
		"clock", "commit", "feed", "fencer", "lease", "lifetime", "member", "mergedlog", "record", "request", "ring", "snapshot", "statecache", "translate", "validate",
	}},
	{name: "crosstxn", imports: []string{
		"backoff", "commit", "feed", "latch", "lifetime", "manifest", "member", "mergedlog", "record", "request", "ring", "statecache", "translate", "wire",
	}},
	{name: "write", imports: []string{
		"commit", "crosstxn", "feed", "lease", "lifetime", "member", "read", "record", "request", "ring", "statecache", "translate",
	}},
	{name: "engine", imports: []string{
		"bridge", "clock", "commit", "crosstxn", "feed", "lease", "lifetime", "member", "mergedlog", "metrics", "read", "ring", "statecache", "topology", "validate", "wire", "write",
	}},
	{name: "fakemeta", imports: []string{"engine", "etcdfake", "metrics", "ring"}}, // for tests
	{name: "", imports: []string{
		"bridge", "clock", "commit", "engine", "lifetime", "member", "metrics", "ring", "topology", "validate", "wire",
	}},
}

func (r room) path() string { return pathOf(r.name) }

func pathOf(name string) string {
	if name == "" {
		return module
	}
	return module + "/internal/" + name
}

func TestTheTableGoesOneWay(t *testing.T) {
	var above []string
	for _, r := range rooms {
		require.NotContains(t, above, r.name)
		for _, i := range r.imports {
			require.Contains(t, above, i, "%q imports what does not stand above it", r.name)
		}
		above = append(above, r.name)
	}
}

func TestImportsGoOneWay(t *testing.T) {
	packages := list(t)
	for _, r := range rooms {
		p, ok := packages[r.path()]
		require.True(t, ok, "no package %s: take it out of the table", r.path())
		delete(packages, r.path())
		var want []string
		for _, i := range r.imports {
			want = append(want, pathOf(i))
		}
		require.ElementsMatch(t, want, ours(p.Imports), "imports of %s (what may be: rooms, in this test)", r.path())
		if r.pure {
			require.NotContains(t, p.Deps, "go.etcd.io/etcd/client/v3", "%s is pure", r.path())
		}
		for _, d := range p.Deps {
			require.False(t, strings.HasPrefix(d, "go.etcd.io/etcd/server/") || strings.HasPrefix(d, "k8s.io/"), "%s needs %s", r.path(), d)
		}
	}
	require.Empty(t, packages, "packages that the table does not know")
}

type goPackage struct {
	ImportPath    string
	Imports, Deps []string
}

// list asks go for the packages of the module, tests left out.
func list(t *testing.T) map[string]goPackage {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"/...")
	cmd.Dir, cmd.Stderr = filepath.Join("..", ".."), os.Stderr
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	require.NoError(t, err)
	all := map[string]goPackage{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all[p.ImportPath] = p
	}
}

func ours(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return p != module && !strings.HasPrefix(p, module+"/") })
}

var update = flag.Bool("update", false, "write the linter's rules from the table")

const (
	lintConfig = "../../.golangci.yml"
	beginRules = "        # rooms: begin (go test ./internal/arch -update)\n"
	endRules   = "        # rooms: end\n"
)

func TestTheLinterHasTheTable(t *testing.T) {
	old, err := os.ReadFile(lintConfig)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(old), beginRules)
	require.True(t, ok, "no line %q", beginRules)
	_, tail, ok := strings.Cut(rest, endRules)
	require.True(t, ok, "no line %q", endRules)
	want := head + beginRules + linterRules() + endRules + tail
	if *update {
		require.NoError(t, os.WriteFile(lintConfig, []byte(want), 0o644))
		return
	}
	require.Equal(t, want, string(old), "run go test ./internal/arch -update")
}

// linterRules are depguard's: of this module, a package's files import what the table has, and nothing else. Tests may import more.
func linterRules() string {
	var b strings.Builder
	for _, r := range rooms {
		if r.name == "" {
			continue // it stands above everything
		}
		fmt.Fprintf(&b, "        room-%s:\n          list-mode: lax\n", r.name)
		fmt.Fprintf(&b, "          files:\n            - ${config-path}/internal/%s/*.go\n            - \"!$test\"\n", r.name)
		fmt.Fprintf(&b, "          deny:\n            - pkg: %s\n              desc: imports go one way, see internal/arch\n", module)
		for i, p := range r.imports {
			if i == 0 {
				b.WriteString("          allow:\n")
			}
			fmt.Fprintf(&b, "            - %s$\n", pathOf(p))
		}
	}
	return b.String()
}
