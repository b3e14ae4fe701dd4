package commit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/translate"
)

func TestLostReplyIsSettled(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(func() time.Duration { return 5 * time.Millisecond })
		for i, req := range []*pb.TxnRequest{put("a", "v"), remove("a", ""), put("b", ""), remove("b", "z")} {
			c.members[0].setFault(once(loseReply))
			r, err := p.try(ctx, req)
			require.NoError(t, err)
			require.True(t, r.Settled)
			require.True(t, r.Outcome.Landed)
			require.False(t, r.Outcome.Fenced)
			require.Equal(t, int64(2+i), r.Stamp, "it was sent once")
			require.Equal(t, c.marksOf(1, r.Stamp)[0].rev, r.Outcome.MemberRev)
		}
		_, f := c.members[0].fence()
		require.Equal(t, int64(5), f, "the exclusive one's: what the log shows in time is not fenced")
		p.stop()
		c.settled(p)
	})
}

func TestLostRequestIsDead(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		for _, req := range []*pb.TxnRequest{put("a", "v"), remove("a", "z")} {
			c.members[0].setFault(once(loseRequest))
			r, err := p.try(ctx, req)
			require.NoError(t, err)
			require.True(t, r.Settled)
			require.False(t, r.Outcome.Landed)
			_, f := c.members[0].fence()
			require.Equal(t, r.Stamp, f, "nothing but the fence tells")
			require.Empty(t, c.reasons(r.Stamp))
			r, err = p.try(ctx, req)
			require.NoError(t, err)
			require.True(t, r.Outcome.Landed)
		}
		p.stop()
		c.settled(p)
	})
}

// A request may arrive when its sender has long given up waiting.
func TestLateRequestIsRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		c.members[0].setFault(once(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			time.AfterFunc(10*time.Second, func() { _, _ = do() })
			return nil, errFault
		}))
		r, err := p.write(ctx, put("a", "v"))
		require.NoError(t, err)
		require.Equal(t, int64(3), r.Stamp)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"v"}, values(c.members[0].puts))
		require.Equal(t, []record.Reason{record.Fenced}, c.reasons(2))
		p.stop()
		c.settled(p)
	})
}

// A member that does not answer gets no stamps, and those that wait for it are marked elsewhere.
func TestStalledLaneHoldsNoStamps(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys, other := c.keysOn(0, 4), c.keysOn(1, 1)[0]
		release := c.members[0].hang()
		out, waits := p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], ""))
		require.Equal(t, int64(4), c.clock.next)
		require.False(t, p.Stalled(0))
		time.Sleep(1100 * time.Millisecond)
		require.True(t, p.Stalled(0))
		require.False(t, p.Stalled(1))
		require.True(t, p.Holds(2), "sent, outcome unknown")
		require.False(t, p.Holds(3))
		require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(3))
		require.Equal(t, int64(1), int64(len(c.marksOf(1, 3))))
		late := p.later(ctx, put(keys[2], ""))
		time.Sleep(3 * time.Second)
		require.Equal(t, int64(4), c.clock.next, "no stamps for a stalled lane")
		require.Equal(t, int64(4), p.later(ctx, put(other, "")).landed(c).Stamp)
		release()
		require.Equal(t, int64(2), out.landed(c).Stamp)
		require.Equal(t, []int64{5, 6}, sorted(waits.landed(c).Stamp, late.landed(c).Stamp))
		p.stop()
		c.settled(p)
	})
}

// Stamps that were asked for before the lane stalled are given up when they come.
func TestLaneStallsWhileItTakes(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 3)
		release := c.members[0].hang()
		out := p.later(ctx, put(keys[0], ""))
		open := c.clock.shut()
		waits := p.later(ctx, put(keys[1], ""))
		time.Sleep(1100 * time.Millisecond)
		open()
		require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(3))
		require.Equal(t, int64(4), c.clock.next)
		release()
		out.landed(c)
		require.Equal(t, int64(4), waits.landed(c).Stamp)
		p.stop()
		c.settled(p)
	})
}

