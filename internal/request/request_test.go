package request_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/etcdfake"
	"github.com/metaetcd/metaetcd/internal/request"
)

func TestOperations(t *testing.T) {
	r, p, d, x := &pb.RangeRequest{}, &pb.PutRequest{}, &pb.DeleteRangeRequest{}, &pb.TxnRequest{}
	require.Same(t, r, request.Range(r).GetRequestRange())
	require.Same(t, p, request.Put(p).GetRequestPut())
	require.Same(t, d, request.Delete(d).GetRequestDeleteRange())
	require.Same(t, x, request.Txn(x).GetRequestTxn())
}

// The compares mean on an etcd what their comments say: "b" was created at 2 with "1" and put at 3 with "2", "d" is absent.
func TestCompares(t *testing.T) {
	b, d := []byte("b"), []byte("d")
	one, two, three := []byte("1"), []byte("2"), []byte("3")
	kv := etcdfake.New(1).Client(nil)
	for _, v := range [][]byte{one, two} {
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: b, Value: v})
		require.NoError(t, err)
	}
	for name, tt := range map[string]struct {
		c     *pb.Compare
		holds bool
	}{
		"value is":                    {request.ValueIs(b, two), true},
		"value is not":                {request.ValueIs(b, one), false},
		"value is, absent":            {request.ValueIs(d, nil), false},
		"value below":                 {request.ValueBelow(b, three), true},
		"value not below":             {request.ValueBelow(b, two), false},
		"value below, absent":         {request.ValueBelow(d, three), false},
		"value above":                 {request.ValueAbove(b, one), true},
		"value not above":             {request.ValueAbove(b, two), false},
		"absent":                      {request.Absent(d, nil), true},
		"not absent":                  {request.Absent(b, nil), false},
		"absent in a range":           {request.Absent([]byte("c"), []byte("e")), true},
		"not absent in a range":       {request.Absent([]byte("a"), []byte("c")), false},
		"create is":                   {request.CreateIs(b, 2), true},
		"create is not":               {request.CreateIs(b, 3), false},
		"create is, absent":           {request.CreateIs(d, 0), true},
		"mod is":                      {request.ModIs(b, 3), true},
		"mod is not":                  {request.ModIs(b, 2), false},
		"mod is, absent":              {request.ModIs(d, 0), true},
		"mod below in a range":        {request.ModBelow([]byte("a"), []byte("z"), 4), true},
		"mod not below in a range":    {request.ModBelow([]byte("a"), []byte("z"), 3), false},
		"mod below in an empty range": {request.ModBelow([]byte("c"), []byte("z"), 1), true},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := kv.Txn(t.Context(), &pb.TxnRequest{Compare: []*pb.Compare{tt.c}})
			require.NoError(t, err)
			require.Equal(t, tt.holds, resp.Succeeded)
		})
	}
}

func TestCreate(t *testing.T) {
	e := etcdfake.New(1)
	for _, v := range []string{"first", "second"} {
		op := request.Create(&pb.PutRequest{Key: []byte("k"), Value: []byte(v)})
		_, err := e.Client(nil).Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{op}})
		require.NoError(t, err)
	}
	require.Equal(t, "first", string(e.Get("k")))
}
