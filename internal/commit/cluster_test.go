package commit_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a meta cluster in memory: a clock and members, with the marks that they got. All tests run in bubbles of
// synctest: time costs nothing there, and a goroutine that waits for ever fails the test.
type cluster struct {
	t       testing.TB
	ring    *ring.Ring
	clock   *clock
	members []*member
}

const numSlots = 64

func newCluster(t testing.TB, members int) *cluster {
	c := &cluster{t: t, clock: &clock{next: 2, epoch: 1, taken: map[taken]bool{}}}
	var names []string
	for i := range members {
		names = append(names, string(rune('a'+i)))
		c.members = append(c.members, newMember(c, names[i]))
	}
	var err error
	c.ring, err = ring.New(names, numSlots, ring.Policy{})
	require.NoError(t, err)
	return c
}

// clock hands out stamps, and takes note of them.
type clock struct {
	mu    sync.Mutex
	next  int64
	epoch int64
	taken map[taken]bool
	takes []int64              // how many stamps at once
	syncs int                  // calls of Sync
	delay func() time.Duration // before the add, and after it; nil: none
	gate  chan struct{}        // adds wait for it; nil: open
}

type taken struct{ epoch, stamp int64 }

func (c *clock) pause(ctx context.Context) error {
	c.mu.Lock()
	delay := c.delay
	c.mu.Unlock()
	if delay == nil {
		return ctx.Err()
	}
	select {
	case <-time.After(delay()):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *clock) Take(ctx context.Context, k int64) (first, epoch int64, err error) {
	c.mu.Lock()
	gate := c.gate
	c.takes = append(c.takes, k)
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
	if err := c.pause(ctx); err != nil {
		return 0, 0, err
	}
	c.mu.Lock()
	first, epoch = c.next, c.epoch
	c.next += k
	c.mu.Unlock()
	if err := c.pause(ctx); err != nil {
		return 0, 0, err // a gap, as after a crash
	}
	c.mu.Lock()
	for i := range k {
		c.taken[taken{epoch, first + i}] = true
	}
	c.mu.Unlock()
	return first, epoch, nil
}

func (c *clock) Sync(ctx context.Context) (int64, error) {
	c.mu.Lock()
	c.syncs++
	c.mu.Unlock()
	return c.Epoch(), c.pause(ctx)
}

func (c *clock) Epoch() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// shut makes adds wait; the returned function opens the gate again.
func (c *clock) shut() (open func()) {
	gate := make(chan struct{})
	c.mu.Lock()
	c.gate = gate
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		c.gate = nil
		c.mu.Unlock()
		close(gate)
	}
}

// member is one member cluster: a server, and what its log showed.
type member struct {
	c      *cluster
	name   string
	server *etcdfake.Server
	kv     pb.KVClient // without faults
	rev    int64       // when it was initialised

	mu        sync.Mutex
	fault     fault // nil: none
	inAir     map[*process][]map[string]bool
	mostInAir int
	requests  int
	marks     []landing
	puts      []landing
	deletes   []landing
	streams   []chan mergedlog.MemberRevision
	lastFence []byte
}

// landing is a stamp in a member's log: a mark with its reason (0: an effect), or a put or a delete of a user's key.
type landing struct {
	epoch, stamp int64
	rev          int64
	reason       record.Reason
	key, value   string
}

// fault decides what happens to a request; do carries it out.
type fault func(ctx context.Context, req *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error)

func newMember(c *cluster, name string) *member {
	m := &member{c: c, name: name, server: etcdfake.New(1), lastFence: record.Pair(1, 1), inAir: map[*process][]map[string]bool{}}
	m.kv = m.server.Client(nil)
	m.put(record.KeyFence, record.Pair(1, 1))
	m.put(record.KeyClock, record.Pair(1, 1))
	m.put(record.KeyLock, nil)
	for s := range numSlots {
		m.put(string(record.SlotKey(s)), record.Number(0))
	}
	m.rev = m.server.Revision()
	m.server.Watch(m.saw)
	return m
}

