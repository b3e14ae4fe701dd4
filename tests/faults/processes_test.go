package faults

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// serverFault is what happens to one of several servers that are processes.
type serverFault struct {
	name       string
	leader     bool
	begin, end func(n *metaetcdtest.Node, i int)
}

var serverFaults = []serverFault{
	{"the leader is killed", true, (*metaetcdtest.Node).KillServer, (*metaetcdtest.Node).StartServer},
	{"the leader is frozen", true, (*metaetcdtest.Node).FreezeServer, (*metaetcdtest.Node).ThawServer},
	{"a follower is frozen", false, (*metaetcdtest.Node).FreezeServer, (*metaetcdtest.Node).ThawServer},
}

// strike lets a fault happen to a node for a while.
func (f serverFault) strike(t *testing.T, n *metaetcdtest.Node) (server int) {
	t.Helper()
	leader := -1
	require.Eventually(t, func() bool { leader = n.Leader(); return leader >= 0 }, workload.Patience, 10*time.Millisecond)
	server = leader
	if !f.leader {
		server = (leader + 1) % len(n.Endpoints())
	}
	f.begin(n, server)
	return server
}

// stalls are what requests of a few kinds, each kind one after the other, take at most.
type stalls struct {
	mu     sync.Mutex
	worst  map[string]time.Duration // of those that were answered
	gap    map[string]time.Duration // between answers
	failed map[string]int
	took   []time.Duration // what answers took, in all
}

// reset forgets what was.
func (s *stalls) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worst, s.gap, s.failed = map[string]time.Duration{}, map[string]time.Duration{}, map[string]int{}
}

func (s *stalls) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := ""
	for _, kind := range []string{"put", "get", "list"} {
		text += fmt.Sprintf("; %s: worst %s, without an answer %s, %d failed", kind, s.worst[kind].Round(time.Millisecond), s.gap[kind].Round(time.Millisecond), s.failed[kind])
	}
	return text[2:]
}

// requireShort requires that nothing failed, and that answers came, at the latest, after a time.
func (s *stalls) requireShort(t *testing.T, bound time.Duration) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.failed)
	for kind, gap := range s.gap {
		require.Less(t, gap, bound, kind)
	}
}

// usual is what an answer takes most often.
func (s *stalls) usual() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return median(s.took)
}

// stalling makes requests of each kind. Each has a time of its own, or as long as it takes.
func stalling(t *testing.T, kv clientv3.KV, each time.Duration) *stalls {
	s := &stalls{}
	s.reset()
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for kind, request := range map[string]func(ctx context.Context, n int) error{
		"put":  func(ctx context.Context, n int) error { _, err := kv.Put(ctx, fmt.Sprint("k", n%20), "v"); return err },
		"get":  func(ctx context.Context, n int) error { _, err := kv.Get(ctx, fmt.Sprint("k", n%20)); return err },
		"list": func(ctx context.Context, _ int) error { _, err := kv.Get(ctx, "k", clientv3.WithPrefix()); return err },
	} {
		workers.Go(func() {
			answered := time.Now()
			for n := 0; ctx.Err() == nil; n++ {
				once, end := context.WithTimeout(ctx, each)
				begun := time.Now()
				err := request(once, n)
				end()
				if ctx.Err() != nil {
					break
				}
				now := time.Now()
				s.mu.Lock()
				if err != nil {
					s.failed[kind]++
				} else {
					s.worst[kind] = max(s.worst[kind], now.Sub(begun))
					s.gap[kind] = max(s.gap[kind], now.Sub(answered))
					s.took = append(s.took, now.Sub(begun))
					answered = now
				}
				s.mu.Unlock()
				time.Sleep(pace)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		workers.Wait()
	})
	return s
}

// stallBound is how long requests may be without an answer when a server fails, on a machine that is not slow: an election takes 1 to 2 s,
// and a stream is opened again after 2 s of silence. It is below the 7 s after which etcd answers a proposal that was lost with its leader.
const stallBound = 4 * time.Second

// TestAServerFails: one of the three servers of the coordinator, or of a member, is killed or hangs. Requests wait about as long as
// they would with an etcd, and none fails.
func TestAServerFails(t *testing.T) {
	opts := []metaetcdtest.Option{metaetcdtest.WithUnsafeNoFsync(), metaetcdtest.WithProcesses(), metaetcdtest.WithServers(3)}
	c := metaetcdtest.New(t, 1, append(opts, metaetcdtest.WithCoordinatorServers(3))...)
	plain := metaetcdtest.Plain(t, opts...)
	ours, theirs := stalling(t, c.Client(t), workload.Patience), stalling(t, plain.Client(t), 5*time.Second)
	lasts := 6 * time.Second
	if long() {
		lasts = 20 * time.Second
	}
	for _, node := range c.Nodes() {
		for _, f := range serverFaults {
			for round := range rounds(1) {
				time.Sleep(2 * time.Second)
				ours.reset()
				theirs.reset()
				here, there := f.strike(t, node), f.strike(t, plain)
				time.Sleep(lasts)
				f.end(node, here)
				f.end(plain, there)
				time.Sleep(time.Second)
				t.Logf("%s: %s (round %d)\n  metaetcd  %s\n  one etcd  %s", node.Name(), f.name, round, ours, theirs)
				ours.requireShort(t, stallBound+100*theirs.usual())
			}
		}
	}
}
