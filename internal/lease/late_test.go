package lease

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/record"
)

// hold holds back the first request that puts the record of a lease until release is closed.
type hold struct{ reached, release chan struct{} }

func newHold() *hold { return &hold{make(chan struct{}), make(chan struct{})} }

func (h *hold) intercept(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
	txn, ok := req.(*pb.TxnRequest)
	if ok && len(txn.Success) == 1 && record.KindOf(txn.Success[0].GetRequestPut().GetKey()) == record.Lease {
		select {
		case <-h.reached:
		default:
			close(h.reached)
			<-h.release
		}
	}
	return do()
}

// TestRecordsThatComeLate: while a process enters the records of a lease, another one revokes it. No record stays when both are done,
// whoever it is that enters them.
func TestRecordsThatComeLate(t *testing.T) {
	for name, tc := range map[string]struct {
		granted bool // before
		enter   func(ctx context.Context, slow *Lessor) (any, error)
		want    any
	}{
		"completed": {true, func(ctx context.Context, slow *Lessor) (any, error) { return slow.Dead(ctx, []int64{7}) }, []int64{7}},
		"granted": {false, func(ctx context.Context, slow *Lessor) (any, error) {
			id, _, err := slow.Grant(ctx, 7, 60)
			return id, err
		}, int64(7)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			h := newHold()
			slow, other := w.open(h.intercept), w.open(nil)
			if tc.granted {
				_, _, err := other.Grant(t.Context(), 7, 60)
				require.NoError(t, err)
			}
			var got any
			var failed error
			done := make(chan struct{})
			go func() {
				defer close(done)
				got, failed = tc.enter(t.Context(), slow)
			}()
			<-h.reached
			_, err := other.Revoke(t.Context(), 7)
			require.NoError(t, err)
			require.Zero(t, w.records(7))
			close(h.release)
			<-done
			require.NoError(t, failed)
			require.Equal(t, tc.want, got)
			require.Equal(t, w.sentinels(), w.records(7), "the records are those of a later grant, or there are none")
			require.NoError(t, other.confirmAll(w))
		})
	}
}

// confirmAll demands the sentinel of every record.
func (l *Lessor) confirmAll(w *world) error {
	living, err := l.living(w.t.Context())
	_, holds := w.Present()
	for id, rec := range living {
		if err == nil {
			err = l.confirm(w.t.Context(), holds, id, rec)
		}
	}
	return err
}

// TestLateRecordIsNoticed: a record whose sentinel has gone is reaped soon after a stream has shown it, and not only when everything is
// compared.
func TestLateRecordIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		l := w.open(nil)
		l.Run()
		id, _, err := l.Grant(t.Context(), 0, 60)
		require.NoError(t, err)
		w.members[1].Watch(func(rev int64, evs []*mvccpb.Event) {
			for _, ev := range evs {
				if record.KindOf(ev.Kv.Key) == record.Lease {
					l.Book().Follow(1, rev, ev.Kv)
				}
			}
		})
		_, _, err = w.open(nil).Grant(t.Context(), 8, 60)
		require.NoError(t, err)
		put(t, w.members[1], string(record.LeaseKey(7)), string(own(1000, 60).Encode()))
		_ = lifetime.Pause(t.Context(), lookSoon+4*reapAfter)
		require.Equal(t, 2, w.records(id))
		require.Equal(t, 2, w.records(8))
		require.Zero(t, w.records(7))
	})
}
