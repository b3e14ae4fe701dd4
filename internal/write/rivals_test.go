package write_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/fakemeta"
	"github.com/metaetcd/metaetcd/internal/request"
)

// TestWhoHasLostLooksAgain: ten processes that swap one key, again and again, send hardly more than what lands. Without a wait, all of
// them would send a swap each time, and nine of ten be refused.
func TestWhoHasLostLooksAgain(t *testing.T) {
	fakemeta.Run(t, 1, func(t *testing.T, w fakemeta.World) {
		const each = 20
		key := []byte(w.Key(0, 0))
		engines := []*engine.Engine{w.Engine}
		for range 9 {
			engines = append(engines, w.Open())
		}
		var writes, lost atomic.Int64
		w.Gates[0].Set(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			if etcdfake.Writes(req) {
				writes.Add(1)
			}
			time.Sleep(time.Millisecond)
			return do()
		})
		var wg sync.WaitGroup
		for _, e := range engines {
			wg.Go(func() {
				for landed := 0; landed < each; {
					resp, err := e.Reads.Range(t.Context(), &pb.RangeRequest{Key: key})
					require.NoError(t, err)
					swap := put(string(key), "v", 0)
					swap.Compare = []*pb.Compare{request.Absent(key, nil)}
					if len(resp.Kvs) > 0 {
						swap.Compare[0] = request.ModIs(key, resp.Kvs[0].ModRevision)
					}
					answer, err := e.Writes.Do(t.Context(), swap)
					require.NoError(t, err)
					if answer.Succeeded {
						landed++
					} else {
						lost.Add(1)
					}
				}
			})
		}
		wg.Wait()
		resp, err := w.Reads.Range(t.Context(), &pb.RangeRequest{Key: key})
		require.NoError(t, err)
		require.EqualValues(t, 10*each, resp.Kvs[0].Version, "each landed once")
		require.Positive(t, lost.Load())
		require.Less(t, writes.Load(), int64(3*10*each))
	})
}
