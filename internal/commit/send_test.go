package commit_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/metaetcd/metaetcd/internal/manifest"
)

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

// An error that is one operation's own does not say whose: the flight is halved until it is alone.
func TestOnlyTheGuiltyFail(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *cluster) {
		p := c.start(nil)
		keys := c.keysOn(0, 60)
		release := c.members[0].hang()
		head := p.later(ctx, put(keys[59], ""))
		given, err := p.try(ctx, leased(c.keysOn(1, 1)[0], "", 99))
		require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseNotFound)
		var good []*pending
		var bad []*pending
		for i, key := range keys[:59] /* a whole batch */ {
			if i == 3 || i == 17 {
				bad = append(bad, p.later(ctx, leased(key, "", 99)))
			} else {
				good = append(good, p.later(ctx, put(key, "")))
			}
		}
		release()
		head.landed(c)
		stamps := map[int64]bool{}
		for _, x := range good {
			stamps[x.landed(c).Stamp] = true
		}
		for _, x := range bad {
			<-x.done
			require.ErrorIs(t, x.err, rpctypes.ErrGRPCLeaseNotFound)
			require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(x.Stamp))
			stamps[x.Stamp] = true
		}
		require.Len(t, stamps, 59)
		require.Len(t, c.clock.taken, 61, "nobody needed another stamp")
		require.Equal(t, []manifest.Kind{manifest.Surrendered}, c.fates(given.Stamp), "by the flight that was halved")
		require.Equal(t, "a", c.marksOf(1, given.Stamp)[0].member)
		require.Zero(t, p.refused)
		p.stop()
		c.settled(p)
	})
}
