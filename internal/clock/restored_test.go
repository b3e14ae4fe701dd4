package clock_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/clock"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/record"
)

// A coordinator that was restored from a snapshot is not supported, but must not be believed either.
func TestARestoredClockIsThrownAway(t *testing.T) {
	for name, call := range map[string]func(c *clock.Clock) (stamp, epoch int64, err error){
		"Take": func(c *clock.Clock) (int64, int64, error) { return c.Take(within(t), 1) },
		"Read": func(c *clock.Clock) (int64, int64, error) {
			now, epoch, err := c.Read(within(t))
			return now + 1, epoch, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			var highest atomic.Int64
			core, logged := observer.New(zap.ErrorLevel)
			cfg := w.config(nil)
			cfg.Highest, cfg.Logger = highest.Load, zap.New(core)
			c := w.openConfig(cfg)
			saved := w.coordinator.Save()
			first, epoch, err := c.Take(within(t), 100)
			require.NoError(t, err)
			require.True(t, w.land(0, epoch, first+99))
			highest.Store(first + 99)
			w.coordinator.Restore(saved)

			stamp, epoch, err := call(c)
			require.NoError(t, err)
			require.Equal(t, first+100, stamp)
			require.EqualValues(t, 2, epoch)
			require.Equal(t, 1, logged.Len())
		})
	}
}

func TestARestoredEpochIsThrownAway(t *testing.T) {
	w := newWorld(t, 1)
	idle := w.open(nil)
	c := w.open(nil)
	saved := w.coordinator.Save()
	w.coordinator.Wipe()
	_, epoch, err := c.Take(within(t), 1)
	require.NoError(t, err)
	require.EqualValues(t, 2, epoch)

	t.Run("by a process that knows better", func(t *testing.T) {
		w.coordinator.Restore(saved)
		_, epoch, err := c.Take(within(t), 1)
		require.NoError(t, err)
		require.EqualValues(t, 3, epoch)
	})
	t.Run("by a process that a member has told so", func(t *testing.T) {
		w.coordinator.Restore(saved)
		_, epoch, err := idle.Take(within(t), 1)
		require.NoError(t, err)
		require.EqualValues(t, 1, epoch)
		epoch, err = idle.Sync(within(t))
		require.NoError(t, err)
		require.EqualValues(t, 4, epoch)
	})
	t.Run("by a new process", func(t *testing.T) {
		w.coordinator.Restore(saved)
		require.EqualValues(t, 5, w.open(nil).Epoch())
	})
}

// A snapshot from the middle of a rebuild holds a claim that is out of date.
func TestARestoredClaimIsThrownAway(t *testing.T) {
	w := newWorld(t, 1)
	var before []etcdfake.Snapshot // of the coordinator, before each write anywhere
	w.open(func(_ context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
		if etcdfake.Writes(req) {
			before = append(before, w.coordinator.Save())
		}
		return do()
	})
	c := w.open(nil)
	for range 2 {
		w.coordinator.Wipe()
		_, _, err := c.Take(within(t), 1)
		require.NoError(t, err)
	}
	require.EqualValues(t, 3, c.Epoch())
	for i, saved := range before {
		w.coordinator.Restore(saved)
		_, epoch, err := c.Take(within(t), 1)
		require.NoError(t, err)
		require.EqualValues(t, 4+i, epoch)
	}
}

func TestADamagedClockIsThrownAway(t *testing.T) {
	w := newWorld(t, 1)
	c := w.open(nil)
	for i, call := range []func(context.Context) (int64, int64, error){
		c.Read,
		func(ctx context.Context) (int64, int64, error) { return c.Take(ctx, 1) },
	} {
		keys := w.coordinator.Keys()
		_, err := w.coordinator.Client(nil).DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(keys[3])})
		require.NoError(t, err)
		_, epoch, err := call(within(t))
		require.NoError(t, err)
		require.EqualValues(t, 2+i, epoch)
	}
}

// TestRestoreComesBeforeTheClock: what else is kept on the coordinator is restored when the members have left the old epoch, and
// before anybody can find the new one; and only on the life of the coordinator that it was meant for.
func TestRestoreComesBeforeTheClock(t *testing.T) {
	w := newWorld(t, 2)
	coordinator := w.coordinator.Client(nil)
	key := clock.Prefix + "restored"
	restores := 0
	wipe := false
	cfg := w.config(nil)
	cfg.Restore = func(ctx context.Context, life []*pb.Compare) error {
		restores++
		for i := range w.members {
			resp, err := w.members[i].Client(nil).Range(ctx, &pb.RangeRequest{Key: []byte(record.KeyFence)})
			require.NoError(t, err)
			epoch, _, err := record.ParsePair(resp.Kvs[0].Value)
			require.NoError(t, err)
			require.NotZero(t, epoch)
		}
		there, err := clock.Inspect(ctx, coordinator, 0)
		require.NoError(t, err)
		require.NotZero(t, there.Cluster)
		resp, err := coordinator.Range(ctx, &pb.RangeRequest{Key: []byte(clock.Prefix + "clock/epoch")})
		require.NoError(t, err)
		require.Empty(t, resp.Kvs, "there is a clock already")
		if wipe {
			wipe = false
			w.coordinator.Wipe()
		}
		put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
		txn, err := coordinator.Txn(ctx, &pb.TxnRequest{Compare: life, Success: []*pb.RequestOp{put}})
		require.NoError(t, err)
		if !txn.Succeeded {
			return fmt.Errorf("another life")
		}
		return nil
	}
	c := w.openConfig(cfg)
	require.Equal(t, 1, restores)
	epoch, holds := c.Present()
	require.EqualValues(t, 1, epoch)
	wipe = true
	w.coordinator.Wipe()
	_, after, err := c.Read(within(t))
	require.NoError(t, err)
	require.Greater(t, after, epoch)
	require.Equal(t, 3, restores, "the first one was for a life that had ended")
	resp, err := coordinator.Range(t.Context(), &pb.RangeRequest{Key: []byte(key)})
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	txn, err := coordinator.Txn(t.Context(), &pb.TxnRequest{Compare: holds})
	require.NoError(t, err)
	require.False(t, txn.Succeeded, "the epoch has ended")
	_, holds = c.Present()
	txn, err = coordinator.Txn(t.Context(), &pb.TxnRequest{Compare: holds})
	require.NoError(t, err)
	require.True(t, txn.Succeeded)
}

// TestALateRestoreChangesNothing: of two processes that rebuild at once, the slower one does not restore what may have ended since the
// other one created the clock.
func TestALateRestoreChangesNothing(t *testing.T) {
	w := newWorld(t, 2)
	coordinator := w.coordinator.Client(nil)
	key := clock.Prefix + "restored"
	late, begun, goOn := errors.New("too late"), make(chan struct{}), make(chan struct{})
	cfg := w.config(nil)
	cfg.Restore = func(ctx context.Context, life []*pb.Compare) error {
		close(begun) // once: there is a clock afterwards
		<-goOn
		put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
		txn, err := coordinator.Txn(ctx, &pb.TxnRequest{Compare: life, Success: []*pb.RequestOp{put}})
		if err == nil && !txn.Succeeded {
			err = late
		}
		return err
	}
	slow := clock.New(cfg)
	t.Cleanup(slow.Close)
	opened := make(chan error, 1)
	go func() { opened <- slow.Open(within(t)) }()
	<-begun
	fast := w.open(nil)
	close(goOn)
	require.NoError(t, <-opened)
	require.NotContains(t, w.coordinator.Keys(), key)
	require.Equal(t, fast.Epoch(), slow.Epoch())
}
