package translate_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/translate"
)

// What puts and deletes a key in one transaction, in whatever shape etcd lets pass, is not sent as one revision of a member.
func TestPutAndDeleteOfAKeyTakeRounds(t *testing.T) {
	in := func(ops ...*pb.TxnRequest) *pb.TxnRequest { // in the transaction itself
		req := &pb.TxnRequest{}
		for _, op := range ops {
			req.Success = append(req.Success, op.Success...)
		}
		return req
	}
	from, k := remove("a", "\x00"), put("k", "")
	other := &pb.TxnRequest{Success: put("k", "").Success, Failure: remove("k", "").Success}
	other.Compare = absent("k", k).Compare
	for name, x := range map[string]struct {
		req    *pb.TxnRequest
		rounds bool
	}{
		"delete from a key on, put":     {in(from, k), true},
		"put, delete from a key on":     {in(k, from), true},
		"delete, put, delete":           {in(from, k, from), true},
		"delete everything, put":        {in(remove("\x00", "\x00"), k), true},
		"put here, delete there":        {in(k, &pb.TxnRequest{Success: []*pb.RequestOp{nested(from)}}), true},
		"one nested behind the other":   {both(k, remove("k", "")), true},
		"a range nested behind":         {both(k, remove("j", "l")), true},
		"deep":                          {both(both(put("z", ""), k), both(remove("b", ""), remove("k", ""))), true},
		"another key":                   {both(k, remove("b", "")), false},
		"a range without it":            {both(k, remove("l", "z")), false},
		"from a key on behind it":       {in(remove("l", "\x00"), k), false},
		"on branches of which one runs": {other, false},
		"two deletes":                   {in(from, from), false},
		"reserved names":                {in(k, remove("\x00", "\x01")), false},
	} {
		m := newMember(t)
		require.True(t, m.land(put("z", ""), m.look(), 10).Landed)
		plan, v := translate.NewPlan(x.req, m.ring), m.look()
		run, err := v.evaluate(plan)
		require.NoError(t, err)
		require.Equal(t, x.rounds, run.Rounds(), name)
		_, err = plan.Guard(run, v.state, 20, 0, m.ring.Slot)
		require.Equal(t, x.rounds, err != nil, name)
		_, excluded := plan.Exclude(run, v.state, v.rev, 20, 1, 0, m.ring.Slot)
		require.Equal(t, x.rounds, excluded != nil, name)
		if x.rounds {
			require.ErrorIs(t, err, translate.ErrRounds, name)
			require.ErrorIs(t, excluded, translate.ErrRounds, name)
		}
	}
}
