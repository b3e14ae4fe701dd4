package write_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/engine"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/fakemeta"
	"github.com/metaetcd/metaetcd/internal/lease"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is two members and a process.
type world struct {
	fakemeta.World
	t *testing.T
}

func run(t *testing.T, test func(t *testing.T, w *world)) {
	fakemeta.Run(t, 2, func(t *testing.T, w fakemeta.World) { test(t, &world{w, t}) })
}

func put(key, value string, lease int64) *pb.TxnRequest {
	return &pb.TxnRequest{Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease})}}
}

func remove(key, end string) *pb.TxnRequest {
	return &pb.TxnRequest{Success: []*pb.RequestOp{request.Delete(&pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})}}
}

// do runs a transaction, and returns its revision.
func (w *world) do(e *engine.Engine, r *pb.TxnRequest) int64 {
	w.t.Helper()
	resp, err := e.Writes.Do(w.t.Context(), r)
	require.NoError(w.t, err)
	return resp.Header.Revision
}

func (w *world) get(key string) *mvccpb.KeyValue {
	w.t.Helper()
	resp, err := w.Reads.Range(w.t.Context(), &pb.RangeRequest{Key: []byte(key)})
	require.NoError(w.t, err)
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0]
}

// stamps counts those that were taken by fn.
func (w *world) stamps(fn func()) int64 {
	w.t.Helper()
	before, _, err := w.Engine.Clock.Read(w.t.Context())
	require.NoError(w.t, err)
	fn()
	after, _, err := w.Engine.Clock.Read(w.t.Context())
	require.NoError(w.t, err)
	return after - before
}

// TestWhatChangesNothingTakesNoStamp: etcd's revision would not move, either.
func TestWhatChangesNothingTakesNoStamp(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		rev := w.do(w.Engine, put(key, "v", 0))
		failing := put(key, "x", 0)
		failing.Compare = []*pb.Compare{request.Absent([]byte(key), nil)}
		for name, r := range map[string]*pb.TxnRequest{
			"a delete of nothing":         remove(w.Key(0, 1), ""),
			"a range delete of nothing":   remove(w.Key(0, 1), w.Key(0, 1)+"\xff"),
			"a compare that fails":        failing,
			"nothing at all":              {},
			"a delete of nothing, beside": {Success: []*pb.RequestOp{remove(w.Key(0, 1), "").Success[0], remove(w.Key(1, 1), "").Success[0]}},
		} {
			require.Zero(t, w.stamps(func() { require.Equal(t, rev, w.do(w.Engine, r), name) }), name)
		}
		require.EqualValues(t, 1, w.stamps(func() { require.Equal(t, rev+1, w.do(w.Engine, remove(key, ""))) }))
	})
}

// TestABlindPutReadsWhatItDoesNotKnow: a key is read once, beside the stamp, and known from then on.
func TestABlindPutReadsWhatItDoesNotKnow(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		var reads, writes atomic.Int32
		w.Gates[0].Set(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			if r, ok := req.(*pb.RangeRequest); ok && string(r.Key) == key {
				reads.Add(1)
			}
			if etcdfake.Writes(req) && mentions(req, key) {
				writes.Add(1)
			}
			return do()
		})
		for i := range int32(3) {
			w.do(w.Engine, put(key, "v", 0))
			require.EqualValues(t, 1, reads.Load())
			require.Equal(t, i+1, writes.Load(), "no pin was refused")
		}
		require.EqualValues(t, 3, w.get(key).Version)
	})
}

// mentions reports whether a request has a text in it.
func mentions(req proto.Message, text string) bool {
	b, err := proto.Marshal(req)
	return err == nil && bytes.Contains(b, []byte(text))
}

// locks reports whether a request takes a lock.
func locks(req proto.Message) bool {
	txn, _ := req.(*pb.TxnRequest)
	for _, op := range txn.GetSuccess() {
		if inner := op.GetRequestTxn(); inner != nil && locks(inner) {
			return true
		}
		if p := op.GetRequestPut(); p != nil && (record.KindOf(p.Key) == record.Slot || record.KindOf(p.Key) == record.Lock) {
			if _, held, err := record.ParseHolder(p.Value); err == nil && held {
				return true
			}
		}
	}
	return false
}

// meet makes another process put a key in front of each of the next writes that have the text "mine" in them.
func (w *world) meet(other *engine.Engine, key string, times int) (locked *atomic.Bool) {
	locked = &atomic.Bool{}
	w.Gates[0].Set(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if locks(req) {
			locked.Store(true)
		} else if times > 0 && !locked.Load() && mentions(req, "mine") {
			times--
			if _, err := other.Writes.Do(context.Background(), put(key, "theirs", 0)); err != nil {
				return nil, err
			}
		}
		return do()
	})
	return locked
}

