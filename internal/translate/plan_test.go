package translate_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/ring"
	"github.com/metaetcd/metaetcd/internal/translate"
)

func TestPlan(t *testing.T) {
	r, err := ring.New([]string{"m", "n"}, 4096, ring.Policy{})
	require.NoError(t, err)
	keys := map[int]string{} // one of each member
	for k := byte('a'); len(keys) < 2; k++ {
		keys[r.MemberOf([]byte{k})] = string(k)
	}
	inner := absent(keys[0], put(keys[1], "value"))
	outer := remove(keys[1], "")
	outer.Failure = []*pb.RequestOp{nested(inner), {Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("read")}}}}

	p := translate.NewPlan(outer, r)
	require.ElementsMatch(t, []string{keys[0], keys[1]}, strings(p.Keys), "of all branches, each once, without what is only read")
	require.Equal(t, []int{0, 1}, p.Members)
	require.True(t, p.Writes)
	require.False(t, p.Exclusive())
	require.Equal(t, 3*(len(keys[0])+len(keys[1]))+len("value"), p.Size())
	require.False(t, p.DemandsAbsent([]byte(keys[0])), "not on the outer level")
	require.True(t, translate.NewPlan(inner, r).DemandsAbsent([]byte(keys[0])))
	require.False(t, translate.NewPlan(inner, r).DemandsAbsent([]byte(keys[1])))

	p = translate.NewPlan(remove("\x00", "\x00"), r)
	require.True(t, p.Exclusive())
	require.Equal(t, []translate.Range{{Key: []byte{1}, End: []byte{0}}}, p.Deleted)
	require.Equal(t, []int{0, 1}, p.Members)

	p = translate.NewPlan(remove("\x00", "\x01"), r)
	require.False(t, p.Exclusive(), "it holds no user key")
	require.Empty(t, p.Members)
	require.True(t, p.Writes)
}

func TestPlanBlind(t *testing.T) {
	r, err := ring.New([]string{"m"}, 1, ring.Policy{})
	require.NoError(t, err)
	keepValue, keepLease := put("a", ""), put("a", "")
	keepValue.Success[0].GetRequestPut().IgnoreValue = true
	keepLease.Success[0].GetRequestPut().IgnoreLease = true
	two := put("a", "")
	two.Success = append(two.Success, put("b", "").Success...)
	for name, tt := range map[string]struct {
		req  *pb.TxnRequest
		want bool
	}{
		"put":        {put("a", ""), true},
		"delete":     {remove("a", ""), false},
		"compared":   {absent("b", put("a", "")), false},
		"two puts":   {two, false},
		"keep value": {keepValue, false},
		"keep lease": {keepLease, false},
		"nested":     {both(put("a", ""), put("b", "")), false},
	} {
		require.Equal(t, tt.want, translate.NewPlan(tt.req, r).Blind(), name)
	}
}

// A cached state has no value, and of the version only a lower bound.
func TestPlanNeedsValues(t *testing.T) {
	r, err := ring.New([]string{"m"}, 1, ring.Policy{})
	require.NoError(t, err)
	compared := func(target pb.Compare_CompareTarget, c *pb.Compare) *pb.TxnRequest {
		c.Key, c.Target = []byte("a"), target
		return &pb.TxnRequest{Success: []*pb.RequestOp{nested(&pb.TxnRequest{Compare: []*pb.Compare{c}})}}
	}
	keepValue := put("a", "")
	keepValue.Success[0].GetRequestPut().IgnoreValue = true
	for name, tt := range map[string]struct {
		req  *pb.TxnRequest
		want bool
	}{
		"put":          {put("a", "v"), false},
		"keep value":   {keepValue, true},
		"value":        {compared(pb.Compare_VALUE, &pb.Compare{TargetUnion: &pb.Compare_Value{}}), true},
		"mod":          {compared(pb.Compare_MOD, &pb.Compare{TargetUnion: &pb.Compare_ModRevision{ModRevision: 3}}), false},
		"create":       {compared(pb.Compare_CREATE, &pb.Compare{TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 3}}), false},
		"lease":        {compared(pb.Compare_LEASE, &pb.Compare{TargetUnion: &pb.Compare_Lease{Lease: 3}}), false},
		"version":      {compared(pb.Compare_VERSION, &pb.Compare{TargetUnion: &pb.Compare_Version{Version: 3}}), true},
		"zero version": {compared(pb.Compare_VERSION, &pb.Compare{TargetUnion: &pb.Compare_Version{}}), false},
	} {
		require.Equal(t, tt.want, translate.NewPlan(tt.req, r).NeedValue, name)
	}
}

