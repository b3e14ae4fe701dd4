package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// startTimeout is how long an etcd may take to be ready.
const startTimeout = time.Minute

// dirPrefix begins the names of the servers' directories.
const dirPrefix = "metaetcd-quickstart-"

// server is a single-node etcd inside this process. Started again it has its old address and, even without its data, its old
// etcd cluster id, which is derived from what is configured here.
type server struct {
	name string
	dir  string
	addr url.URL // for clients; the port is chosen at the first start
	etcd *embed.Etcd
}

// newServer prepares a server that keeps its data below parent.
func newServer(name, parent string) (*server, error) {
	dir, err := os.MkdirTemp(parent, dirPrefix)
	return &server{name: name, dir: dir, addr: url.URL{Scheme: "http", Host: "127.0.0.1:0"}}, err
}

// start returns when the server is ready.
func (s *server) start() error {
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"} // never dialled
	cfg := embed.NewConfig()
	cfg.Name = s.name
	cfg.Dir = filepath.Join(s.dir, "data")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{s.addr}, []url.URL{s.addr}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = s.name + "=" + peer.String()
	cfg.InitialClusterToken = s.name
	cfg.EnableGRPCGateway = false // with it, etcd waits for clients when it is to stop
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start etcd %s: %w", s.name, err)
	}
	s.etcd = etcd
	s.addr.Host = etcd.Clients[0].Addr().String()
	select {
	case <-etcd.Server.ReadyNotify():
		return nil
	case err := <-etcd.Err():
		return fmt.Errorf("start etcd %s: %w", s.name, err)
	case <-time.After(startTimeout):
		return fmt.Errorf("start etcd %s: not ready", s.name)
	}
}

func (s *server) stop() {
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// wipe removes the data of a stopped server.
func (s *server) wipe() error { return os.RemoveAll(filepath.Join(s.dir, "data")) }

// remove stops the server for good.
func (s *server) remove() error {
	s.stop()
	return os.RemoveAll(s.dir)
}

// dial opens a client and waits until it is connected.
func (s *server) dial(ctx context.Context) (*clientv3.Client, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{s.addr.Host}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	if _, err := cli.Status(ctx, s.addr.Host); err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	return cli, nil
}
