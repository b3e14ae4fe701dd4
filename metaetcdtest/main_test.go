package metaetcdtest_test

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"go.etcd.io/etcd/pkg/v3/flags"
	"go.etcd.io/etcd/server/v3/embed"
)

// beEtcd is the environment variable that makes this test an etcd, with etcd's flags.
const beEtcd = "METAETCDTEST_BE_ETCD"

func TestMain(m *testing.M) {
	if os.Getenv(beEtcd) != "" {
		if err := etcd(os.Args[1:]); err != nil {
			log.Fatal(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// etcd is the program of that name, as far as metaetcdtest needs it.
func etcd(args []string) error {
	cfg, set := embed.NewConfig(), flag.NewFlagSet("etcd", flag.ContinueOnError)
	cfg.AddFlags(set)
	if err := set.Parse(args); err != nil {
		return err
	}
	cfg.ListenClientUrls = flags.UniqueURLsFromFlag(set, "listen-client-urls")
	cfg.ListenPeerUrls = flags.UniqueURLsFromFlag(set, "listen-peer-urls")
	cfg.AdvertiseClientUrls = flags.UniqueURLsFromFlag(set, "advertise-client-urls")
	cfg.AdvertisePeerUrls = flags.UniqueURLsFromFlag(set, "initial-advertise-peer-urls")
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer server.Close()
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	select {
	case err := <-server.Err():
		return err
	case <-asked.Done():
		return nil
	}
}

var ctx = context.Background()

// example stands in for the *testing.T of a test, which examples do not have.
type example struct {
	testing.TB
	cleanups []func()
}

func newExample() *example { return &example{} }

func (e *example) Helper() {}

func (e *example) Errorf(format string, args ...any) { log.Fatalf(format, args...) }

func (e *example) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }

func (e *example) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }

func (e *example) TempDir() string {
	dir, err := os.MkdirTemp("", "metaetcdtest-")
	e.check(err)
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (e *example) check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// end does what is done at the end of a test.
func (e *example) end() {
	for _, f := range slices.Backward(e.cleanups) {
		f()
	}
}

// etcdBinary is the path of an etcd: this test's own, which is one when it is told to be. See TestMain.
func (e *example) etcdBinary() string {
	self, err := os.Executable()
	e.check(err)
	e.check(os.Setenv(beEtcd, "1"))
	e.Cleanup(func() { e.check(os.Unsetenv(beEtcd)) })
	return self
}
