package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd"
)

// etcdFlags say where a meta cluster's etcds are.
type etcdFlags struct {
	coordinator []string
	members     []namedEndpoints
	tls         transport.TLSInfo // one for all of them
}

type namedEndpoints struct {
	name      string
	endpoints []string
}

func (f *etcdFlags) register(fs *flag.FlagSet) {
	fs.Func("coordinator", "the coordinator's `endpoint[,endpoint…]`", func(s string) error {
		f.coordinator = strings.Split(s, ",")
		return nil
	})
	fs.Func("member", "a member, `name=endpoint[,endpoint…]`; repeat it for each", func(s string) error {
		name, endpoints, ok := strings.Cut(s, "=")
		if !ok || name == "" || endpoints == "" {
			return errors.New("want name=endpoint[,endpoint…]")
		}
		f.members = append(f.members, namedEndpoints{name, strings.Split(endpoints, ",")})
		return nil
	})
	fs.StringVar(&f.tls.TrustedCAFile, "cacert", "", "`file` with the authority of the etcds' certificates")
	fs.StringVar(&f.tls.CertFile, "cert", "", "`file` with the client certificate for the etcds")
	fs.StringVar(&f.tls.KeyFile, "key", "", "`file` with its key")
}

func (f *etcdFlags) empty() bool { return len(f.coordinator) == 0 && len(f.members) == 0 }

func (f *etcdFlags) check() error {
	switch {
	case (len(f.coordinator) == 0) != (len(f.members) == 0):
		return errors.New("-coordinator and -member go together")
	case f.empty() && f.secure():
		return errors.New("-cacert, -cert and -key are for -coordinator and -member")
	}
	return nil
}

func (f *etcdFlags) secure() bool {
	return f.tls.TrustedCAFile != "" || f.tls.CertFile != "" || f.tls.KeyFile != ""
}

// clientConfig is that of a client of one of the etcds.
func (f *etcdFlags) clientConfig(endpoints []string) (clientv3.Config, error) {
	cfg := clientv3.Config{
		Endpoints:            endpoints,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		Logger:               zap.NewNop(),
	}
	if f.secure() || strings.HasPrefix(endpoints[0], "https://") {
		config, err := f.tls.ClientConfig()
		if err != nil {
			return cfg, fmt.Errorf("TLS: %w", err)
		}
		config.MinVersion = tls.VersionTLS12
		cfg.TLS = config
	}
	return cfg, nil
}

// dial makes the clients that a meta cluster borrows. Whatever the error, those that are returned are to be closed.
func (f *etcdFlags) dial() (config metaetcd.Config, clients []*clientv3.Client, err error) {
	dial := func(endpoints []string) (*clientv3.Client, error) {
		cfg, err := f.clientConfig(endpoints)
		if err != nil {
			return nil, err
		}
		cli, err := clientv3.New(cfg)
		if err == nil {
			clients = append(clients, cli)
		}
		return cli, err
	}
	if config.Coordinator, err = dial(f.coordinator); err != nil {
		return config, clients, err
	}
	for _, m := range f.members {
		cli, err := dial(m.endpoints)
		if err != nil {
			return config, clients, err
		}
		config.Members = append(config.Members, metaetcd.Member{Name: m.name, Client: cli})
	}
	return config, clients, nil
}
