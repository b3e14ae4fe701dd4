package recipes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/metaetcd/metaetcd"
)

func TestMutex(t *testing.T) {
	t.Parallel()
	ps := start(t, 2, metaetcd.Sharding{})
	a, b := session(t, ps[0]), session(t, ps[1])
	ma, mb := concurrency.NewMutex(a, "lock"), concurrency.NewMutex(b, "lock")
	require.NoError(t, ma.Lock(ctx(t)))
	require.Equal(t, concurrency.ErrLocked, mb.TryLock(ctx(t)))
	owner, err := ps[1].Txn(ctx(t)).If(ma.IsOwner()).Commit()
	require.NoError(t, err)
	require.True(t, owner.Succeeded)

	// Whoever has waited longest is next.
	order := make(chan int, 3)
	for i := range 3 {
		m := concurrency.NewMutex(session(t, ps[i%2]), "lock")
		go func() {
			if m.Lock(context.WithoutCancel(t.Context())) == nil {
				order <- i
				_ = m.Unlock(context.WithoutCancel(t.Context()))
			}
		}()
		require.Eventually(t, func() bool {
			resp, err := ps[0].Get(t.Context(), "lock/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			return err == nil && resp.Count == int64(2+i)
		}, patience, time.Millisecond)
	}
	require.NoError(t, ma.Unlock(ctx(t)))
	for i := range 3 {
		require.Equal(t, i, <-order)
	}
	within(t, "TryLock of a free mutex", func() error {
		for {
			if err := mb.TryLock(t.Context()); !errors.Is(err, concurrency.ErrLocked) {
				return err
			}
		}
	})
	require.NoError(t, b.Close(), "the session's end frees the mutex")
	require.NoError(t, ma.Lock(ctx(t)))
}

func TestElection(t *testing.T) {
	t.Parallel()
	ps := start(t, 3, metaetcd.Sharding{})
	a, b := session(t, ps[0]), session(t, ps[1])
	ea, eb, observer := concurrency.NewElection(a, "leader"), concurrency.NewElection(b, "leader"), concurrency.NewElection(session(t, ps[2]), "leader")
	_, err := observer.Leader(ctx(t))
	require.Equal(t, concurrency.ErrElectionNoLeader, err)
	watching, cancel := context.WithCancel(ctx(t))
	defer cancel()
	seen := observer.Observe(watching)
	next := func() string {
		select {
		case resp := <-seen:
			require.NotNil(t, resp)
			return string(resp.Kvs[0].Value)
		case <-time.After(patience):
			require.FailNow(t, "the observer sees nothing")
			return ""
		}
	}
	require.NoError(t, ea.Campaign(ctx(t), "a"))
	require.Equal(t, "a", next())
	elected := make(chan error, 1)
	go func() { elected <- eb.Campaign(context.WithoutCancel(t.Context()), "b") }()
	require.NoError(t, ea.Proclaim(ctx(t), "a2"))
	require.Equal(t, "a2", next())
	require.NoError(t, ea.Resign(ctx(t)))
	require.NoError(t, <-elected)
	require.Equal(t, "b", next())
	require.Equal(t, concurrency.ErrElectionNotLeader, ea.Proclaim(ctx(t), "a3"))
	resumed := concurrency.ResumeElection(b, "leader", eb.Key(), eb.Rev())
	require.NoError(t, resumed.Proclaim(ctx(t), "b2"))
	require.Equal(t, "b2", next())

	// Nobody keeps the leader's session alive any more.
	go func() { elected <- ea.Campaign(context.WithoutCancel(t.Context()), "a4") }()
	b.Orphan()
	require.NoError(t, <-elected)
	require.Equal(t, "a4", next())
	cancel()
	for range seen { // ends with its context
	}
}

// TestSTM: transfers between accounts keep their sum, at every isolation that promises it.
func TestSTM(t *testing.T) {
	t.Parallel()
	for name, sharding := range map[string]metaetcd.Sharding{"one member": together, "members": {}} {
		for _, iso := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
			t.Run(fmt.Sprintf("%s/%d", name, iso), func(t *testing.T) {
				t.Parallel()
				transfer(t, start(t, 3, sharding), iso)
			})
		}
	}
}

func transfer(t *testing.T, ps []*process, iso concurrency.Isolation) {
	const accounts, each, transfers = 5, 100, 25
	account := func(i int) string { return fmt.Sprintf("bank/%d", i) }
	for i := range accounts {
		_, err := ps[0].Put(ctx(t), account(i), strconv.Itoa(each))
		require.NoError(t, err)
	}
	for _, p := range ps { // RepeatableReads reads serializably, which may be behind
		_, err := p.Get(ctx(t), account(0))
		require.NoError(t, err)
	}
	var g errgroup.Group
	for i := range 6 {
		g.Go(func() error {
			for range transfers {
				from, to := account(rand.IntN(accounts)), account(rand.IntN(accounts))
				move := func(s concurrency.STM) error {
					if from == to {
						return nil
					}
					a, err := strconv.Atoi(s.Get(from))
					if err != nil {
						return err
					}
					b, err := strconv.Atoi(s.Get(to))
					if err != nil {
						return err
					}
					n := min(a, rand.IntN(20))
					s.Put(from, strconv.Itoa(a-n))
					s.Put(to, strconv.Itoa(b+n))
					return nil
				}
				if _, err := concurrency.NewSTM(ps[i%len(ps)].Client, move, concurrency.WithIsolation(iso), concurrency.WithAbortContext(t.Context())); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	resp, err := ps[1].Get(ctx(t), "bank/", clientv3.WithPrefix())
	require.NoError(t, err)
	sum := 0
	for _, kv := range resp.Kvs {
		n, err := strconv.Atoi(string(kv.Value))
		require.NoError(t, err)
		sum += n
	}
	require.Equal(t, accounts*each, sum)
}
