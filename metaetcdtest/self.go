package metaetcdtest

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"

	etcdflags "go.etcd.io/etcd/pkg/v3/flags"
	"go.etcd.io/etcd/server/v3/embed"
)

// serveEnv tells a test's binary that it is a server of WithProcesses.
const serveEnv = "METAETCDTEST_SERVE"

// ServeProcess makes the process a server if WithProcesses has started it as one, and does not return then. A package whose tests
// use WithProcesses calls it first of all, in TestMain.
func ServeProcess() {
	if os.Getenv(serveEnv) == "" {
		return
	}
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs an etcd with flags of etcd's own command, until it ends or is asked to.
func serve(args []string) error {
	cfg := embed.NewConfig()
	fs := flag.NewFlagSet("etcd", flag.ContinueOnError)
	cfg.AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	for name, urls := range map[string]*[]url.URL{
		"listen-client-urls": &cfg.ListenClientUrls, "listen-peer-urls": &cfg.ListenPeerUrls,
		"advertise-client-urls": &cfg.AdvertiseClientUrls, "initial-advertise-peer-urls": &cfg.AdvertisePeerUrls,
	} {
		*urls = etcdflags.UniqueURLsFromFlag(fs, name)
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case err := <-etcd.Err():
		return err
	case <-asked:
		embedded{etcd}.stop()
		return nil
	}
}
