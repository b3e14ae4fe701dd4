package commit_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// overtake lets the first request come to the member behind somebody's change, and the second one take its own way.
func (m *member) overtake(change func(), second fault) {
	n := 0
	m.setFault(func(ctx context.Context, req *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
		switch n++; {
		case n == 1:
			change()
		case n == 2 && second != nil:
			return second(ctx, req, do)
		}
		return do()
	})
}

// passSlot makes the guard of a key's slot fail.
func (m *member) passSlot(key string) func() {
	return func() { m.put(string(record.SlotKey(m.c.ring.Slot([]byte(key)))), record.Number(1000)) }
}

// A flight that is refused as a whole leaves nothing on the member. The next request marks its stamp, and brings the states of its keys.
func TestRefusedFlightsAreMarked(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(m *member)
		want   manifest.Kind
	}{
		"by a guard": {func(m *member) { m.passSlot("a")() }, manifest.Pinned},
		"by a fence": {func(m *member) { m.put(record.KeyFence, record.Pair(1, 50)) }, manifest.Fenced},
		"by a lock": {func(m *member) {
			m.put(record.KeyLock, record.Holder{ID: record.TxnID{1}, Primary: 1}.Value())
		}, manifest.Fenced},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, c *cluster) {
				p, m := c.start(nil), c.members[0]
				_, err := p.write(ctx, put("a", "old"))
				require.NoError(t, err)
				before := c.requests()
				m.overtake(func() { tt.change(m) }, nil) // the requests that follow
				r, err := p.try(ctx, put("a", "new"))
				require.NoError(t, err)
				require.False(t, r.Outcome.Landed)
				require.Equal(t, []manifest.Kind{tt.want}, c.fates(r.Stamp))
				require.Equal(t, before+2, c.requests())
				require.Equal(t, tt.want == manifest.Fenced, r.Outcome.Fenced)
				require.Equal(t, tt.want == manifest.Pinned, r.Outcome.Together)
				if tt.want == manifest.Pinned {
					require.Equal(t, [][]byte{[]byte("a")}, r.Outcome.Keys)
					require.Equal(t, "old", string(r.Outcome.States[0].KV.Value))
				}
				require.False(t, p.Holds(r.Stamp))
			})
		})
	}
}

// Where the mark is not answered, another member takes it.
func TestAMarkThatIsLostGoesElsewhere(t *testing.T) {
	for name, second := range map[string]fault{"on its way": loseRequest, "on its way back": loseReply} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, c *cluster) {
				p, m := c.start(nil), c.members[0]
				key := c.keysOn(0, 1)[0]
				m.overtake(m.passSlot(key), second)
				r, err := p.try(ctx, put(key, "v"))
				require.NoError(t, err)
				require.False(t, r.Outcome.Landed)
				require.Contains(t, c.fates(r.Stamp), manifest.Surrendered)
				p.stop()
				c.settled(p)
			})
		})
	}
}

// A flight whose answer was lost may have been refused, and nobody marks it: it may also be on its way.
func TestALostRefusalIsNotMarked(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p, m := c.start(nil), c.members[0]
		key := c.keysOn(0, 1)[0]
		m.setFault(once(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			m.passSlot(key)()
			_, err := do()
			require.NoError(t, err)
			return nil, errFault
		}))
		r, err := p.try(ctx, put(key, "v"))
		require.NoError(t, err)
		require.True(t, r.Settled)
		require.False(t, r.Outcome.Landed)
		require.Empty(t, c.fates(r.Stamp))
		p.stop()
		c.settled(p)
		require.Empty(t, c.fates(r.Stamp))
	})
}

// The process holds the stamp until its mark is answered, and Close waits for it.
func TestAStampIsHeldUntilItIsMarked(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p, m := c.start(nil), c.members[0]
		release := make(chan struct{})
		m.overtake(m.passSlot("a"), func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			<-release
			return do()
		})
		x := p.later(ctx, put("a", "v"))
		require.False(t, x.over())
		require.True(t, p.Holds(2))
		closed := make(chan struct{})
		go func() {
			p.Close()
			close(closed)
		}()
		require.False(t, x.over())
		close(release)
		<-closed
		require.True(t, x.over())
		require.Equal(t, []manifest.Kind{manifest.Pinned}, c.fates(2))
	})
}

// A stamp of an older epoch than the member's leaves nothing, whether it lands or is marked.
func TestNothingIsMarkedInAnotherEpoch(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p, m := c.start(nil), c.members[0]
		m.overtake(m.passSlot("a"), func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			c.rebuild()
			return do()
		})
		r, err := p.try(ctx, put("a", "v"))
		require.NoError(t, err)
		require.False(t, r.Outcome.Landed)
		require.Empty(t, c.marksOf(1, r.Stamp))
		require.Empty(t, c.marksOf(2, r.Stamp))
	})
}

// A caller that flies by itself does not wait for the mark when its context has ended.
func TestTheMarkDoesNotHoldUpItsCaller(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p, m := c.start(nil), c.members[0]
		release := make(chan struct{})
		m.overtake(m.passSlot("a"), func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			<-release
			return do()
		})
		cctx, cancel := context.WithCancel(ctx)
		x := p.later(cctx, put("a", "v"))
		require.False(t, x.over())
		cancel()
		require.True(t, x.over())
		require.ErrorIs(t, x.err, context.Canceled)
		require.True(t, p.Holds(2))
		close(release)
		require.Equal(t, []manifest.Kind{manifest.Pinned}, c.fates(2))
		require.False(t, p.Holds(2))
	})
}
