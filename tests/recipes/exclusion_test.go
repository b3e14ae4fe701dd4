package recipes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/metaetcd/metaetcd/tests/internal/rig"
)

const (
	exclusive = "m/lock"
	counter   = "m/counter" // on the same member
)

// exclusion watches over a lock.
type exclusion struct {
	holders  atomic.Int32 // at present
	orphaned atomic.Bool  // the one that had it last went away with it

	held      atomic.Int32 // how often by somebody who counts
	ended     atomic.Int32 // sessions that were left to run out
	killed    atomic.Int32 // processes, with the lock in their hands
	inherited atomic.Int32 // how often it came free because a lease had ended
}

// enter is called by who has got the lock.
func (x *exclusion) enter() error {
	if n := x.holders.Add(1); n > 1 {
		return fmt.Errorf("%d holders at once", n)
	}
	if x.orphaned.Swap(false) {
		x.inherited.Add(1)
	}
	return nil
}

// leave is called by who is about to give the lock back, or to go away with it.
func (x *exclusion) leave(withIt bool) {
	x.holders.Add(-1)
	x.orphaned.Store(withIt)
}

// TestMutualExclusion: many holders, some of which go away with the lock: sessions that nobody keeps alive any more, and processes
// that are killed. There is never more than one holder, each of their writes is under the lock, and the lock of one that went away
// comes free.
func TestMutualExclusion(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, together)
	ps, servers := startOn(t, cluster, 3), serversOf(cluster, together)
	var x exclusion
	end, cancel := context.WithTimeout(t.Context(), 4*ttl*time.Second)
	defer cancel()
	var g errgroup.Group
	for i := range 9 {
		g.Go(func() error {
			for end.Err() == nil {
				if err := x.oneSession(end, ps[i%3].Client); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for end.Err() == nil {
			if err := x.oneProcess(servers); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, g.Wait())
	t.Logf("held %d times; %d sessions were left to run out, and %d processes were killed; the lock of one that had gone came free %d times",
		x.held.Load(), x.ended.Load(), x.killed.Load(), x.inherited.Load())
	require.NotZero(t, x.inherited.Load(), "this test shows less than it should")
	resp, err := ps[0].Get(ctx(t), counter)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(x.held.Load()), string(resp.Kvs[0].Value))
}

// oneSession holds the lock a few times, and leaves its session to run out, with the lock or without.
func (x *exclusion) oneSession(end context.Context, cli *clientv3.Client) error {
	s, err := concurrency.NewSession(cli, concurrency.WithTTL(ttl))
	if err != nil {
		return err
	}
	defer s.Orphan() // after the end it may have the lock, and not know
	m := concurrency.NewMutex(s, exclusive)
	for n := 1 + rand.IntN(8); n > 0; n-- {
		err := m.Lock(end)
		if end.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := x.enter(); err != nil {
			return err
		}
		x.held.Add(1)
		if err := increment(cli, m); err != nil {
			return err
		}
		withIt := n == 1 && rand.IntN(3) == 0
		x.leave(withIt)
		if withIt {
			break
		}
		if err := m.Unlock(context.WithoutCancel(end)); err != nil {
			return err
		}
	}
	x.ended.Add(1)
	return nil
}

// oneProcess lets a process take the lock, and kills it.
func (x *exclusion) oneProcess(servers rig.Target) error {
	p, err := rig.Spawn(holderRole, holding{Servers: servers, Lock: exclusive})
	if err != nil {
		return err
	}
	if err := x.enter(); err != nil {
		return errors.Join(err, p.Kill())
	}
	time.Sleep(rand.N(100 * time.Millisecond))
	x.leave(true)
	x.killed.Add(1)
	return p.Kill()
}

// increment raises a counter, if the lock is still held: what it reads, nobody else has changed meanwhile.
func increment(cli *clientv3.Client, m *concurrency.Mutex) error {
	resp, err := cli.Get(context.Background(), counter)
	if err != nil {
		return err
	}
	n := 0
	if len(resp.Kvs) > 0 {
		if n, err = strconv.Atoi(string(resp.Kvs[0].Value)); err != nil {
			return err
		}
	}
	txn, err := cli.Txn(context.Background()).If(m.IsOwner()).Then(clientv3.OpPut(counter, strconv.Itoa(n+1))).Commit()
	if err == nil && !txn.Succeeded {
		err = errors.New("the lock was lost while its session lived")
	}
	return err
}
