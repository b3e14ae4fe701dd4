package crosstxn

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/feed"
	"github.com/metaetcd/metaetcd/internal/lifetime"
	"github.com/metaetcd/metaetcd/internal/member"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/statecache"
	"github.com/metaetcd/metaetcd/internal/translate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const slots = 16

// numbers are the members', unlike their places.
var numbers = []int{7, 3}

// world is two members in memory, whose streams fill a merged log at once. Its tests run in bubbles of synctest.
type world struct {
	t       *testing.T
	ring    *ring.Ring
	servers []*etcdfake.Server
	feed    *feed.Feed // with nothing but a log
	stamps  *stamps

	unstamped error // what a transaction gets that is answered from a snapshot; nil: it would write

	mu     sync.Mutex
	fault  etcdfake.Interceptor // of all requests that write, of all processes; nil: none
	read   func(member int)     // is told of transactions that do not write, when they are answered; may be nil
	writes []write              // that were tried, in order

	streams sync.Mutex
	held    [2]bool                       // the members' streams that show nothing at present
	shown   [2][]mergedlog.MemberRevision // what these are still to show
}

// write is a request that writes.
type write struct {
	member int
	at     time.Time
	req    *pb.TxnRequest
}

// process is one process of the meta cluster.
type process struct {
	*Runner
	w        *world
	life     *lifetime.Life
	resolver *resolver

	decided, waits, rolled, aborted atomic.Int64
}

// within runs a test in a bubble.
func within(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

func newWorld(t *testing.T) *world {
	r, err := ring.New([]string{"a", "b"}, slots, ring.Policy{})
	require.NoError(t, err)
	r = r.Numbered(numbers)
	w := &world{t: t, ring: r, stamps: &stamps{next: 2, out: map[int64]string{}}}
	log := mergedlog.New(mergedlog.Config{Members: 2, SlotOf: r.Slot})
	w.feed = &feed.Feed{Log: log}
	for i := range 2 {
		s := etcdfake.New(uint64(i) + 1)
		records := map[string][]byte{
			record.KeyFence: record.Pair(1, 1), record.KeyClock: record.ClockRecord{Epoch: 1, Highest: 1}.Value(), record.KeyLock: nil, record.KeyCompacted: record.Number(0),
		}
		for n := range slots {
			records[string(record.SlotKey(n))] = record.Number(0)
		}
		for key, value := range records {
			_, err := s.Client(nil).Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: value})
			require.NoError(t, err)
		}
		log.Open(i, mergedlog.MemberState{Rev: s.Revision(), Epoch: 1, Fence: 1, Clock: 1})
		s.Watch(func(rev int64, events []*mvccpb.Event) {
			w.show(i, mergedlog.MemberRevision{Rev: rev, Events: events})
		})
		w.servers = append(w.servers, s)
	}
	require.NoError(t, log.Start(1))
	return w
}

// show makes a member's stream show revisions, unless it is held.
func (w *world) show(member int, revs ...mergedlog.MemberRevision) {
	w.streams.Lock()
	defer w.streams.Unlock()
	w.shown[member] = append(w.shown[member], revs...)
	if !w.held[member] {
		if err := w.feed.Log.Append(member, w.shown[member]); err != nil {
			w.t.Error(err)
		}
		w.shown[member] = nil
	}
}

// hold makes a member's stream lag behind the member, until the function that it returns is called.
func (w *world) hold(member int) (thaw func()) {
	set := func(held bool) {
		w.streams.Lock()
		defer w.streams.Unlock()
		w.held[member] = held
	}
	set(true)
	return func() {
		set(false)
		w.show(member)
	}
}

// start starts a process. It ends with the test.
func (w *world) start(grace ...time.Duration) *process {
	p := &process{w: w, life: lifetime.New(context.Background())}
	cfg := Config{
		Life: p.life, Feeds: feed.NewCurrent(p.life, feed.Identity{}), Reads: noReads{w}, Ring: w.ring, Clock: inFirstEpoch{}, Commit: w.stamps,
		Doubts: mergedlog.NewDoubts(2, w.ring.Slot), Cache: statecache.New(8), MaxTxnOps: 128, Timeout: 10 * time.Second, Logger: zap.NewNop(),
		OnRangeDelete: func(int64) {}, OnDecided: func() { p.decided.Add(1) }, OnLockWait: func() { p.waits.Add(1) },
		OnRollForward: func() { p.rolled.Add(1) }, OnAbort: func() { p.aborted.Add(1) },
	}
	cfg.Feeds.Set(w.feed)
	for i, s := range w.servers {
		cfg.Members = append(cfg.Members, member.New(member.Config{
			Index: i, Name: w.ring.Names()[i], Life: p.life, Timeout: cfg.Timeout, MaxTxnOps: cfg.MaxTxnOps, Logger: zap.NewNop(),
			Stopped: func() error { return nil }, Reached: func(int, int64) {}, Seen: func(int, string, error) {},
			KV: s.Client(func(ctx context.Context, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
				return w.via(ctx, i, req, do)
			}),
		}))
	}
	p.Runner = New(cfg)
	var present time.Duration
	if len(grace) > 0 {
		present = grace[0]
	}
	p.resolver = newResolver(p.Runner, w.feed.Log, func() time.Duration { return present }, func(fn func(ctx context.Context)) {
		p.life.Spawn(func() { fn(p.life.Context()) })
	})
	w.t.Cleanup(p.stop)
	return p
}

// stop ends the process, as far as it lives, and waits until nothing of it is left.
func (p *process) stop() {
	p.life.End(lifetime.ErrClosed)
	p.life.Wait()
}