// What was about to fly when the lane stalled keeps no stamp either.
func TestLaneStallsWhileItBuilds(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil, func(cfg *commit.Config) { cfg.MaxTxnOps = 11 }) // one operation in a flight
		keys := c.keysOn(0, 2)
		release := c.members[0].hang()
		out := p.later(ctx, beside("key", put(keys[0], "")))
		member, op := c.op(beside("key", put(keys[1], "")))
		op.Keys = [][]byte{[]byte(keys[1])} // it must wait for the slot clock of "key"
		build := op.Build
		op.Build = func(stamp int64, mark int) (*translate.Guarded, error) {
			if stamp == 3 {
				time.Sleep(2 * time.Second)
			}
			return build(stamp, mark)
		}
		waits := p.doLater(ctx, member, op)
		time.Sleep(3 * time.Second)
		require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(3))
		release()
		out.landed(c)
		require.Equal(t, int64(4), waits.landed(c).Stamp)
		p.stop()
		c.settled(p)
	})
}

// With no member to mark them, stamps wait for the first that recovers.
func TestAllLanesStall(t *testing.T) {
	for _, lost := range []bool{false, true} {
		bubble(t, 2, func(t *testing.T, c *cluster) {
			p := c.start(nil)
			var all []*pending
			var release []func()
			for i, m := range c.members {
				if lost {
					m.setFault(loseRequest)
					release = append(release, func() { m.setFault(nil) })
				} else {
					release = append(release, m.hang())
				}
				keys := c.keysOn(i, 3)
				all = append(all, p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], "")))
			}
			time.Sleep(time.Second / 2)
			for i := range c.members {
				all = append(all, p.later(ctx, put(c.keysOn(i, 3)[2], "")))
			}
			time.Sleep(10 * time.Second)
			require.True(t, p.Stalled(0))
			require.True(t, p.Stalled(1))
			require.Less(t, c.requests(), 1000, "nobody spins")
			release[1]()
			time.Sleep(10 * time.Second)
			require.False(t, p.Stalled(1))
			release[0]()
			for _, x := range all {
				<-x.done
				require.NoError(t, x.err)
			}
			time.Sleep(time.Second)
			c.settled(p)
		})
	}
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

// Etcd applies the first request over its quota, and answers that there is no space.
func TestOutOfSpaceMayHaveLanded(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(func() time.Duration { return 50 * time.Millisecond })
		c.members[0].setFault(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			_, err := do()
			require.NoError(t, err)
			return nil, rpctypes.ErrGRPCNoSpace
		})
		r, err := p.try(ctx, put("a", ""))
		require.NoError(t, err)
		require.True(t, r.Outcome.Landed)
		require.True(t, r.Settled)
		time.Sleep(time.Second)
		require.Equal(t, []record.Reason{0}, c.reasons(r.Stamp), "it landed, and was not surrendered as well")
		c.members[0].setFault(nil)
		p.stop()
		c.settled(p)
	})
}

// What was compacted meanwhile cannot be told.
func TestOutOfSpaceAndNoLog(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil, func(cfg *commit.Config) { cfg.Doubts = forgetful{cfg.Doubts} })
		c.members[0].setFault(once(func(context.Context, *pb.TxnRequest, func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			return nil, rpctypes.ErrGRPCNoSpace
		}))
		_, err := p.try(ctx, put("a", ""))
		require.ErrorIs(t, err, commit.ErrUnknown)
		require.ErrorIs(t, err, mergedlog.ErrForgotten)
		require.False(t, p.Holds(2))
		require.Empty(t, c.reasons(2), "it may have landed: it is not marked elsewhere")
	})
}

type forgetful struct{ commit.Doubts }

func (forgetful) Seen(context.Context, int, int64, int64, int64) (mergedlog.Outcome, error) {
	return mergedlog.Outcome{}, mergedlog.ErrForgotten
}

func TestBusyServersAreAskedAgain(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		refusals := 0
		c.members[0].setFault(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			if refusals++; refusals < 20 {
				return nil, rpctypes.ErrGRPCRequestTooManyRequests
			}
			return do()
		})
		r, err := p.try(ctx, put("a", ""))
		require.NoError(t, err)
		require.Equal(t, int64(2), r.Stamp)
	})
}

