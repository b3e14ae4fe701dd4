package commit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

// loose takes a stamp and sends it to member 0 as the clock of a slot, without a lane.
func (p *process) loose(req func(stamp int64) *pb.TxnRequest) (commit.Stamp, error) {
	s, err := p.Take(ctx)
	require.NoError(p.c.t, err)
	require.True(p.c.t, p.Holds(s.Rev))
	p.log.Track(0, s.Epoch, mergedlog.Sent{Stamp: s.Rev, Txn: req(s.Rev)})
	_, err = p.c.members[0].txn(ctx, p, req(s.Rev))
	return s, err
}

func setClock(stamp int64) *pb.TxnRequest {
	return records(stamp, manifest.Landed, &pb.PutRequest{Key: record.SlotKey(3), Value: record.Number(stamp)})
}

func refuse(stamp int64) *pb.TxnRequest {
	return records(stamp, manifest.Pinned)
}

func records(stamp int64, kind manifest.Kind, puts ...*pb.PutRequest) *pb.TxnRequest {
	req := &pb.TxnRequest{Success: []*pb.RequestOp{translate.Note(manifest.Of(kind, stamp)...)}}
	for _, put := range puts {
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	return req
}

func TestLooseStampsAreHeld(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		landed, err := p.loose(setClock)
		require.NoError(t, err)
		given, err := p.Take(ctx)
		require.NoError(t, err)
		require.Equal(t, []commit.Stamp{{Rev: 2, Epoch: 1}, {Rev: 3, Epoch: 1}}, []commit.Stamp{landed, given})
		require.True(t, p.Holds(2))
		require.True(t, p.Holds(3))
		p.Landed(landed)
		require.False(t, p.Holds(2))
		require.True(t, p.Holds(3))
		p.Surrender(given)
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(3), "some lane marks it")
		require.False(t, p.Holds(3))
		p.log.Untrack(0, 1, 2)
		p.stop()
		c.settled(p)
	})
}

func TestTakeFailsWithItsContext(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		open := c.clock.shut()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := p.Take(short)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		open()
		p.stop()
		c.settled(p)
	})
}

// A member that takes nothing any more cannot mark anything either.
func TestSurrenderedStampsDoNotSpin(t *testing.T) {
	for _, cause := range []error{rpctypes.ErrGRPCNoSpace, rpctypes.ErrGRPCPermissionDenied, errFault} {
		bubble(t, 2, func(t *testing.T, c *cluster) {
			p := c.start(nil)
			for _, m := range c.members {
				m.setFault(func(context.Context, *pb.TxnRequest, func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
					time.Sleep(time.Millisecond)
					return nil, cause
				})
			}
			member, op := c.op(put("b", ""))
			op.Build = func(int64, int) (*translate.Guarded, error) { return nil, errNothing }
			_, err := p.Do(ctx, member, op)
			require.ErrorIs(t, err, errNothing)
			time.Sleep(10 * time.Second)
			leaving, leave := context.WithTimeout(ctx, 5*time.Second)
			defer leave()
			for _, req := range []*pb.TxnRequest{put("a", ""), remove("a", "b")} {
				_, err := p.try(leaving, req)
				require.Error(t, err)
			}
			time.Sleep(time.Minute)
			require.Less(t, c.requests(), 5000)
			for _, m := range c.members {
				m.setFault(nil)
			}
			time.Sleep(time.Second)
			c.settled(p)
		})
	}
}

// Stamps of an older epoch are dead. A mark of theirs could be mistaken for a new stamp.
func TestNewEpoch(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 4)
		release := c.members[0].hang()
		out, waits := p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], ""))
		exclusive := p.later(ctx, remove("a", "z"))
		c.rebuild()
		release()
		<-out.done
		require.NoError(t, out.err)
		require.False(t, out.Outcome.Landed)
		require.True(t, out.Outcome.Fenced)
		require.Equal(t, int64(1), out.Epoch)
		require.Positive(t, c.clock.syncs)
		r := waits.landed(c)
		require.Equal(t, int64(2), r.Epoch)
		exclusive.landed(c)
		p.stop()
		for _, m := range c.members {
			for _, l := range m.marks {
				require.Equal(t, int64(2), l.epoch)
				require.True(t, c.clock.taken[taken{2, l.stamp}], "stamp %d is of the old epoch", l.stamp)
			}
		}
		c.settled(p)
	})
}

// A number that did not land is handed out again in the new epoch: the old one's end does not touch it.
func TestNumbersComeAgain(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		releaseOld, releaseNew := c.members[0].hang(), c.members[1].hang()
		old := p.later(ctx, put(c.keysOn(0, 1)[0], ""))
		c.rebuild()
		again := p.later(ctx, put(c.keysOn(1, 1)[0], ""))
		releaseOld()
		<-old.done
		require.False(t, old.Outcome.Landed)
		require.True(t, p.Holds(old.Stamp))
		releaseNew()
		require.Equal(t, old.Stamp, again.landed(c).Stamp)
		require.False(t, p.Holds(old.Stamp))
		p.stop()
		c.settled(p)
	})
}

// rebuild makes a new epoch, as after the loss of the coordinator.
func (c *cluster) rebuild() {
	c.clock.mu.Lock()
	defer c.clock.mu.Unlock()
	base := int64(0)
	for _, m := range c.members {
		_, f := m.fence()
		m.put(record.KeyFence, record.Pair(c.clock.epoch+1, f))
		clock, err := record.ParseClock(m.server.Get(record.KeyClock))
		require.NoError(c.t, err)
		base = max(base, f, clock.Highest)
	}
	c.clock.epoch++
	c.clock.next = base + 1 // numbers that did not land are handed out again
}
