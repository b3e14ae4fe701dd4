package feed

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
)

// An operation waits for the locks of its keys' slots, or of any slot if it needs the whole member; not for others, and not for ever.
func TestAwaitUnlocked(t *testing.T) {
	r, err := ring.New([]string{"a"}, 16, ring.Policy{})
	require.NoError(t, err)
	key, other := []byte("k"), []byte("l")
	require.NotEqual(t, r.Slot(key), r.Slot(other))
	for name, tt := range map[string]struct {
		lock  []int // locked slots, or mergedlog.Whole
		whole bool
		frees time.Duration // the locks are given up; 0: never
		free  bool
		after time.Duration
	}{
		"nothing is locked":                   {free: true},
		"another slot is":                     {lock: []int{r.Slot(other)}, free: true},
		"the key's slot is":                   {lock: []int{r.Slot(key)}, frees: time.Second, free: true, after: time.Second},
		"the member is":                       {lock: []int{mergedlog.Whole}, frees: time.Second, free: true, after: time.Second},
		"for too long":                        {lock: []int{r.Slot(key)}, after: MaxPatience},
		"all is needed, and a slot is locked": {lock: []int{r.Slot(other)}, whole: true, frees: MinPatience / 2, free: true, after: MinPatience / 2},
		"all is needed, for too long":         {lock: []int{r.Slot(other)}, whole: true, frees: time.Second, after: MinPatience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := still(t)
				f.Log = mergedlog.New(mergedlog.Config{Members: 1, SlotOf: r.Slot})
				var held []mergedlog.Lock
				for _, slot := range tt.lock {
					held = append(held, mergedlog.Lock{Slot: slot, Held: true, Holder: record.Holder{ID: record.TxnID{1}}})
				}
				f.Log.Open(0, mergedlog.MemberState{Rev: 9, Epoch: 1, Fence: 1, Clock: 1}, held...)
				require.NoError(t, f.Log.Start(1))
				c := NewCurrent(f.cfg.Life, Identity{})
				c.Set(f)
				if tt.frees > 0 {
					end := time.AfterFunc(tt.frees, func() {
						for i, slot := range tt.lock {
							lock := &mvccpb.KeyValue{Key: []byte(record.KeyLock), ModRevision: int64(10 + i)}
							if slot != mergedlog.Whole {
								lock.Key, lock.Value = record.SlotKey(slot), record.Number(1)
							}
							if err := f.Log.Append(0, []mergedlog.MemberRevision{{Rev: lock.ModRevision, Events: []*mvccpb.Event{{Kv: lock}}}}); err != nil {
								t.Error(err)
							}
						}
					})
					defer end.Stop()
				}
				begin := time.Now()
				free, err := c.AwaitUnlocked(t.Context(), r, 0, tt.whole, key)
				require.NoError(t, err)
				require.Equal(t, tt.free, free)
				require.Equal(t, tt.after, time.Since(begin))
				f.Close()
			})
		})
	}
}

// The operation's caller may go, and the process may end: the first is for the operation to find out.
func TestAwaitUnlockedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := ring.New([]string{"a"}, 16, ring.Policy{})
		require.NoError(t, err)
		f := still(t)
		f.Log.Open(0, mergedlog.MemberState{Rev: 9, Epoch: 1}, mergedlog.Lock{Slot: mergedlog.Whole, Held: true})
		c := NewCurrent(f.cfg.Life, Identity{})
		c.Set(f)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		free, err := c.AwaitUnlocked(ctx, r, 0, false, []byte("k"))
		require.NoError(t, err)
		require.False(t, free)
		require.Equal(t, time.Second, time.Since(begin))
		f.cfg.Life.End(lifetime.ErrClosed)
		_, err = c.AwaitUnlocked(t.Context(), r, 0, false, []byte("k"))
		require.ErrorIs(t, err, lifetime.ErrClosed)
		f.Close()
	})
}
