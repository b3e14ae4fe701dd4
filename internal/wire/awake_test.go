package wire_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/metaetcd/metaetcd/internal/wire"
)

// A client that rests for an hour between its attempts connects soon after the server is back, whatever waits for it.
func TestClientsConnectSoonAgain(t *testing.T) {
	for name, ask := range map[string]func(cli *clientv3.Client) func(ctx context.Context) error{
		"a read": func(cli *clientv3.Client) func(context.Context) error {
			kv := wire.KV(cli)
			return func(ctx context.Context) error {
				_, err := kv.Txn(ctx, readTxn)
				return err
			}
		},
		"a write": func(cli *clientv3.Client) func(context.Context) error {
			kv := wire.KV(cli)
			return func(ctx context.Context) error {
				_, err := kv.Txn(ctx, put)
				return err
			}
		},
		"a timer": func(cli *clientv3.Client) func(context.Context) error {
			leases := serversBehind(t, cli).Lease()
			return func(ctx context.Context) error {
				_, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 1})
				return err
			}
		},
		"a stream": func(cli *clientv3.Client) func(context.Context) error {
			watches := watchesOf(t, cli)
			return func(ctx context.Context) error {
				err := wire.Watch(ctx, watches, 1, false, func([]*mvccpb.Event) error { return nil })
				if !wire.BrokeOff(err) {
					return nil // it has reached the server
				}
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			var back atomic.Bool
			dial := grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				if !back.Load() {
					return nil, errors.New("not yet")
				}
				return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			})
			rest := backoff.Config{BaseDelay: time.Hour, MaxDelay: time.Hour, Multiplier: 1}
			request := ask(s.dial(t, clientv3.Config{}, dial, grpc.WithConnectParams(grpc.ConnectParams{Backoff: rest})))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			require.Error(t, request(ctx))
			back.Store(true)
			require.Eventually(t, func() bool { return request(ctx) == nil }, time.Minute, 10*time.Millisecond)
		})
	}
}