// TestARefusedPinLearns: a write that met another one is built again on what it found, and lands behind it.
func TestARefusedPinLearns(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		w.do(w.Engine, put(key, "first", 0))
		locked := w.meet(w.Open(), key, 1)
		rev := w.do(w.Engine, put(key, "mine", 0))
		kv := w.get(key)
		require.Equal(t, "mine", string(kv.Value))
		require.EqualValues(t, 3, kv.Version)
		require.Equal(t, rev, kv.ModRevision)
		require.False(t, locked.Load())
	})
}

// TestLossesLeadToLocks: a write that meets others again and again takes the locks of its keys, and lands.
func TestLossesLeadToLocks(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		w.do(w.Engine, put(key, "first", 0))
		locked := w.meet(w.Open(), key, 100)
		w.do(w.Engine, put(key, "mine", 0))
		kv := w.get(key)
		require.Equal(t, "mine", string(kv.Value))
		require.Less(t, kv.Version, int64(10), "it does not try for long")
		require.True(t, locked.Load())
	})
}

// TestLeasesThatDoNotLive: nothing is attached to a lease that was never granted or has ended, and no stamp is taken for it.
func TestLeasesThatDoNotLive(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		refused := func() {
			_, err := w.Writes.Do(t.Context(), put(key, "v", 7))
			require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseNotFound)
		}
		require.Zero(t, w.stamps(refused))
		_, _, err := w.Leases.Grant(t.Context(), 7, 100)
		require.NoError(t, err)
		w.do(w.Engine, put(key, "v", 7))
		require.EqualValues(t, 7, w.get(key).Lease)
		_, err = w.Leases.Revoke(t.Context(), 7)
		require.NoError(t, err)
		require.Nil(t, w.get(key))
		require.Zero(t, w.stamps(refused))
	})
}

// TestDeleteAttachedInChunks: where the members take few operations, a lease's keys go at several revisions. One that was put since
// it was seen stays.
func TestDeleteAttachedInChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fakemeta.New(t, 2)
		c.MaxTxnOps = 20
		w := &world{fakemeta.World{Cluster: c, Engine: c.Open()}, t}
		var keys []lease.Attached
		for i := range 100 {
			key := fmt.Sprintf("%s%03d", w.Key(0, 0), i)
			keys = append(keys, lease.Attached{Key: []byte(key), Rev: w.do(w.Engine, put(key, "v", 0))})
		}
		kept := string(keys[50].Key)
		before := w.do(w.Engine, put(kept, "again", 0))
		last, err := w.Writes.DeleteAttached(t.Context(), keys)
		require.NoError(t, err)
		counts := map[int64]bool{} // of what was left
		for rev := before; rev <= last; rev++ {
			at, err := w.Reads.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Revision: rev})
			require.NoError(t, err)
			counts[at.Count] = true
		}
		require.Len(t, counts, 3, "two steps: %v", counts)
		left, err := w.Reads.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		require.NoError(t, err)
		require.Len(t, left.Kvs, 1)
		require.Equal(t, kept, string(left.Kvs[0].Key))
		require.Equal(t, last, left.Header.Revision)
	})
}

// TestARefusedSwapIsAnsweredByItsStamp: what a refused attempt has found to fail is answered at a revision that covers its stamp, and
// the clock is not asked for another one.
func TestARefusedSwapIsAnsweredByItsStamp(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		key := w.Key(0, 0)
		rev := w.do(w.Engine, put(key, "first", 0))
		other := w.Open()
		var reads atomic.Int32
		met, theirs := false, int64(0)
		w.Gates[0].Set(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
			if !met && mentions(req, "mine") {
				met = true
				theirs = w.do(other, put(key, "theirs", 0))
				w.Cluster.Clock.Set(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
					if !etcdfake.Writes(req) {
						reads.Add(1)
					}
					return do()
				})
			}
			return do()
		})
		swap := put(key, "mine", 0)
		swap.Compare = []*pb.Compare{request.ModIs([]byte(key), rev)}
		swap.Failure = []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: []byte(key)})}
		resp, err := w.Writes.Do(t.Context(), swap)
		require.NoError(t, err)
		require.True(t, met)
		require.False(t, resp.Succeeded)
		require.GreaterOrEqual(t, resp.Header.Revision, theirs)
		require.Equal(t, "theirs", string(resp.Responses[0].GetResponseRange().Kvs[0].Value))
		require.Zero(t, reads.Load(), "the clock was read")
		w.Cluster.Clock.Set(nil)
		require.Equal(t, "theirs", string(w.get(key).Value))
	})
}
