// Package rig starts the etcd servers that benchmarks compare, in this process or each in one of its own, and opens them as a
// plain etcd or as a meta cluster.
package rig

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/server/v3/embed"
)

const (
	startTimeout = 30 * time.Second
	quotaBytes   = 8 << 30
)

// ServerConfig describes a single-node etcd.
type ServerConfig struct {
	Name      string
	Dir       string // the server's own data directory
	MaxTxnOps uint   `json:",omitempty"` // --max-txn-ops; 0: etcd's default
	// Cgroup is the directory of a control group that the server joins before it touches the disk. Only for servers that are
	// processes of their own; empty: none.
	Cgroup string `json:",omitempty"`
}

// Server is a running single-node etcd with the settings of an etcd out of the box: every write is synced to disk.
type Server struct {
	Endpoint string // host:port for clients
	PID      int    // of its process; 0: this one
	stop     func() error
}

// Stop ends the server and leaves its data.
func (s *Server) Stop() error { return s.stop() }

// Embed starts a server in this process and waits until it serves.
func Embed(cfg ServerConfig) (*Server, error) {
	if cfg.Cgroup != "" {
		return nil, errors.New("a server in this process cannot have a control group of its own")
	}
	loopback := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	ec := embed.NewConfig()
	ec.Name = cfg.Name
	ec.Dir = cfg.Dir
	ec.ListenClientUrls = []url.URL{loopback}
	ec.AdvertiseClientUrls = []url.URL{loopback}
	ec.ListenPeerUrls = []url.URL{loopback}
	ec.AdvertisePeerUrls = []url.URL{loopback}
	ec.InitialCluster = cfg.Name + "=" + loopback.String()
	ec.InitialClusterToken = cfg.Dir // makes the cluster ids differ
	ec.QuotaBackendBytes = quotaBytes
	ec.EnableGRPCGateway = false
	if cfg.MaxTxnOps > 0 {
		ec.MaxTxnOps = cfg.MaxTxnOps
	}
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())

	etcd, err := embed.StartEtcd(ec)
	if err != nil {
		return nil, fmt.Errorf("start etcd %s: %w", cfg.Name, err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		etcd.Close()
		return nil, fmt.Errorf("start etcd %s: %w", cfg.Name, err)
	case <-time.After(startTimeout):
		etcd.Close()
		return nil, fmt.Errorf("start etcd %s: not ready after %s", cfg.Name, startTimeout)
	}
	return &Server{
		Endpoint: etcd.Clients[0].Addr().String(),
		stop:     func() error { etcd.Close(); return nil },
	}, nil
}
