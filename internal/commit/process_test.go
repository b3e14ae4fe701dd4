package commit_test

import (
	"context"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// process is one process of the meta cluster.
type process struct {
	*commit.Pipeline
	c       *cluster
	log     *tracker
	streams sync.WaitGroup
	refused int
	batches []int
	mu      sync.Mutex
}

// tracker is a merged log that remembers which stamps were sent where.
type tracker struct {
	*mergedlog.Log
	doubts *mergedlog.Doubts
	mu     sync.Mutex
	sent   map[taken]map[int]bool // to which members; false: not tracked any more
	open   int                    // tracked, and not untracked yet
}

func (l *tracker) Untrack(member int, epoch int64, stamps ...int64) {
	l.mu.Lock()
	for _, s := range stamps {
		if l.sent[taken{epoch, s}][member] {
			l.open--
			l.sent[taken{epoch, s}][member] = false
		}
	}
	l.mu.Unlock()
	l.doubts.Untrack(member, epoch, stamps...)
}

func (l *tracker) Track(member int, epoch int64, sent ...mergedlog.Sent) {
	l.mu.Lock()
	for _, s := range sent {
		k := taken{epoch, s.Stamp}
		if l.sent[k] == nil {
			l.sent[k] = map[int]bool{}
		}
		if !l.sent[k][member] {
			l.sent[k][member] = true
			l.open++
		}
	}
	l.mu.Unlock()
	l.doubts.Track(member, epoch, sent...)
}

func (l *tracker) Outcome(ctx context.Context, member int, epoch, stamp int64) (mergedlog.Outcome, error) {
	return l.doubts.Outcome(ctx, member, epoch, stamp)
}

func (l *tracker) Seen(ctx context.Context, member int, epoch, stamp, rev int64) (mergedlog.Outcome, error) {
	return l.doubts.Seen(ctx, member, epoch, stamp, rev)
}

// start starts a process. lag is how far its streams are behind; nil: not at all.
func (c *cluster) start(lag func() time.Duration, with ...func(*commit.Config)) *process {
	doubts := mergedlog.NewDoubts(len(c.members), c.ring.Slot)
	log := mergedlog.New(mergedlog.Config{Members: len(c.members), SlotOf: c.ring.Slot, Doubts: doubts})
	p := &process{c: c, log: &tracker{Log: log, doubts: doubts, sent: map[taken]map[int]bool{}}}
	cfg := commit.Config{
		Clock: c.clock, Doubts: p.log, Grace: func() time.Duration { return 20 * time.Millisecond },
		OnBatch: func(_, ops int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.batches = append(p.batches, ops)
		},
		OnRefusal: func(int, bool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.refused++
		},
	}
	for i, m := range c.members {
		stream := make(chan mergedlog.MemberRevision, 1<<16)
		p.log.Open(i, mergedlog.MemberState{Rev: m.rev, Epoch: 1, Fence: 1, Clock: 1})
		m.mu.Lock()
		m.streams = append(m.streams, stream)
		m.mu.Unlock()
		p.streams.Go(func() {
			for r := range stream {
				if lag != nil {
					time.Sleep(lag())
				}
				if err := p.log.Append(i, []mergedlog.MemberRevision{r}); err != nil {
					c.t.Errorf("the log of member %s: %v", m.name, err)
				}
			}
		})
		cfg.Members = append(cfg.Members, commit.Member{
			Name: m.name, Raise: m.raise(p, i), States: m.states,
			Present: func(context.Context) (int64, error) { return m.server.Revision(), nil },
			Txn:     func(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) { return m.txn(ctx, p, req) },
		})
	}
	require.NoError(c.t, p.log.Start(1))
	for _, w := range with {
		w(&cfg)
	}
	p.Pipeline = commit.New(cfg)
	c.t.Cleanup(p.stop)
	return p
}

// stop closes the process and ends all streams.
func (p *process) stop() {
	p.Close()
	for _, m := range p.c.members {
		m.mu.Lock()
		for _, s := range m.streams {
			close(s)
		}
		m.streams = nil
		m.mu.Unlock()
	}
	p.streams.Wait()
}

// settled checks that nobody has to wait for a stamp: each has a mark, is of an old epoch, or was sent to a member that
// refuses it by now.
func (c *cluster) settled(ps ...*process) {
	c.t.Helper()
	for _, p := range ps {
		p.log.mu.Lock()
		require.Zero(c.t, p.log.open, "stamps that the log still tracks")
		p.log.mu.Unlock()
	}
	c.clock.mu.Lock()
	defer c.clock.mu.Unlock()
	for k := range c.clock.taken {
		if k.epoch < c.clock.epoch {
			continue
		}
		for _, p := range ps {
			require.False(c.t, p.Holds(k.stamp), "stamp %d is held", k.stamp)
		}
		if len(c.marksOf(k.epoch, k.stamp)) > 0 || c.fenced(k, ps) {
			continue
		}
		c.t.Errorf("stamp %d has no mark", k.stamp)
	}
}

func (c *cluster) fenced(k taken, ps []*process) bool {
	for _, p := range ps {
		p.log.mu.Lock()
		for i := range p.log.sent[k] {
			if _, f := c.members[i].fence(); f >= k.stamp {
				p.log.mu.Unlock()
				return true
			}
		}
		p.log.mu.Unlock()
	}
	return false
}
