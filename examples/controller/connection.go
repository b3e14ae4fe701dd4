package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// tlsFiles are PEM files. Without any, a connection is in the clear, or trusts the system's authorities if its endpoints
// begin with https.
type tlsFiles struct{ cacert, cert, key string }

// connection is how to reach one etcd cluster.
type connection struct {
	endpoints []string
	tls       tlsFiles
}

// parseConnection reads "endpoint[,endpoint…][;cacert=file][;cert=file][;key=file]". Files that are not named are the defaults.
func parseConnection(s string, defaults tlsFiles) (connection, error) {
	endpoints, files, _ := strings.Cut(s, ";")
	if endpoints == "" {
		return connection{}, errors.New("endpoints are missing")
	}
	c := connection{endpoints: strings.Split(endpoints, ","), tls: defaults}
	if files == "" {
		return c, nil
	}
	for f := range strings.SplitSeq(files, ";") {
		name, value, _ := strings.Cut(f, "=")
		switch name {
		case "cacert":
			c.tls.cacert = value
		case "cert":
			c.tls.cert = value
		case "key":
			c.tls.key = value
		default:
			return connection{}, fmt.Errorf("%q is none of cacert=, cert= and key=", f)
		}
	}
	return c, nil
}

// dial returns a client that connects when it is used.
func (c connection) dial() (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: c.endpoints, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second}
	if c.secure() {
		info := transport.TLSInfo{TrustedCAFile: c.tls.cacert, CertFile: c.tls.cert, KeyFile: c.tls.key}
		config, err := info.ClientConfig()
		if err != nil {
			return nil, err
		}
		config.MinVersion = tls.VersionTLS12
		cfg.TLS = config
	}
	return clientv3.New(cfg)
}

func (c connection) secure() bool {
	return c.tls != tlsFiles{} || strings.HasPrefix(c.endpoints[0], "https://")
}
