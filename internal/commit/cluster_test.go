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

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/translate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a meta cluster in memory: a clock and members, with the marks that they got. All tests run in bubbles of
// synctest: time costs nothing there, and an operation that is forgotten deadlocks them.
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
	looks     fault // of lookups, without their requests; nil: none
	inAir     map[*process][]map[string]bool
	mostInAir int
	requests  int
	marks     []landing
	puts      []landing
	deletes   []landing
	streams   []chan mergedlog.MemberRevision
	lastFence []byte
}

// landing is a stamp in a member's log: what became of it, or a put or a delete of a user's key.
type landing struct {
	epoch, stamp int64
	member       string
	rev          int64
	kind         manifest.Kind
	key, value   string
}

// fault decides what happens to a request; do carries it out.
type fault func(ctx context.Context, req *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error)

func newMember(c *cluster, name string) *member {
	m := &member{c: c, name: name, server: etcdfake.New(1), lastFence: record.Pair(1, 1), inAir: map[*process][]map[string]bool{}}
	m.kv = m.server.Client(nil)
	m.put(record.KeyFence, record.Pair(1, 1))
	m.put(record.KeyClock, record.ClockRecord{Epoch: 1, Highest: 1}.Value())
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

// states answers a lookup.
func (m *member) states(ctx context.Context, keys [][]byte) (rev int64, states []translate.State, err error) {
	m.mu.Lock()
	looks := m.looks
	m.mu.Unlock()
	if looks != nil {
		if _, err := looks(ctx, nil, func() (*pb.TxnResponse, error) { return nil, nil }); err != nil {
			return 0, nil, err
		}
	}
	v := &view{m: m}
	for _, k := range keys {
		states = append(states, v.state(k))
	}
	return v.rev, states, nil
}

func (m *member) setLooks(f fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks = f
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
	var entries manifest.Decoder
	for _, ev := range events {
		if kind := record.KindOf(ev.Kv.Key); kind == record.Manifest || kind == record.Nested {
			require.NoError(m.c.t, entries.Decode(ev.Kv.Value))
		}
	}
	for _, e := range entries.Entries {
		m.marks = append(m.marks, landing{epoch: epoch, stamp: e.Stamp, member: m.name, rev: rev, kind: e.Kind})
	}
	for _, ev := range events {
		if record.KindOf(ev.Kv.Key) != record.User {
			continue
		}
		l := landing{epoch: epoch, rev: rev, key: string(ev.Kv.Key)}
		if ev.Type == mvccpb.DELETE {
			l.stamp = stampOf(entries.Entries, ev.Kv.Key)
			m.deletes = append(m.deletes, l)
			continue
		}
		h, value, err := record.ParseHeader(ev.Kv.Value)
		require.NoError(m.c.t, err)
		l.stamp, l.value = h.Stamp, string(value)
		m.puts = append(m.puts, l)
	}
	for _, s := range m.streams {
		s <- mergedlog.MemberRevision{Rev: rev, Events: cloneEvents(events)}
	}
}

// stampOf is the stamp that names a key.
func stampOf(entries []manifest.Entry, key []byte) int64 {
	for _, e := range entries {
		for _, n := range e.Names {
			if n.Names(key) {
				return e.Stamp
			}
		}
	}
	return 0
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

// bubble runs a test in a bubble of synctest.
func bubble(t *testing.T, members int, test func(t *testing.T, c *cluster)) {
	synctest.Test(t, func(t *testing.T) { test(t, newCluster(t, members)) })
}

// errFault leaves the outcome of a request open.
var errFault = etcdfake.ErrLost
