package tree

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed meta.go.txt
var metaFile []byte

//go:embed example.go.txt
var exampleFile string

const (
	framework  = "framework/integration/"
	directFile = framework + "cluster_direct.go"
	ourFile    = framework + "cluster_meta.go"
)

// edit replaces the only place of a file that reads as old.
type edit struct {
	file, old, new string
}

// edits hand the framework's clusters to meta.go.txt.
var edits = []edit{
	{framework + "cluster.go", "type Cluster struct {\n", "type Cluster struct {\n\tfront *front           // nil: a plain etcd\n\tfirst *clientv3.Client // the meta cluster's, of this cluster\n\n"},
	{framework + "cluster.go", "func NewCluster(t testutil.TB, cfg *ClusterConfig) *Cluster {\n", "func newCluster(t testutil.TB, cfg *ClusterConfig, f *front) *Cluster {\n"},
	{framework + "cluster.go", "c := &Cluster{Cfg: cfg}\n", "c := &Cluster{Cfg: cfg, front: f}\n"},
	// A server's address is known when it is made, its clients are made when it runs.
	{framework + "cluster.go", "\t\t\tMetrics:                     c.Cfg.Metrics,\n\t\t})\n\treturn m\n", "\t\t\tMetrics:                     c.Cfg.Metrics,\n\t\t})\n\tregister(m, c.front)\n\treturn m\n"},
	{framework + "cluster.go", "m.ServerClient = v3client.New(m.Server)\n", "m.ServerClient = v3client.New(m.Server)\n\t\tinstallAt(m.ServerClient, m.GRPCURL)\n"},
	{framework + "cluster.go", "\tvar wg sync.WaitGroup\n\twg.Add(len(c.Members))\n", "\tc.stopMeta(t)\n\tvar wg sync.WaitGroup\n\twg.Add(len(c.Members))\n"},
	{framework + "testing.go", "return clientv3.New(cfg)\n", "return newClientV3(cfg)\n"},
}

// exampleDirs are packages whose examples, which are documentation as well, dial by themselves.
var exampleDirs = []string{"integration/clientv3/concurrency", "integration/clientv3/examples"}

// substitute puts the meta cluster in the place of etcd.
func (t *Tree) substitute() error {
	if err := os.Remove(t.path(directFile)); err != nil {
		return err
	}
	if err := os.WriteFile(t.path(ourFile), metaFile, 0o600); err != nil {
		return err
	}
	for _, e := range edits {
		if err := t.replace(e); err != nil {
			return err
		}
	}
	for _, dir := range exampleDirs {
		if err := t.substituteDial(dir); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) path(name string) string { return filepath.Join(t.Dir, filepath.FromSlash(name)) }

func (t *Tree) replace(e edit) error {
	text, err := os.ReadFile(t.path(e.file))
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), e.old); n != 1 {
		return fmt.Errorf("%s of %s has the text %q %d times, not once: tell package tree what became of it", e.file, module, e.old, n)
	}
	return os.WriteFile(t.path(e.file), []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600)
}

const dial = "clientv3.New("

// substituteDial makes the examples of a package dial by a function of ours.
func (t *Tree) substituteDial(dir string) error {
	files, err := filepath.Glob(filepath.Join(t.path(dir), "example*_test.go"))
	if err != nil {
		return err
	}
	pkg, found := "", false
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pkg = packageName(string(text))
		found = found || strings.Contains(string(text), dial)
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), dial, "newExampleClient(")), 0o600); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no example in %s of %s calls %q: tell package tree how they dial", dir, module, dial)
	}
	return os.WriteFile(filepath.Join(t.path(dir), "meta_test.go"), []byte("package "+pkg+"\n\n"+exampleFile), 0o600)
}

// packageName is what follows the package clause.
func packageName(source string) string {
	for line := range strings.Lines(source) {
		if name, ok := strings.CutPrefix(line, "package "); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}
