// Command apiserver is a Kubernetes API server on a meta cluster, without a fork: the server of
// k8s.io/apiextensions-apiserver, for custom resources, whose storage package storage replaces.
//
//	cd examples/apiserver
//	go run .
//	kubectl --kubeconfig "${TMPDIR:-/tmp}/metaetcd.kubeconfig" get crds
//
// By default it brings a coordinator and three members of its own. On a meta cluster that is there:
//
//	go run . -coordinator 127.0.0.1:2379 -member ash=127.0.0.1:3379 -member birch=127.0.0.1:4379
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/examples/apiserver/storage"
)

// compaction is kube-apiserver's default.
const compaction = 5 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	var etcds etcdFlags
	fs := flag.NewFlagSet("apiserver", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:6443", "address to serve at, on loopback; port 0 chooses a free one")
	kubeconfig := fs.String("kubeconfig", filepath.Join(os.TempDir(), "metaetcd.kubeconfig"), "file for the throw-away credentials, written at the start")
	dir := fs.String("data-dir", "", "where the embedded etcds keep their data (default: a temporary directory, removed at the end)")
	members := fs.Int("members", 3, "how many members to embed")
	encryption := fs.String("encryption-provider-config", "", "file with the configuration of encryption at rest")
	etcds.register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", fs.Arg(0))
	}
	if err := etcds.check(); err != nil {
		return err
	}
	if etcds.empty() {
		servers, found, startErr := startEmbedded(*dir, *members)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, servers.stop()) }()
		etcds = found
	}
	creds, err := newCredentials()
	if err != nil {
		return err
	}
	listener, err := loopback(ctx, *listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	address := listener.Addr().String()
	if err := creds.writeKubeconfig(*kubeconfig, address); err != nil {
		return err
	}
	fmt.Printf("serving at https://%s; kubectl --kubeconfig %s get crds\n", address, *kubeconfig)
	return serveMeta(ctx, etcds, serverConfig{listener: listener, creds: creds, encryption: *encryption})
}

// loopback listens, but not where others could reach a server that hands out its credentials in a file.
func loopback(ctx context.Context, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("-listen %s is not a loopback address", address)
	}
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", address)
}

// serveMeta opens the meta cluster and serves until the context ends.
func serveMeta(ctx context.Context, etcds etcdFlags, cfg serverConfig) (err error) {
	config, clients, err := etcds.dial()
	defer func() { err = errors.Join(err, closeClients(clients)) }()
	if err != nil {
		return err
	}
	config.Metrics = legacyregistry.Registerer() // what the server shows at /metrics
	meta, err := metaetcd.New(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, meta.Close()) }()
	real, err := etcds.clientConfig(etcds.members[0].endpoints)
	if err != nil {
		return err
	}
	if cfg.backend, err = storage.New(storage.Meta(meta, real), compaction); err != nil { //nolint:contextcheck // what is installed lives as long as its client
		return err
	}
	defer func() { err = errors.Join(err, cfg.backend.Close()) }()
	cfg.health = meta.Health
	server, err := newServer(cfg)
	if err != nil {
		return err
	}
	storage.Sizes(clients...) // after the server, which sets its own
	return server.PrepareRun().RunWithContext(ctx)
}
