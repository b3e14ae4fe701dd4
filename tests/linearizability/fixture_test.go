package linearizability

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
	"github.com/metaetcd/metaetcd/metaetcdtest"
)

const (
	members   = 3
	processes = 4
	routines  = 3 // of each process

	// patience bounds a request that nobody gives up, and a check.
	patience = 2 * time.Minute
	// hasty: one request in so many is given up after a moment, at most hastiest.
	hasty    = 80
	hastiest = 8 * time.Millisecond
	// far is how much later the requests of one process arrive at the members than those of the others.
	far = time.Millisecond
)

// open starts the servers of a meta cluster and its processes.
func open(t *testing.T, sharding metaetcd.Sharding) (*metaetcdtest.Cluster, []*metaetcd.Client) {
	t.Helper()
	cluster := metaetcdtest.New(t, members, metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithSharding(sharding))
	for _, m := range cluster.Members {
		m.Delay(far)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var clients []*metaetcd.Client
	for i := range processes {
		cfg := cluster.DirectConfig()
		if i == 0 {
			cfg = cluster.Config()
		}
		cli, err := metaetcd.New(ctx, cfg)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, cli.Close()) })
		clients = append(clients, cli)
	}
	return cluster, clients
}

// user makes requests, one after the other. An error of a request whose context has ended leaves its outcome unknown.
type user interface {
	request(ctx context.Context, kv clientv3.KV, rng *rand.Rand) (input, output any, err error)
}

// unknown is the output of a request of unknown outcome.
type unknown struct{}

// never is the time of an answer that did not come.
const never = math.MaxInt64

// drive lets users make n requests each, at the same time, and returns the history.
func drive(t *testing.T, clients []*metaetcd.Client, n int, join func() user) []porcupine.Operation {
	t.Helper()
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	start := time.Now()
	for i := range processes * routines {
		u := join()
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))
			for range n {
				ctx, cancel := context.WithTimeout(t.Context(), limit(rng))
				op := porcupine.Operation{ClientId: i, Call: time.Since(start).Nanoseconds()}
				var err error
				op.Input, op.Output, err = u.request(ctx, clients[i%processes], rng)
				op.Return = time.Since(start).Nanoseconds()
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("%+v: %v", op.Input, err)
					}
					op.Output, op.Return = unknown{}, never
				}
				cancel()
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	lost := 0
	for _, op := range history {
		if op.Return == never {
			lost++
		}
	}
	t.Logf("%d requests in %s, %d of unknown outcome", len(history), time.Since(start), lost)
	return history
}

func limit(rng *rand.Rand) time.Duration {
	if rng.IntN(hasty) == 0 {
		return time.Duration(rng.Int64N(int64(hastiest)))
	}
	return patience
}

// check fails the test unless the history is linearizable, and then leaves a picture of it.
func check(t *testing.T, model porcupine.Model, history []porcupine.Operation) {
	t.Helper()
	start := time.Now()
	result, info := porcupine.CheckOperationsVerbose(model, history, patience)
	t.Logf("%d requests: %s in %s", len(history), result, time.Since(start))
	if result == porcupine.Ok {
		return
	}
	path := filepath.Join(os.TempDir(), "metaetcd-"+t.Name()+".html")
	require.NoError(t, porcupine.VisualizePath(model, info, path))
	t.Fatalf("the history is not linearizable: see %s", path)
}
