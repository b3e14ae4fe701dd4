// Package harness is the meta cluster that stands in the place of an etcd cluster of etcd's own test framework. The changed
// framework calls it; see package tree.
package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/metaetcd/metaetcd"
)

const (
	// openTimeout grants a busy machine what it takes to elect leaders.
	openTimeout = 60 * time.Second
	// pipeBytes is what may be under way on a connection without being read.
	pipeBytes = 1 << 20
)

// Meta is one process of a meta cluster, with its services on a gRPC server besides. It is safe for concurrent use.
type Meta struct {
	client *metaetcd.Client
	server *grpc.Server
	served chan error
	conn   *grpc.ClientConn
}

// Start opens the meta cluster. The server takes requests that are as long as opts allow.
func Start(cfg metaetcd.Config, opts ...grpc.ServerOption) (*Meta, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	client, err := metaetcd.New(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the meta cluster: %w", err)
	}
	m := &Meta{client: client, server: grpc.NewServer(opts...), served: make(chan error, 1)}
	client.Register(m.server)
	pipe := bufconn.Listen(pipeBytes)
	m.conn, err = grpc.NewClient("passthrough:///meta",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	go func() { m.served <- m.server.Serve(pipe) }()
	return m, nil
}

// Install puts the meta cluster into cli, which was not used yet.
func (m *Meta) Install(cli *clientv3.Client) { m.client.Install(cli) }

// Conn is a connection to the server that the meta cluster is registered on.
func (m *Meta) Conn() grpc.ClientConnInterface { return m.conn }

// Close ends what Start began.
func (m *Meta) Close() error {
	err := m.conn.Close()
	m.server.Stop()
	return errors.Join(err, <-m.served, m.client.Close())
}
