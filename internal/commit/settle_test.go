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
)

// What became of a loose stamp is read off the member's log, or it never lands.
func TestSettle(t *testing.T) {
	noSpace := func(do func() (*pb.TxnResponse, error), lands bool) (*pb.TxnResponse, error) {
		if lands {
			_, _ = do()
		}
		return nil, rpctypes.ErrGRPCNoSpace
	}
	for name, tc := range map[string]struct {
		req   func(stamp int64) *pb.TxnRequest
		fault fault
		kind  mergedlog.OutcomeKind
		why   manifest.Kind
		err   error
	}{
		"landed":  {req: setClock, fault: loseReply, kind: mergedlog.Landed, why: manifest.Landed},
		"refused": {req: refuse, fault: loseReply, kind: mergedlog.Refused, why: manifest.Pinned},
		"dead":    {req: setClock, fault: loseRequest, kind: mergedlog.Dead},
		"refused by the server": {
			req: setClock, err: rpctypes.ErrGRPCPermissionDenied,
			fault: func(context.Context, *pb.TxnRequest, func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
				return nil, rpctypes.ErrGRPCPermissionDenied
			},
		},
		"no space, landed": {
			req: setClock, kind: mergedlog.Landed, why: manifest.Landed,
			fault: func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
				return noSpace(do, true)
			},
		},
		"no space": {
			req: setClock, err: rpctypes.ErrGRPCNoSpace,
			fault: func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
				return noSpace(do, false)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, c *cluster) {
				p := c.start(func() time.Duration { return 5 * time.Millisecond })
				c.members[0].setFault(tc.fault)
				s, err := p.loose(tc.req)
				c.members[0].setFault(nil)
				require.Error(t, err)
				out, err := p.Settle(0, s, err)
				require.Equal(t, tc.err, err)
				require.Equal(t, tc.kind, out.Kind)
				require.Equal(t, tc.why, out.Reason)
				_, fence := c.members[0].fence()
				require.Equal(t, tc.kind == mergedlog.Dead, fence >= s.Rev, "a fence only where nothing else tells")
				if err != nil {
					p.Surrender(s)
					require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(s.Rev))
				} else {
					p.Landed(s)
				}
				p.log.Untrack(0, s.Epoch, s.Rev)
				p.stop()
				c.settled(p)
			})
		})
	}
}

// Whoever has nothing to look it up in cannot find out.
func TestSettleGivesUp(t *testing.T) {
	for name, cause := range map[string]error{"lost": errFault, "no space": rpctypes.ErrGRPCNoSpace} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, c *cluster) {
				p := c.start(nil)
				c.members[0].setFault(loseRequest)
				s, err := p.loose(setClock)
				require.Error(t, err)
				time.AfterFunc(time.Minute, p.Close)
				began := time.Now()
				_, err = p.Settle(0, s, errFault) // no fence can be raised
				require.ErrorIs(t, err, commit.ErrUnknown)
				require.NotErrorIs(t, err, commit.ErrClosed)
				require.Equal(t, time.Minute, time.Since(began))

				p.log.Untrack(0, s.Epoch, s.Rev)
				_, err = p.Settle(0, s, cause)
				require.ErrorIs(t, err, commit.ErrUnknown)
			})
		})
	}
}

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

// A refusal whose answer was lost is no fence's where it is a guard's: what the operation was built on did not hold.
func TestLostRefusalSaysWhose(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *cluster) {
		p, q := c.start(nil), c.start(nil)
		c.members[0].setFault(once(func(_ context.Context, _ *pb.TxnRequest, do func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
			_, err := q.write(ctx, put("a", "theirs"))
			require.NoError(t, err)
			return loseReply(ctx, nil, do)
		}))
		r, err := p.try(ctx, put("a", "mine"))
		require.NoError(t, err)
		require.True(t, r.Settled)
		require.False(t, r.Outcome.Landed)
		require.False(t, r.Outcome.Fenced)
		p.stop()
		q.stop()
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
			require.Empty(t, c.fates(r.Stamp))
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
		require.Empty(t, c.fates(2), "nobody was told that it was refused")
		p.stop()
		c.settled(p)
	})
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
		require.Equal(t, []manifest.Kind{manifest.Landed}, c.fates(r.Stamp), "it landed, and was not surrendered as well")
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
		require.Empty(t, c.fates(2), "it may have landed: it is not marked elsewhere")
	})
}

type forgetful struct{ commit.Doubts }

func (forgetful) Seen(context.Context, int, int64, int64, int64) (mergedlog.Outcome, error) {
	return mergedlog.Outcome{}, mergedlog.ErrForgotten
}
