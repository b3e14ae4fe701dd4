package lease

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// refusing is a coordinator that opens no streams while it is down.
type refusing struct {
	*coordinator
	down atomic.Bool
	asks atomic.Int64
}

func (r *refusing) LeaseKeepAlive(ctx context.Context, opts ...grpc.CallOption) (pb.Lease_LeaseKeepAliveClient, error) {
	r.asks.Add(1)
	if r.down.Load() {
		return nil, errors.New("refused")
	}
	return r.coordinator.LeaseKeepAlive(ctx, opts...)
}

// TestOutageIsLoggedOnce: however often the stream is opened in vain before there is an answer.
func TestOutageIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		rn, c := openRenewer(t)
		r := &refusing{coordinator: c}
		rn.lease, rn.log = r, zap.New(core)
		c.answer(true)
		renew := func() (answered bool) {
			rn.started(7, time.Now(), 3600)
			rn.add(7, func(int64) { answered = true })
			synctest.Wait()
			return answered
		}
		require.True(t, renew())
		for outage := range 2 {
			s, _ := c.last()
			r.down.Store(true)
			close(s.broken)
			before := r.asks.Load()
			time.Sleep(time.Minute)
			require.Greater(t, r.asks.Load()-before, int64(100))
			require.Equal(t, outage+1, logs.FilterMessageSnippet("broke off").Len())
			require.Equal(t, outage, logs.FilterMessageSnippet("answered again").Len())
			r.down.Store(false)
			time.Sleep(time.Second)
			require.True(t, renew())
			require.Equal(t, outage+1, logs.FilterMessageSnippet("answered again").Len())
		}
		require.Equal(t, 4, logs.Len())
	})
}

// TestUnknownLeasesThatCannotBeRenewed: of all of them, and however often their clients ask, one is told of.
func TestUnknownLeasesThatCannotBeRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		w := newWorld(t, 1)
		var refused atomic.Bool
		l := w.open(nil, func(cfg *Config) {
			cfg.Logger = zap.New(core)
			cfg.KV = w.coordinator.Client(func(_ context.Context, _ proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
				if refused.Load() {
					return nil, rpctypes.ErrGRPCPermissionDenied
				}
				return do()
			})
		})
		for outage := range 2 {
			refused.Store(true)
			for range 10 {
				for id := range int64(5) {
					l.Renew(7+id, func(int64) { t.Error("it has an answer") })
				}
				time.Sleep(time.Second)
			}
			require.Equal(t, outage+1, logs.FilterMessageSnippet("could not be renewed").Len())
			refused.Store(false)
			answered := int64(-1)
			l.Renew(7, func(ttl int64) { answered = ttl })
			synctest.Wait()
			require.Zero(t, answered)
			require.Equal(t, outage+1, logs.FilterMessageSnippet("renewed again").Len())
		}
	})
}
