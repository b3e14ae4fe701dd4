package metaetcdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd/metaetcdtest/internal/tcpproxy"
)

const (
	// startTimeout bounds the wait for a server to serve, elections included.
	startTimeout = 60 * time.Second
	// quotaBytes keeps a runaway test from filling the disk or, for the coordinator, the memory.
	quotaBytes = 2 << 30
)

// server is one etcd server. It listens on other ports each time it is started; its two proxies, for clients and for peers,
// are its addresses to everybody else, so that they survive restarts and nobody can take them in between.
type server struct {
	name   string
	dir    string
	binary string // empty: embedded
	client *tcpproxy.Proxy
	peer   *tcpproxy.Proxy
	direct *tracker // the connections that go around the client proxy

	mu   sync.Mutex
	etcd instance // nil while stopped
}

func newServer(name, dir string) (*server, error) {
	client, err := tcpproxy.Listen()
	if err != nil {
		return nil, err
	}
	peer, err := tcpproxy.Listen()
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	s := &server{name: name, dir: filepath.Join(dir, name), client: client, peer: peer}
	s.direct = &tracker{target: client.Target, open: map[net.Conn]struct{}{}}
	return s, nil
}

// config is the server's part of an etcd cluster of the given servers.
func (s *server) config(cluster []*server, noFsync bool, lg *zap.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = s.name
	cfg.Dir = s.dir
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: s.client.Addr()}}
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: s.peer.Addr()}}
	cfg.InitialCluster = ""
	for _, other := range cluster {
		if cfg.InitialCluster != "" {
			cfg.InitialCluster += ","
		}
		cfg.InitialCluster += other.name + "=http://" + other.peer.Addr()
	}
	cfg.InitialClusterToken = cluster[0].peer.Addr()
	cfg.EnableGRPCGateway = false
	cfg.QuotaBackendBytes = quotaBytes
	cfg.UnsafeNoFsync = noFsync
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(lg)
	return cfg
}

// start launches the server, in this process or, with a binary, as one of its own; ready waits until it serves.
func (s *server) start(cfg *embed.Config, binary string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.etcd != nil {
		return nil
	}
	var err error
	if binary == "" {
		s.etcd, err = startEmbedded(cfg)
	} else {
		s.etcd, err = startProcess(binary, cfg)
	}
	if err != nil {
		s.etcd = nil
		return err
	}
	client, peer := s.etcd.addrs()
	s.peer.SetTarget(peer)
	s.client.SetTarget(client)
	return nil
}

func (s *server) ready() error {
	etcd := s.running()
	if etcd == nil {
		return errors.New("stopped while starting")
	}
	select {
	case <-etcd.ready():
		return nil
	case err := <-etcd.ended():
		return fmt.Errorf("etcd ended: %w", err)
	case <-time.After(startTimeout):
		return fmt.Errorf("not ready after %s", startTimeout)
	}
}

func (s *server) running() instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.etcd
}

// stop resets all connections first: etcd would wait for watches that never end.
func (s *server) stop() { s.end(instance.stop) }

func (s *server) end(how func(instance)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.etcd == nil {
		return
	}
	s.client.SetTarget("")
	s.direct.reset()
	how(s.etcd)
	s.peer.SetTarget("")
	s.etcd = nil
}

// process is the server's process; nil: it is stopped, or has none of its own.
func (s *server) process() *process {
	p, _ := s.running().(*process)
	return p
}

func (s *server) wipe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.etcd != nil {
		return errors.New("the server is running")
	}
	return os.RemoveAll(s.dir)
}

func (s *server) close() {
	s.stop()
	_ = s.client.Close()
	_ = s.peer.Close()
}

// tracker dials the server itself, wherever it listens at the moment, and remembers the connections.
type tracker struct {
	target func() string

	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// dial ignores the address it is given: that is the proxy's.
func (t *tracker) dial(ctx context.Context, _ string) (net.Conn, error) {
	target := t.target()
	if target == "" {
		return nil, errors.New("metaetcdtest: the server is stopped")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[conn] = struct{}{}
	return &trackedConn{Conn: conn, tracker: t}, nil
}

func (t *tracker) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for conn := range t.open {
		_ = conn.Close()
	}
	clear(t.open)
}

type trackedConn struct {
	net.Conn
	tracker *tracker
}

func (c *trackedConn) Close() error {
	c.tracker.mu.Lock()
	delete(c.tracker.open, c.Conn)
	c.tracker.mu.Unlock()
	return c.Conn.Close()
}
