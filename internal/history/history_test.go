package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/watchhub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is what is under test in a world.
type process struct {
	*world
	log  *mergedlog.Log
	h    *History
	full bool // its log has seen everything
}

// newProcess makes a world that has some past, a log that was started in it, and some more history.
func newProcess(t *rapid.T, full bool) *process {
	p := &process{world: newWorld(t, rapid.IntRange(1, 3).Draw(t, "members")), full: full}
	steps := func(label string, max int) {
		for range rapid.IntRange(0, max).Draw(t, label) {
			p.step()
		}
	}
	steps("past", 60)
	p.log = mergedlog.New(mergedlog.Config{Members: len(p.members), SlotOf: testSlot, MaxBytes: 1})
	at := make([]int64, len(p.members))
	for i, m := range p.members {
		p.log.Open(i, m.state())
		at[i] = m.rev()
		m.onCompact = p.log.SetCompacted
		steps("opening", 4)
	}
	deliver := func(m *member, upTo int64) {
		for ; at[m.id] < upTo; at[m.id]++ {
			require.NoError(t, p.log.Append(m.id, []mergedlog.MemberRevision{m.deliverable(at[m.id]+1, true)}))
		}
	}
	fence := func() int64 {
		p.finish()
		c := p.clock
		for _, m := range p.members {
			rev := m.raise(c)
			p.log.FenceHolds(m.id, 0, c, rev)
			deliver(m, rev)
			steps("starting", 3)
		}
		return c
	}
	require.NoError(t, p.log.Start(fence()))
	for range rapid.IntRange(0, 40).Draw(t, "present") {
		p.step()
		m := p.members[p.draw(len(p.members))]
		deliver(m, min(m.rev(), at[m.id]+int64(p.draw(4))))
	}
	if full {
		for range 3 {
			fence()
		}
		for _, m := range p.members {
			deliver(m, m.rev())
		}
	}
	cfg := Config{Log: p.log, SlotOf: testSlot, Compacted: p.Compacted}
	for _, m := range p.members {
		cfg.Members = append(cfg.Members, m)
	}
	if rapid.Bool().Draw(t, "members of") {
		cfg.MembersOf = func(key, end []byte) (ids []int) {
			for id := range p.members {
				if len(end) > 0 || testSlot(key)/100 == id {
					ids = append(ids, id)
				}
			}
			return ids
		}
	}
	p.h = newHistory(cfg,
		rapid.SampledFrom([]int64{1, 1000, 8 << 20}).Draw(t, "page"),
		rapid.SampledFrom([]int{1, 3, 8, 1 << 10}).Draw(t, "bound"))
	slices.SortStableFunc(p.landed, byStamp)
	return p
}

// query is one question for the history.
type query struct {
	kind     int
	key, end []byte
	from, to int64
	member   int
}

const (
	askReplay = iota
	askSnapshot
	askLo
	askReplayKey
)

func (p *process) randomQuery() query {
	at := func() []byte { return []byte(keyName(p.draw(len(p.members)), p.draw(keysPerMember))) }
	q := query{kind: p.draw(4), key: at(), member: p.draw(len(p.members))}
	switch p.draw(4) {
	case 0:
		q.key, q.end = []byte{0}, []byte{0}
	case 1:
		q.end = []byte{0}
	case 2:
		q.end = at()
	}
	if q.kind == askReplayKey {
		q.key, q.end = at(), nil
	}
	closed := int(p.log.Closed())
	q.from = int64(p.draw(closed + 1))
	q.to = q.from + int64(p.draw(closed+1-int(q.from)))
	return q
}

// ask compares an answer with the model. It may run concurrently.
func (p *process) ask(ctx context.Context, q query) error {
	var err error
	switch q.kind {
	case askReplay:
		err = p.askReplay(ctx, q)
	case askReplayKey:
		err = p.askReplay(ctx, q)
	case askSnapshot:
		err = p.askSnapshot(ctx, q)
	default:
		err = p.askLo(ctx, q)
	}
	if err != nil {
		return fmt.Errorf("%+v: %w", q, err)
	}
	return nil
}

func (p *process) userCompacted() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.compacted
}

func (p *process) askReplay(ctx context.Context, q query) error {
	var want []landing
	for _, l := range p.landed {
		if l.stamp >= q.from && l.stamp <= q.to && keyrange.Of(q.key, q.end).Contains([]byte(l.key)) {
			want = append(want, l)
		}
	}
	wrong := error(nil)
	replay := p.h.Replay
	called := false
	if q.kind == askReplayKey {
		replay = func(ctx context.Context, key, _ []byte, from, to int64, fn func([]*mergedlog.Event) error) error {
			if ok, err := p.h.ReplayKey(ctx, key, from, to, fn); ok || err != nil {
				return err
			}
			if called {
				return errors.New("a replay that is given up has shown something")
			}
			return p.h.Replay(ctx, key, nil, from, to, fn)
		}
	}
	err := replay(ctx, q.key, q.end, q.from, q.to, func(evs []*mergedlog.Event) error {
		called = true
		n := 0
		for n < len(want) && want[n].stamp == want[0].stamp {
			n++
		}
		for i, e := range evs {
			got := eventText(e.Type == mvccpb.Event_DELETE, e.Kv, e.PrevKv)
			if len(evs) != n || got != want[i].text || e.Rev != want[i].stamp || e.Member != want[i].member {
				wrong = fmt.Errorf("got %d events, %s, want %v", len(evs), got, want[:n])
				return wrong
			}
		}
		if n == 0 || len(evs) == 0 {
			wrong = errors.New("events out of nothing")
			return wrong
		}
		want = want[n:]
		return nil
	})
	compacted := p.userCompacted()
	var c *watchhub.CompactedError
	switch {
	case wrong != nil:
		return wrong
	case errors.As(err, &c):
		if max(q.from, 1) >= compacted || c.Rev <= q.from || c.Rev > compacted {
			return fmt.Errorf("compacted at %d, said to be at %d", compacted, c.Rev)
		}
	case err != nil:
		return err
	case len(want) > 0:
		return fmt.Errorf("not replayed: %v", want)
	}
	return nil
}

