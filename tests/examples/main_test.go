package examples

import (
	"log"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// cluster is a coordinator and three members, shared by all examples: each has keys of its own.
var cluster *metaetcdtest.Cluster

// config is what a program would make of its flags: a client of each etcd cluster, and the members' names.
func config() metaetcd.Config { return cluster.Config() }

// open opens the meta cluster as a process of its own.
func open() *metaetcd.Client {
	c, err := metaetcd.New(ctx, config())
	check(err)
	return c
}

// dial makes an ordinary client of one member.
func dial() *clientv3.Client {
	cli, err := clientv3.New(clientv3.Config{Endpoints: cluster.Members[0].Endpoints()})
	check(err)
	return cli
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	s := &stage{}
	cluster = metaetcdtest.New(s, 3, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(metaetcd.Sharding{Slots: 64}))
	code := m.Run()
	s.clear()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			log.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

// stage stands in for the test that package metaetcdtest wants, which examples do not have.
type stage struct {
	testing.TB
	cleanups []func()
}

func (s *stage) Helper() {}

func (s *stage) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }

func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "metaetcd-examples-")
	check(err)
	s.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *stage) clear() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}
