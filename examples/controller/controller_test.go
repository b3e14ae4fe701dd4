package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

const (
	prefix  = "/test/"
	settled = 2 * time.Minute
)

// store is a plain etcd or a meta cluster: every test runs on both.
type store interface {
	clientv3.KV
	clientv3.Watcher
}

func onBoth(t *testing.T, f func(t *testing.T, s store)) {
	t.Run("plain", func(t *testing.T) { f(t, metaetcdtest.Plain(t, metaetcdtest.WithUnsafeNoFsync()).Client(t)) })
	t.Run("meta", func(t *testing.T) { f(t, metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync()).Client(t)) })
}

// start runs a controller until the returned function is called, or the test ends.
func start(t *testing.T, c *Controller) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var stopped bool
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
		}
	}
	t.Cleanup(stop)
	return stop
}

func want(t *testing.T, s store, app, count string) int64 {
	t.Helper()
	resp, err := s.Put(t.Context(), prefix+specs+app, count)
	require.NoError(t, err)
	return resp.Header.Revision
}

// instancesBecome waits until the app has exactly these instances, and a status that says so.
func instancesBecome(t *testing.T, s store, app string, names ...string) {
	t.Helper()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		resp, err := s.Get(context.Background(), prefix+instances+app+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		require.NoError(t, err)
		var got []string
		for _, kv := range resp.Kvs {
			got = append(got, strings.TrimPrefix(string(kv.Key), prefix+instances+app+"/"))
		}
		require.Equal(t, names, got)
		spec, err := s.Get(context.Background(), prefix+specs+app)
		require.NoError(t, err)
		status, err := s.Get(context.Background(), prefix+statuses+app)
		require.NoError(t, err)
		require.Len(t, status.Kvs, len(spec.Kvs))
		if len(spec.Kvs) > 0 {
			require.GreaterOrEqual(t, status.Kvs[0].ModRevision, spec.Kvs[0].ModRevision)
		}
	}, settled, 20*time.Millisecond)
}

func newController(s store) *Controller { return NewController(s, s, prefix, zap.NewNop()) }

func TestInstancesFollowTheSpec(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		want(t, s, "web", "3") // there before the controller
		start(t, newController(s))
		instancesBecome(t, s, "web", "0", "1", "2")

		want(t, s, "web", "1")
		want(t, s, "db", "2")
		instancesBecome(t, s, "web", "0")
		instancesBecome(t, s, "db", "0", "1")

		_, err := s.Delete(t.Context(), prefix+instances+"db/0") // somebody meddles
		require.NoError(t, err)
		instancesBecome(t, s, "db", "0", "1")

		_, err = s.Delete(t.Context(), prefix+specs+"db")
		require.NoError(t, err)
		instancesBecome(t, s, "db")
	})
}

func TestControllersInEachOthersWay(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		for range 3 {
			start(t, newController(s))
		}
		for _, count := range []string{"9", "2", "6", "0", "3"} {
			want(t, s, "web", count)
		}
		instancesBecome(t, s, "web", "0", "1", "2")
	})
}

func TestCompactionOvertakesTheWatch(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		core, logs := observer.New(zap.InfoLevel)
		c := NewController(s, s, prefix, zap.New(core))
		want(t, s, "web", "1")
		stop := start(t, c)
		instancesBecome(t, s, "web", "0")
		stop()

		missed := want(t, s, "web", "3")
		latest := want(t, s, "web", "2")
		require.LessOrEqual(t, c.next, missed)
		_, err := s.Compact(t.Context(), latest)
		require.NoError(t, err)

		stop = start(t, c)
		instancesBecome(t, s, "web", "0", "1")
		stop()
		require.Len(t, logs.FilterMessage("listed").All(), 2)
		require.Greater(t, c.next, latest)
	})
}

func TestInterruptedWatchIsResumed(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		core, logs := observer.New(zap.InfoLevel)
		c := NewController(s, s, prefix, zap.New(core))
		want(t, s, "web", "3")
		stop := start(t, c)
		instancesBecome(t, s, "web", "0", "1", "2")
		stop()
		want(t, s, "web", "1")
		start(t, c)
		instancesBecome(t, s, "web", "0")
		require.Len(t, logs.FilterMessage("listed").All(), 1, "the watch went on without a list")
	})
}

func TestSpecsThatAreNotUnderstoodAreLeftAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, s store) {
		want(t, s, "web", "2")
		start(t, newController(s))
		instancesBecome(t, s, "web", "0", "1")
		want(t, s, "web", "many")
		want(t, s, "db", "1")
		instancesBecome(t, s, "db", "0")
		resp, err := s.Get(t.Context(), prefix+instances+"web/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		require.EqualValues(t, 2, resp.Count)
	})
}