func (p *process) askSnapshot(ctx context.Context, q query) error {
	var ids []int
	for id := range p.members {
		if q.member != id || len(p.members) == 1 {
			ids = append(ids, id)
		}
	}
	r := q.from
	snaps, err := p.h.Snapshot(ctx, r, ids, q.key, q.end)
	if err != nil {
		return p.mayBeCompacted(err, r)
	}
	for i, id := range ids {
		m := p.members[id]
		if snaps[i].Lo < m.serve() {
			return p.mayBeCompacted(rpctypes.ErrGRPCCompacted, r) // as reading the base says
		}
		got := maps.Clone(m.states[snaps[i].Lo])
		if got == nil {
			got = map[string]string{}
		}
		outside := func(key string, _ string) bool { return !keyrange.Of(q.key, q.end).Contains([]byte(key)) }
		maps.DeleteFunc(got, outside)
		for _, e := range snaps[i].Tail {
			switch {
			case e.Rev > r || e.MemberRev <= snaps[i].Lo || e.Member != id || outside(string(e.Kv.Key), ""):
				return fmt.Errorf("member %d: %+v is not of the tail", id, e)
			case e.Type == mvccpb.Event_DELETE:
				delete(got, string(e.Kv.Key))
			default:
				got[string(e.Kv.Key)] = kvString(e.Kv)
			}
		}
		want := map[string]string{}
		for _, l := range p.landed {
			switch {
			case l.stamp > r || l.member != id || outside(l.key, ""):
			case l.value == "":
				delete(want, l.key)
			default:
				want[l.key] = l.value
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("member %d: got %v, want %v", id, got, want)
		}
	}
	return nil
}

func (p *process) askLo(ctx context.Context, q query) error {
	lo, err := p.h.Lo(ctx, q.member, q.from)
	if err != nil {
		return p.mayBeCompacted(err, q.from)
	}
	m := p.members[q.member]
	want := m.lo(max(q.from, firstClock))
	if q.from < p.log.Began() && p.full && lo != want && m.events(min(lo, want), max(lo, want)) {
		return fmt.Errorf("lo is %d, want %d", lo, want)
	}
	if lo > want && m.events(want, lo) {
		return fmt.Errorf("lo is %d, not before %d", lo, want)
	}
	return nil
}

// events says whether any event is in (after, upTo].
func (m *member) events(after, upTo int64) bool {
	for _, evs := range m.revs[after+1 : upTo+1] {
		for _, ev := range evs {
			if ev.Kv.Key[0] != 0 {
				return true
			}
		}
	}
	return false
}

func (p *process) mayBeCompacted(err error, r int64) error {
	if compacted := p.userCompacted(); !errors.Is(err, rpctypes.ErrGRPCCompacted) || max(r, 1) >= compacted-1 {
		return fmt.Errorf("compacted at %d: %w", compacted, err)
	}
	return nil
}

// TestModel asks for everything while nothing is compacted.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newProcess(t, rapid.Bool().Draw(t, "full"))
		ctx := context.Background()
		for range 8 {
			require.NoError(t, p.ask(ctx, p.randomQuery()))
		}
		for r := range p.log.Closed() + 1 {
			q := p.randomQuery()
			q.from = r
			q.kind = askSnapshot
			require.NoError(t, p.ask(ctx, q))
			q.kind = askLo
			require.NoError(t, p.ask(ctx, q))
		}
		q := query{key: []byte{0}, end: []byte{0}, to: p.log.Closed()}
		require.NoError(t, p.ask(ctx, q))
		q.to++
		require.ErrorIs(t, p.ask(ctx, q), mergedlog.ErrNotClosed)
		_, err := p.h.Lo(ctx, 0, q.to)
		require.ErrorIs(t, err, mergedlog.ErrNotClosed)
	})
}

func (p *process) planCompactions() {
	n := rapid.IntRange(1, 3).Draw(p.t, "compactions")
	for range n {
		p.plan = append(p.plan, compaction{
			tick: p.draw(150), rev: 1 + int64(p.draw(int(p.log.Closed()))), silent: p.draw(2) == 0, forget: p.draw(2) == 0,
		})
	}
	slices.SortFunc(p.plan, func(a, b compaction) int { return cmp.Compare(a.tick, b.tick) })
}

// TestCompaction lets compactions come in between. Each answer is right, or says that it is compacted; and that is
// said only where it is so.
func TestCompaction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newProcess(t, true)
		p.planCompactions()
		for range 12 {
			q := p.randomQuery()
			if p.draw(2) == 0 { // as near to the edge as it gets
				q.from = max(p.userCompacted()-1+int64(p.draw(2)), 0)
				q.to = max(q.to, q.from)
			}
			require.NoError(t, p.ask(context.Background(), q))
		}
	})
}

// TestConcurrency does the same with many callers at once.
func TestConcurrency(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newProcess(t, true)
		if rapid.Bool().Draw(t, "compact") {
			p.planCompactions()
		}
		queries := make([]query, 12)
		for i := range queries {
			queries[i] = p.randomQuery()
		}
		errs := make([]error, len(queries))
		var wg sync.WaitGroup
		for i, q := range queries {
			wg.Go(func() { errs[i] = p.ask(context.Background(), q) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
	})
}