// resolve has the process look after locks, as it does with a feed.
func (p *process) resolve() {
	p.life.Spawn(func() { p.resolver.Run(p.life.Context()) })
	p.resolver.Kick()
}

func (w *world) via(ctx context.Context, i int, req proto.Message, do func() (proto.Message, error)) (proto.Message, error) {
	txn, ok := req.(*pb.TxnRequest)
	if !ok || !etcdfake.Writes(req) {
		resp, err := do()
		w.mu.Lock()
		read := w.read
		w.mu.Unlock()
		if ok && read != nil {
			read(i)
		}
		return resp, err
	}
	w.mu.Lock()
	w.writes = append(w.writes, write{member: i, at: time.Now(), req: txn})
	fault := w.fault
	w.mu.Unlock()
	if fault == nil {
		return do()
	}
	return fault(ctx, req, do)
}

func (w *world) setFault(f etcdfake.Interceptor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

func (w *world) setRead(read func(member int)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read = read
}

// forget drops the writes so far.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = nil
}

func (w *world) tried() []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]write(nil), w.writes...)
}

// keyOn finds a key of a member.
func (w *world) keyOn(member int) []byte {
	for i := 0; ; i++ {
		if key := fmt.Appendf(nil, "k%d", i); w.ring.MemberOf(key) == member {
			return key
		}
	}
}

// plan puts a value at one key of each member.
func (w *world) plan(value string) *translate.Plan {
	req := &pb.TxnRequest{}
	for i := range w.servers {
		req.Success = append(req.Success, request.Put(&pb.PutRequest{Key: w.keyOn(i), Value: []byte(value)}))
	}
	return translate.NewPlan(req, w.ring)
}

// value is what users see at the key of plan on a member; "": nothing.
func (w *world) value(member int) string {
	stored := w.servers[member].Get(string(w.keyOn(member)))
	if stored == nil {
		return ""
	}
	_, v, err := record.ParseHeader(stored)
	require.NoError(w.t, err)
	return string(v)
}

// decisions are the keys of the decisions on all members.
func (w *world) decisions() (keys []string) {
	for _, s := range w.servers {
		for _, k := range s.Keys() {
			if record.KindOf([]byte(k)) == record.Txn {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// locks are the members that somebody has locks on, as they are.
func (w *world) locks() (members []int) {
	for _, l := range w.feed.Log.Locks() {
		members = append(members, l.Member)
	}
	return members
}

// locked begins a transaction of a process, and locks these shares.
func (p *process) locked(plan *translate.Plan, shares ...int) *crossing {
	x := p.newCrossing(plan)
	x.begin()
	for _, i := range shares {
		require.NoError(p.w.t, x.lockShare(p.w.t.Context(), p.w.feed, i))
	}
	return x
}

// decideNow decides a transaction that has all its locks, and applies no part.
func (x *crossing) decideNow(t *testing.T) (*translate.Decided, error) {
	locked := x.plan.NewCross(x.runner.cfg.Ring, x.shares, x.locked)
	run, writes, err := locked.Run()
	require.NoError(t, err)
	require.True(t, writes)
	return x.decide(locked, run)
}

// stamps hands out stamps, and takes note of what became of them.
type stamps struct {
	settle func(s commit.Stamp) (mergedlog.Outcome, error) // nil: nothing can be found out

	mu   sync.Mutex
	next int64
	out  map[int64]string
}

func (s *stamps) Take(ctx context.Context) (commit.Stamp, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := commit.Stamp{Rev: s.next, Epoch: 1}
	s.next++
	s.out[st.Rev] = "taken"
	return st, ctx.Err()
}

func (s *stamps) Landed(st commit.Stamp)    { s.give(st, "landed") }
func (s *stamps) Surrender(st commit.Stamp) { s.give(st, "surrendered") }

func (s *stamps) give(st commit.Stamp, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out[st.Rev] != "taken" {
		panic(fmt.Sprintf("stamp %d is %s, and was %q", st.Rev, what, s.out[st.Rev]))
	}
	s.out[st.Rev] = what
}

func (s *stamps) Settle(_ int, st commit.Stamp, _ error) (mergedlog.Outcome, error) {
	if s.settle == nil {
		return mergedlog.Outcome{}, commit.ErrUnknown
	}
	return s.settle(st)
}

// count returns how many stamps came to such an end.
func (s *stamps) count(what string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.out {
		if w == what {
			n++
		}
	}
	return n
}

type inFirstEpoch struct{}

func (inFirstEpoch) Epoch() int64                        { return 1 }
func (inFirstEpoch) Sync(context.Context) (int64, error) { return 1, nil }

// noReads is for transactions that need nothing but what is under their locks.
type noReads struct{ w *world }

func (noReads) ShowHeads(context.Context, *member.Member, []*mvccpb.KeyValue, int64) error {
	return nil
}
func (noReads) CheckReads(context.Context, *feed.Feed, *translate.Run) error { return nil }

func (r noReads) AnswerUnstamped(context.Context, *translate.Plan, bool) (*pb.TxnResponse, bool, error) {
	if r.w.unstamped != nil {
		return nil, false, r.w.unstamped
	}
	return nil, true, nil
}

func (noReads) Replay(context.Context, *translate.Run, int64) ([]translate.Result, error) {
	return nil, commit.ErrUnknown
}

func (noReads) Landed(_ *translate.Plan, _ *translate.Run, stamp int64, _ []translate.Result) *pb.TxnResponse {
	return &pb.TxnResponse{Succeeded: true, Header: &pb.ResponseHeader{Revision: stamp}}
}
