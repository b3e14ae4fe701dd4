package feed

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// What became of a write that was under way while no feed looked is found in the member's past; where that is compacted, in what is left
// of it.
func TestRecall(t *testing.T) {
	const key = "k"
	for name, tt := range map[string]struct {
		lands, again bool // it lands; then another write of the key does
		compact      bool // the member is compacted at what it has come to then
		want         mergedlog.OutcomeKind
		err          error
	}{
		"it has landed": {lands: true, want: mergedlog.Landed},
		"it has landed, and the key was put again": {lands: true, again: true, want: mergedlog.Landed},
		"it never does":                             {want: mergedlog.Dead},
		"never, and another one of the key has":     {again: true, want: mergedlog.Dead},
		"compacted: the key still shows it":         {lands: true, compact: true, want: mergedlog.Landed},
		"compacted: the key does not tell any more": {lands: true, again: true, compact: true, err: mergedlog.ErrForgotten},
		"compacted: it cannot have come":            {compact: true, want: mergedlog.Dead},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.members[0]
				s.KeepHistory()
				f := w.open()
				stamp, epoch, err := w.cfg.Clock.Take(t.Context(), 1)
				require.NoError(t, err)
				ops := landing(key, epoch, stamp)
				w.cfg.Doubts.Track(0, epoch, mergedlog.Sent{Stamp: stamp, Txn: &pb.TxnRequest{Success: ops}})
				defer w.cfg.Doubts.Untrack(0, epoch, stamp)
				f.Close()

				if tt.lands {
					w.txn(0, ops...)
				}
				if tt.again {
					w.write(0, key)
				}
				if tt.compact {
					w.txn(0, request.Put(&pb.PutRequest{Key: []byte(record.KeyLock)})) // what says nothing of stamps
					_, err := s.Client(nil).Compact(t.Context(), &pb.CompactionRequest{Revision: s.Revision()})
					require.NoError(t, err)
					w.streams[0].breakOff(s.Revision())
				}
				w.open()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				out, err := w.cfg.Doubts.Outcome(ctx, 0, epoch, stamp)
				require.ErrorIs(t, err, tt.err)
				require.Equal(t, tt.want, out.Kind)
			})
		})
	}
}
