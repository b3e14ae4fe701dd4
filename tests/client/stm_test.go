package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// An stmLevel is an isolation level, and what it promises.
type stmLevel struct {
	level     concurrency.Isolation
	name      string
	snapshots bool // all reads of one attempt are of one revision
	repeats   bool // what was read is so when the writes happen
}

var stmLevels = []stmLevel{
	{concurrency.SerializableSnapshot, "SerializableSnapshot", true, true},
	{concurrency.Serializable, "Serializable", true, true},
	{concurrency.RepeatableReads, "RepeatableReads", false, true},
	{concurrency.ReadCommitted, "ReadCommitted", false, false},
}

// TestSTM: etcd's software transactional memory, unmodified, over keys on all members: several processes at once move money among
// accounts, count their transfers and create and delete twins.
func TestSTM(t *testing.T) {
	t.Parallel()
	const processes, workers, transfers = 3, 2, 6
	cluster := newCluster(t, 3)
	var clients []*clientv3.Client
	for range processes {
		clients = append(clients, installed(t, cluster, cluster.Client(t)))
	}
	for _, l := range stmLevels {
		t.Run(l.name, func(t *testing.T) {
			b := newSTMBank(l, func(member int, prefix string) string { return keyOn(t, cluster, member, l.name+"/"+prefix) })
			require.NoError(t, b.open(within(t, patience), clients[0]))
			var done atomic.Bool
			var checks errgroup.Group
			for _, cli := range clients {
				checks.Go(func() error {
					for !done.Load() {
						if err := b.check(within(t, patience), cli); err != nil {
							return err
						}
						time.Sleep(tick)
					}
					return nil
				})
			}
			var g errgroup.Group
			for i := range processes * workers {
				g.Go(func() error {
					for range transfers {
						if err := b.transfer(within(t, patience), clients[i%processes]); err != nil {
							return err
						}
					}
					return nil
				})
			}
			err := g.Wait()
			done.Store(true)
			require.NoError(t, checks.Wait())
			require.NoError(t, err)
			require.NoError(t, b.check(within(t, patience), clients[0]))
			count, err := clients[0].Get(within(t, patience), b.counter)
			require.NoError(t, err)
			if n := stmNumber(count.Kvs); l.repeats {
				require.Equal(t, processes*workers*transfers, n, "a transfer was not counted")
			}
			t.Logf("%d transfers, %d attempts", processes*workers*transfers, b.attempts.Load())
		})
	}
}

const stmBalance = 100

// stmBank is the keys of one isolation level.
type stmBank struct {
	stmLevel
	prefix   string
	accounts []string // two on each member
	counter  string
	twins    [2]string // on different members
	attempts atomic.Int64
}

func newSTMBank(l stmLevel, on func(member int, prefix string) string) *stmBank {
	b := &stmBank{stmLevel: l, prefix: l.name + "/", counter: on(2, "counter"), twins: [2]string{on(0, "left"), on(1, "right")}}
	for i := range 6 {
		b.accounts = append(b.accounts, on(i%3, fmt.Sprintf("account%d-", i)))
	}
	return b
}

func (b *stmBank) open(ctx context.Context, cli *clientv3.Client) error {
	_, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
		for _, a := range b.accounts {
			s.Put(a, strconv.Itoa(stmBalance))
		}
		return nil
	}, concurrency.WithIsolation(b.level), concurrency.WithAbortContext(ctx))
	return err
}

// transfer moves money between two accounts, counts the transfer, and makes the twins appear or disappear.
func (b *stmBank) transfer(ctx context.Context, cli *clientv3.Client) error {
	pick := rand.Perm(len(b.accounts))
	from, to, amount, create := b.accounts[pick[0]], b.accounts[pick[1]], rand.IntN(10), rand.IntN(2) == 0
	opts := []concurrency.STMOption{concurrency.WithIsolation(b.level), concurrency.WithAbortContext(ctx)}
	if amount%2 == 0 {
		opts = append(opts, concurrency.WithPrefetch(from, to, b.counter))
	}
	resp, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
		b.attempts.Add(1)
		if err := b.checkAttempt(s, amount); err != nil {
			return err
		}
		balance := func(key string) int { n, _ := strconv.Atoi(s.Get(key)); return n }
		left, arrived, counted := balance(from)-amount, balance(to)+amount, balance(b.counter)+1
		if b.repeats {
			s.Put(from, strconv.Itoa(left))
			s.Put(to, strconv.Itoa(arrived))
		}
		s.Put(b.counter, strconv.Itoa(counted))
		for _, twin := range b.twins {
			if create {
				s.Put(twin, strconv.Itoa(counted))
			} else {
				s.Del(twin)
			}
		}
		return nil
	}, opts...)
	if err == nil && !resp.Succeeded {
		err = fmt.Errorf("committed, and has not succeeded: %v", resp)
	}
	return err
}

// checkAttempt reads all accounts, now and then, where the level promises that they fit together.
func (b *stmBank) checkAttempt(s concurrency.STM, dice int) error {
	if !b.snapshots || dice > 3 {
		return nil
	}
	sum := 0
	for _, a := range b.accounts {
		n, err := strconv.Atoi(s.Get(a))
		if err != nil {
			return err
		}
		sum += n
	}
	if sum != stmBalance*len(b.accounts) {
		return fmt.Errorf("%s: an attempt reads a total of %d", b.name, sum)
	}
	return nil
}

// check lists everything: the total is as ever, and both twins are there, or none.
func (b *stmBank) check(ctx context.Context, cli *clientv3.Client) error {
	resp, err := cli.Get(ctx, b.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	found := map[string]*mvccpb.KeyValue{}
	for _, kv := range resp.Kvs {
		found[string(kv.Key)] = kv
	}
	sum := 0
	for _, a := range b.accounts {
		sum += stmNumber([]*mvccpb.KeyValue{found[a]})
	}
	if sum != stmBalance*len(b.accounts) {
		return fmt.Errorf("%s: a total of %d at %d", b.name, sum, resp.Header.Revision)
	}
	left, right := found[b.twins[0]], found[b.twins[1]]
	if string(left.GetValue()) != string(right.GetValue()) || left.GetModRevision() != right.GetModRevision() {
		return fmt.Errorf("%s: one twin is %v, the other one %v at %d", b.name, left, right, resp.Header.Revision)
	}
	return nil
}

// stmNumber is the number that the first of some keys holds, if any.
func stmNumber(kvs []*mvccpb.KeyValue) int {
	if len(kvs) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(string(kvs[0].GetValue()))
	return n
}