func (m *member) put(key string, value []byte) {
	_, err := m.kv.Put(context.Background(), &pb.PutRequest{Key: []byte(key), Value: value})
	require.NoError(m.c.t, err)
}

func (m *member) fence() (epoch, f int64) {
	epoch, f, err := record.ParsePair(m.server.Get(record.KeyFence))
	require.NoError(m.c.t, err)
	return epoch, f
}

// txn is how a process reaches the member.
func (m *member) txn(ctx context.Context, p *process, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	leave := m.enter(p, req)
	defer leave()
	m.mu.Lock()
	fault := m.fault
	m.requests++
	m.mu.Unlock()
	do := func() (*pb.TxnResponse, error) {
		return m.kv.Txn(context.Background(), proto.Clone(req).(*pb.TxnRequest))
	}
	if fault == nil {
		return do()
	}
	return fault(ctx, req, do)
}

// enter checks that no other request of the process in the air may write the same keys.
func (m *member) enter(p *process, req *pb.TxnRequest) (leave func()) {
	keys := written(req)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.inAir[p] {
		for key := range keys {
			if other[key] {
				m.c.t.Errorf("two flights write %q", key)
			}
		}
	}
	m.inAir[p] = append(m.inAir[p], keys)
	m.mostInAir = max(m.mostInAir, len(m.inAir[p]))
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		i := slices.IndexFunc(m.inAir[p], func(x map[string]bool) bool { return maps.Equal(x, keys) })
		m.inAir[p] = slices.Delete(m.inAir[p], i, i+1)
	}
}

// written are the user keys and slot clocks that a request writes on some branch.
func written(req *pb.TxnRequest) map[string]bool {
	keys := map[string]bool{}
	for _, op := range slices.Concat(req.Success, req.Failure) {
		var key []byte
		switch {
		case op.GetRequestPut() != nil:
			key = op.GetRequestPut().Key
		case op.GetRequestDeleteRange() != nil:
			key = op.GetRequestDeleteRange().Key
		case op.GetRequestTxn() != nil:
			for k := range written(op.GetRequestTxn()) {
				keys[k] = true
			}
			continue
		}
		if k := record.KindOf(key); len(key) > 0 && (k == record.User || k == record.Slot) {
			keys[string(key)] = true
		}
	}
	return keys
}

func (m *member) setFault(f fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// raise raises the fence, as the library does, and tells the log what holds from which revision on.
func (m *member) raise(p *process, index int) func(ctx context.Context, epoch, stamp int64) error {
	return func(ctx context.Context, epoch, stamp int64) error {
		fence := []byte(record.KeyFence)
		resp, err := m.txn(ctx, p, &pb.TxnRequest{
			Compare: []*pb.Compare{
				{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Value{Value: record.Number(epoch)}},
				{Key: fence, Target: pb.Compare_VALUE, Result: pb.Compare_LESS, TargetUnion: &pb.Compare_Value{Value: record.Pair(epoch, stamp)}},
			},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: fence, Value: record.Pair(epoch, stamp)}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: fence}}}},
		})
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			if epoch, stamp, err = record.ParsePair(resp.Responses[0].GetResponseRange().Kvs[0].Value); err != nil {
				return err
			}
		}
		p.log.FenceHolds(index, epoch, stamp, resp.Header.Revision)
		return nil
	}
}

