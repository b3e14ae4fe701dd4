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
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
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