// What may turn out to change nothing must not take a stamp before that is known.
func TestPlanAlwaysWrites(t *testing.T) {
	r, err := ring.New([]string{"m"}, 1, ring.Policy{})
	require.NoError(t, err)
	with := func(change func(req *pb.TxnRequest)) *pb.TxnRequest {
		req := absent("a", put("a", ""))
		change(req)
		return req
	}
	keep := func(change func(p *pb.PutRequest)) *pb.TxnRequest {
		req := put("a", "")
		change(req.Success[0].GetRequestPut())
		return req
	}
	read := func(rev int64) *pb.TxnRequest {
		req := put("a", "")
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("b"), Revision: rev}}})
		return req
	}
	behind := put("a", "")
	behind.Success = append(behind.Success, remove("b", "").Success...)
	for name, tt := range map[string]struct {
		req  *pb.TxnRequest
		want bool
	}{
		"put":               {put("a", ""), true},
		"two puts":          {both(put("a", ""), put("b", "")), true},
		"put and delete":    {behind, true},
		"put and read":      {read(0), true},
		"on both branches":  {with(func(req *pb.TxnRequest) { req.Failure = put("b", "").Success }), true},
		"on one branch":     {with(func(req *pb.TxnRequest) {}), false},
		"on the other":      {with(func(req *pb.TxnRequest) { req.Success, req.Failure = nil, req.Success }), false},
		"nested on one":     {&pb.TxnRequest{Success: []*pb.RequestOp{nested(absent("a", put("a", "")))}}, false},
		"delete":            {remove("a", ""), false},
		"keeps a value":     {keep(func(p *pb.PutRequest) { p.IgnoreValue = true }), false},
		"keeps a lease":     {keep(func(p *pb.PutRequest) { p.IgnoreLease = true }), false},
		"reads a revision":  {read(7), false},
		"puts and deletes":  {both(put("a", ""), remove("a", "")), false},
		"in another branch": {with(func(req *pb.TxnRequest) { req.Failure = both(put("b", ""), remove("a", "")).Success }), false},
	} {
		require.Equal(t, tt.want, translate.NewPlan(tt.req, r).AlwaysWrites(), name)
	}
}

func TestPlanSerializable(t *testing.T) {
	r, err := ring.New([]string{"m"}, 1, ring.Policy{})
	require.NoError(t, err)
	read := func(serializable bool) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Serializable: serializable}}}
	}
	all := &pb.TxnRequest{Success: []*pb.RequestOp{read(true)}, Failure: []*pb.RequestOp{read(true)}}
	one := &pb.TxnRequest{Success: []*pb.RequestOp{read(true)}, Failure: []*pb.RequestOp{read(false)}}
	inner := &pb.TxnRequest{Success: []*pb.RequestOp{nested(all)}}
	require.True(t, translate.NewPlan(all, r).Serializable())
	require.False(t, translate.NewPlan(one, r).Serializable())
	require.False(t, translate.NewPlan(inner, r).Serializable())
	require.False(t, translate.NewPlan(put("a", ""), r).Serializable())
}

// A member that answers with another shape is not believed.
func TestDecodeRefusesOtherShapes(t *testing.T) {
	m := newMember(t)
	v := m.look()
	plan := translate.NewPlan(absent("b", put("a", "")), m.ring)
	run, err := plan.Evaluate(v)
	require.NoError(t, err)
	g, err := plan.Guard(run, v.state, 10, 0, m.ring.Slot)
	require.NoError(t, err)
	x, err := plan.Exclude(run, v.state, v.rev, 10, 1, 0, m.ring.Slot)
	require.NoError(t, err)
	answer := func(ops ...*pb.ResponseOp) *pb.ResponseOp {
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Succeeded: true, Responses: ops}}}
	}
	foreign := &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}
	for name, resp := range map[string]*pb.TxnResponse{
		"nothing":          {Succeeded: true},
		"a put":            {Succeeded: true, Responses: []*pb.ResponseOp{foreign}},
		"an empty answer":  {Succeeded: true, Responses: []*pb.ResponseOp{answer()}},
		"a refusal":        {},
		"an empty refusal": {Responses: []*pb.ResponseOp{answer()}},
		"a lost epoch": {Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{
			Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}}},
		}}}}},
	} {
		for _, together := range []bool{false, true} {
			b := translate.Batch{Epoch: 1, Ops: []*translate.Guarded{g}, Together: together}
			_, _, err := b.Decode(resp)
			if name == "a put" && together {
				continue // of the operation's two effects
			}
			require.Error(t, err, "%s, together %v", name, together)
		}
		if name != "a put" {
			_, err := x.Decode(resp)
			require.Error(t, err, "%s, exclusive", name)
		}
	}
}
