package main

import (
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

// startTimeout is how long an embedded etcd may take to be ready.
const startTimeout = 30 * time.Second

// embedded is a meta cluster's servers in this process, on loopback and without TLS: for trying things out.
type embedded struct {
	etcds []*embed.Etcd
	dir   string // removed at the end; empty if the data is to stay
}

// startEmbedded starts a coordinator and members below dir, or, if that is empty, in temporary directories. A member's data
// stays what it is for as long as the directory has its name.
func startEmbedded(dir string, members int) (_ *embedded, _ etcdFlags, err error) {
	e := &embedded{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.stop())
		}
	}()
	if dir == "" {
		if e.dir, err = os.MkdirTemp("", "metaetcd-apiserver-"); err != nil {
			return nil, etcdFlags{}, err
		}
		dir = e.dir
	}
	var flags etcdFlags
	if flags.coordinator, err = e.start(dir, "coordinator"); err != nil {
		return nil, etcdFlags{}, err
	}
	for i := range members {
		name := fmt.Sprintf("member-%d", i)
		endpoints, err := e.start(dir, name)
		if err != nil {
			return nil, etcdFlags{}, err
		}
		flags.members = append(flags.members, namedEndpoints{name, endpoints})
	}
	return e, flags, nil
}

// start starts one single-server cluster and returns its endpoints.
func (e *embedded) start(dir, name string) ([]string, error) {
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Name, cfg.InitialClusterToken = name, name
	cfg.Dir = filepath.Join(dir, name)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{any}, []url.URL{any}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{any}, []url.URL{any}
	cfg.InitialCluster = name + "=" + any.String()
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd %s: %w", name, err)
	}
	e.etcds = append(e.etcds, etcd)
	select {
	case <-etcd.Server.ReadyNotify():
		return []string{etcd.Clients[0].Addr().String()}, nil
	case err := <-etcd.Err():
		return nil, fmt.Errorf("start etcd %s: %w", name, err)
	case <-time.After(startTimeout):
		return nil, fmt.Errorf("start etcd %s: not ready", name)
	}
}

func (e *embedded) stop() error {
	for _, etcd := range e.etcds {
		etcd.Close()
	}
	if e.dir == "" {
		return nil
	}
	return os.RemoveAll(e.dir)
}

// closeClients closes the clients that a meta cluster borrowed.
func closeClients(clients []*clientv3.Client) error {
	var errs []error
	for _, cli := range clients {
		errs = append(errs, cli.Close())
	}
	return errors.Join(errs...)
}