// The first half's answer is lost: the second half does not wait for it with its stamps.
func TestPartsOfARefusedFlightGoBack(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 9)
		release := c.members[0].hang()
		head := p.later(ctx, put(keys[8], ""))
		var all []*pending
		for i, key := range keys[:8] {
			req := put(key, "")
			if i == 7 {
				req = leased(key, "", 99)
			}
			all = append(all, p.later(ctx, req))
		}
		release()
		requests := 0
		c.members[0].setFault(func(ctx context.Context, req *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			if len(written(req)) == 0 || requests == 2 {
				return do()
			}
			if requests++; requests == 1 {
				return do() // the whole flight, refused
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		head.landed(c)
		time.Sleep(10500 * time.Millisecond) // the first half's time is over
		landed := 0
		for i, x := range all {
			<-x.done
			switch {
			case i == 7:
				require.ErrorIs(t, x.err, rpctypes.ErrGRPCLeaseNotFound)
				require.Equal(t, int64(14), x.Stamp, "it was refused with a new stamp")
			case i < 4:
				require.True(t, x.Settled)
				require.False(t, x.Outcome.Landed)
			default:
				require.Greater(t, x.landed(c).Stamp, int64(10))
				landed++
			}
		}
		require.Equal(t, 3, landed)
		p.stop()
		c.settled(p)
	})
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
		_, high, err := record.ParsePair(m.server.Get(record.KeyClock))
		require.NoError(c.t, err)
		base = max(base, f, high)
	}
	c.clock.epoch++
	c.clock.next = base + 1 // numbers that did not land are handed out again
}

func TestClose(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 6)
		release := c.members[0].hang()
		out, stamped := p.later(ctx, put(keys[0], "")), p.later(ctx, put(keys[1], ""))
		unready := func() *pending {
			member, op := c.op(put(keys[4], ""))
			op.Ready = make(chan struct{})
			return p.doLater(ctx, member, op)
		}()
		open := c.clock.shut()
		taking, queued := p.later(ctx, put(keys[2], "")), p.later(ctx, put(keys[3], ""))
		closed := make(chan struct{})
		go func() {
			p.Close()
			close(closed)
		}()
		for _, x := range []*pending{stamped, queued, unready} {
			require.True(t, x.over())
			require.ErrorIs(t, x.err, commit.ErrClosed)
		}
		require.False(t, out.over(), "what is in flight is awaited")
		time.Sleep(time.Second / 2)
		open()
		require.True(t, taking.over())
		require.ErrorIs(t, taking.err, commit.ErrClosed)
		release()
		out.landed(c)
		<-closed
		c.settled(p)
		require.Len(t, c.clock.taken, 4)
		_, err := p.try(ctx, put(keys[5], ""))
		require.ErrorIs(t, err, commit.ErrClosed)
		p.Close()
	})
}

func TestCloseWithoutAnAnswer(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 3)
		defer c.members[0].hang()()
		out := p.later(ctx, put(keys[0], ""))
		slow := func() *pending {
			member, op := c.op(put(keys[2], ""))
			op.Ready = make(chan struct{})
			return p.doLater(ctx, member, op)
		}()
		began := time.Now()
		time.Sleep(1100 * time.Millisecond) // it stands aside
		p.Close()
		require.Less(t, time.Since(began), 3*time.Second)
		require.True(t, out.over())
		require.ErrorIs(t, out.err, commit.ErrUnknown)
		require.True(t, slow.over())
		require.ErrorIs(t, slow.err, commit.ErrClosed)
		require.False(t, p.Holds(2))
	})
}

// TestLogEnds: an outcome that one log has not shown is waited for, because another log will, until the pipeline ends.
func TestLogEnds(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		c.members[0].setFault(loseRequest)
		out := p.later(ctx, put("a", ""))
		p.log.Fail(errors.New("gone"))
		time.Sleep(time.Minute)
		require.False(t, out.over())
		p.Close()
		require.True(t, out.over())
		require.ErrorIs(t, out.err, commit.ErrUnknown)
		require.NotErrorIs(t, out.err, commit.ErrClosed)
	})
}
