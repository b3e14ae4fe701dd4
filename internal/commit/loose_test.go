package commit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/commit"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
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
	return records(record.SlotKey(3), record.Number(stamp))
}

func refuse(stamp int64) *pb.TxnRequest {
	return records(record.MarkKey(0), record.MarkValue(stamp, record.SlotAhead))
}

func records(key, value []byte) *pb.TxnRequest {
	put := &pb.PutRequest{Key: key, Value: value}
	return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}
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
		require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(3), "some lane marks it")
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
		why   record.Reason
		err   error
	}{
		"landed":  {req: setClock, fault: loseReply, kind: mergedlog.Landed},
		"refused": {req: refuse, fault: loseReply, kind: mergedlog.Refused, why: record.SlotAhead},
		"dead":    {req: setClock, fault: loseRequest, kind: mergedlog.Dead},
		"refused by the server": {
			req: setClock, err: rpctypes.ErrGRPCPermissionDenied,
			fault: func(context.Context, *pb.TxnRequest, func() (*pb.TxnResponse, error)) (*pb.TxnResponse, error) {
				return nil, rpctypes.ErrGRPCPermissionDenied
			},
		},
		"no space, landed": {
			req: setClock, kind: mergedlog.Landed,
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
					require.Equal(t, []record.Reason{record.Surrendered}, c.reasons(s.Rev))
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