// saw takes the marks off a revision of the server, and passes it on to the streams.
func (m *member) saw(rev int64, events []*mvccpb.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	epoch, _, err := record.ParsePair(m.presentFence(events))
	require.NoError(m.c.t, err)
	clocks := map[int]int64{}
	exclusive := int64(0)
	mark := func(stamp int64, why record.Reason) {
		m.marks = append(m.marks, landing{epoch: epoch, stamp: stamp, rev: rev, reason: why})
	}
	for _, ev := range events {
		switch record.KindOf(ev.Kv.Key) {
		case record.Slot:
			stamp, _ := record.ParseNumber(ev.Kv.Value)
			clocks[record.SlotOf(ev.Kv.Key)] = stamp
			mark(stamp, 0)
		case record.Mark:
			stamp, why, _ := record.ParseMark(ev.Kv.Value)
			mark(stamp, why)
			if why == record.Exclusive {
				exclusive = stamp
			}
			rest, _ := record.FurtherStamps(ev.Kv.Value, why)
			for ; len(rest) > 0; rest = rest[8:] {
				stamp, _ := record.ParseNumber(rest)
				mark(stamp, why)
			}
		}
	}
	for _, ev := range events {
		if record.KindOf(ev.Kv.Key) != record.User {
			continue
		}
		l := landing{epoch: epoch, rev: rev, key: string(ev.Kv.Key)}
		if ev.Type == mvccpb.DELETE {
			if l.stamp = clocks[m.c.ring.Slot(ev.Kv.Key)]; l.stamp == 0 {
				l.stamp = exclusive
			}
			m.deletes = append(m.deletes, l)
			continue
		}
		h, value, err := record.ParseHeader(ev.Kv.Value)
		require.NoError(m.c.t, err)
		l.stamp, l.value = h.Stamp, string(value)
		m.puts = append(m.puts, l)
		mark(h.Stamp, 0)
	}
	for _, s := range m.streams {
		s <- mergedlog.MemberRevision{Rev: rev, Events: cloneEvents(events)}
	}
}

// presentFence is the fence in force once events have happened.
func (m *member) presentFence(events []*mvccpb.Event) []byte {
	for _, ev := range events {
		if record.KindOf(ev.Kv.Key) == record.Fence {
			m.lastFence = ev.Kv.Value
		}
	}
	return m.lastFence
}

func cloneEvents(events []*mvccpb.Event) []*mvccpb.Event {
	out := make([]*mvccpb.Event, len(events))
	for i, ev := range events {
		out[i] = proto.Clone(ev).(*mvccpb.Event)
	}
	return out
}

// marksOf returns what the cluster shows of a stamp.
func (c *cluster) marksOf(epoch, stamp int64) (out []landing) {
	for _, m := range c.members {
		m.mu.Lock()
		for _, l := range m.marks {
			if l.epoch == epoch && l.stamp == stamp {
				out = append(out, l)
			}
		}
		m.mu.Unlock()
	}
	return out
}

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
	mu   sync.Mutex
	sent map[taken]map[int]bool // to which members; false: not tracked any more
	open int                    // tracked, and not untracked yet
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
	l.Log.Untrack(member, epoch, stamps...)
}

func (l *tracker) Track(member int, epoch int64, stamps ...int64) {
	l.mu.Lock()
	for _, s := range stamps {
		k := taken{epoch, s}
		if l.sent[k] == nil {
			l.sent[k] = map[int]bool{}
		}
		if !l.sent[k][member] {
			l.sent[k][member] = true
			l.open++
		}
	}
	l.mu.Unlock()
	l.Log.Track(member, epoch, stamps...)
}

// start starts a process. lag is how far its streams are behind; nil: not at all.
func (c *cluster) start(lag func() time.Duration, with ...func(*commit.Config)) *process {
	p := &process{c: c, log: &tracker{Log: mergedlog.New(mergedlog.Config{Members: len(c.members), SlotOf: c.ring.Slot}), sent: map[taken]map[int]bool{}}}
	cfg := commit.Config{
		Clock: c.clock, Log: p.log, Grace: func() time.Duration { return 20 * time.Millisecond },
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
			Name: m.name, Raise: m.raise(p, i),
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

// bubble runs a test in a bubble of synctest.
func bubble(t *testing.T, members int, test func(t *testing.T, c *cluster)) {
	synctest.Test(t, func(t *testing.T) { test(t, newCluster(t, members)) })
}

var errFault = etcdfake.ErrLost
