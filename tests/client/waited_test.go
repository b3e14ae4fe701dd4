package client

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// receipts counts the bytes of messages that come from the servers.
type receipts struct{ bytes atomic.Int64 }

func (*receipts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*receipts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*receipts) HandleConn(context.Context, stats.ConnStats)                       {}

func (r *receipts) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		r.bytes.Add(int64(in.WireLength))
	}
}

// TestWhatHasWaitedIsNotReadAgain: after a member was away, watchers get what waited for it. As long as it fits, no member is asked for it
// again, though it is more than the log keeps otherwise; beyond that the memory is bounded, and nothing is lost all the same.
func TestWhatHasWaitedIsNotReadAgain(t *testing.T) {
	t.Parallel()
	const logBytes, valueBytes, few = 256 << 10, 1 << 10, 10
	for name, tc := range map[string]struct {
		writes int
		fits   bool
	}{"fits": {180, true}, "does not fit": {500, false}} {
		t.Run(name, func(t *testing.T) {
			var received receipts
			cluster := newCluster(t, 2)
			cfg := counting(t, cluster, &received)
			cfg.LogBytes = logBytes
			cli, reg := measured(t, cfg)
			metric := func(name string) int64 { return int64(value(t, reg, name)) }
			writer := open(t, cluster.DirectConfig())
			key, dead := keyOn(t, cluster, 0, "k"), keyOn(t, cluster, 1, "k")
			content := strings.Repeat("v", valueBytes)
			put(t, writer, key, content)
			base := put(t, cli, dead, "before") // its state is known then: the next one is sent at once
			const watchers = 20
			var watches []clientv3.WatchChan
			for i := range watchers {
				opts := []clientv3.OpOption{clientv3.WithCreatedNotify(), clientv3.WithRev(base + 1)}
				if i%2 == 0 {
					opts = append(opts, clientv3.WithPrefix())
				}
				w := cli.Watch(t.Context(), key, opts...)
				takeResponse(t, w)
				watches = append(watches, w)
			}

			cluster.Members[1].Cut() // for the counted client: the other one goes around it
			var landing sync.WaitGroup
			landing.Go(func() {
				_, err := cli.Put(within(t, patience), dead, "held up")
				require.NoError(t, err)
			})
			require.Eventually(t, func() bool { // its stamp is missing
				put(t, writer, key, content)
				return metric("metaetcd_pending_stamps") > few
			}, patience, tick)
			waited := int(metric("metaetcd_pending_stamps"))
			for range tc.writes {
				put(t, writer, key, content)
				waiting := metric("metaetcd_waiting_bytes")
				require.LessOrEqual(t, waiting, int64(2*logBytes))
				require.LessOrEqual(t, waiting+metric("metaetcd_log_bytes"), int64(3*logBytes))
			}
			last := put(t, writer, key, "last")
			require.Eventually(t, func() bool { return metric("metaetcd_pending_stamps") >= int64(waited+tc.writes) }, patience, tick)
			before := received.bytes.Load()
			cluster.Members[1].Heal()
			landing.Wait()

			var want []int64
			for i, w := range watches {
				var got []int64
				for len(got) == 0 || got[len(got)-1] < last {
					resp := takeResponse(t, w)
					require.NoError(t, resp.Err())
					for _, ev := range resp.Events {
						got = append(got, ev.Kv.ModRevision)
						require.LessOrEqual(t, ev.Kv.ModRevision, last)
					}
				}
				if i == 0 {
					want = got
				}
				require.Equal(t, want, got)
			}
			require.Greater(t, len(want), tc.writes)
			if again := received.bytes.Load() - before; tc.fits {
				require.Less(t, again, int64(tc.writes*valueBytes/4), "it was read again")
			}
		})
	}
}

// counting is a configuration whose clients count what they receive.
func counting(t *testing.T, cluster *metaetcdtest.Cluster, r *receipts) metaetcd.Config {
	t.Helper()
	cfg := cluster.Config()
	for i, m := range cluster.Members {
		cli, err := clientv3.New(clientv3.Config{
			Endpoints: m.Endpoints(), Logger: zap.NewNop(),
			DialOptions: []grpc.DialOption{grpc.WithStatsHandler(r)},
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = cli.Close() })
		cfg.Members[i].Client = cli
	}
	return cfg
}
