package validate

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

var key = []byte("k")

// rangeCases are what Range and RangeStream have in common.
var rangeCases = []struct {
	name string
	r    *pb.RangeRequest
	want error
}{
	{"nil", nil, rpctypes.ErrGRPCEmptyKey},
	{"no key", &pb.RangeRequest{RangeEnd: key}, rpctypes.ErrGRPCEmptyKey},
	{"single key", &pb.RangeRequest{Key: key}, nil},
	{"sort order unknown", &pb.RangeRequest{Key: key, SortOrder: 3}, rpctypes.ErrGRPCInvalidSortOption},
	{"sort order negative", &pb.RangeRequest{Key: key, SortOrder: -1}, rpctypes.ErrGRPCInvalidSortOption},
	{"sort target unknown", &pb.RangeRequest{Key: key, SortTarget: 5}, rpctypes.ErrGRPCInvalidSortOption},
	{"no key before sort order", &pb.RangeRequest{SortOrder: 3}, rpctypes.ErrGRPCEmptyKey},
	{"sorted by key", &pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_ASCEND}, nil},
	{"target without order", &pb.RangeRequest{Key: key, SortTarget: pb.RangeRequest_MOD}, nil},
	{"negative limit and revision", &pb.RangeRequest{Key: key, Limit: -1, Revision: -1}, nil},
	{"reserved key", &pb.RangeRequest{Key: []byte("\x00a")}, ErrReservedKey},
	{"sort order before reserved key", &pb.RangeRequest{Key: []byte{0}, SortOrder: 3}, rpctypes.ErrGRPCInvalidSortOption},
	{"everything", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, nil},
	{"range of reserved keys", &pb.RangeRequest{Key: []byte("\x00a"), RangeEnd: []byte("\x00b")}, nil},
}

func TestRange(t *testing.T) {
	for _, tt := range rangeCases {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, Range(tt.r)) })
	}
	for order := range pb.RangeRequest_SortOrder_name {
		for target := range pb.RangeRequest_SortTarget_name {
			r := &pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_SortOrder(order), SortTarget: pb.RangeRequest_SortTarget(target)}
			require.NoError(t, Range(r))
		}
	}
	require.NoError(t, Range(&pb.RangeRequest{Key: key, MinModRevision: 1, MaxCreateRevision: 1}))
}

func TestRangeStream(t *testing.T) {
	for _, tt := range rangeCases {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, RangeStream(tt.r)) })
	}
	for _, tt := range []struct {
		name string
		r    *pb.RangeRequest
		want error
	}{
		{"descending", &pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND}, errStreamOrder},
		{"by version", &pb.RangeRequest{SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_VERSION}, errStreamOrder},
		{"min mod revision", &pb.RangeRequest{MinModRevision: 1}, errStreamFilters},
		{"max mod revision", &pb.RangeRequest{MaxModRevision: 1}, errStreamFilters},
		{"min create revision", &pb.RangeRequest{MinCreateRevision: 1}, errStreamFilters},
		{"max create revision", &pb.RangeRequest{MaxCreateRevision: -1}, errStreamFilters},
		{"order before filters", &pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND, MinModRevision: 1}, errStreamOrder},
		{"sort option before order", &pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND, SortTarget: 5}, rpctypes.ErrGRPCInvalidSortOption},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, rpctypes.ErrGRPCEmptyKey, RangeStream(tt.r))
			tt.r.Key = []byte{0}
			require.Equal(t, tt.want, RangeStream(tt.r))
		})
	}
}

func TestStreamErrorsAreEtcds(t *testing.T) {
	require.EqualError(t, errStreamOrder, "rpc error: code = Unimplemented desc = RangeStream does not support custom sort orders")
	require.EqualError(t, errStreamFilters, "rpc error: code = Unimplemented desc = RangeStream does not support revision filters")
}

func TestPut(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    *pb.PutRequest
		want error
	}{
		{"nil", nil, rpctypes.ErrGRPCEmptyKey},
		{"no key", &pb.PutRequest{Value: key}, rpctypes.ErrGRPCEmptyKey},
		{"key and value", &pb.PutRequest{Key: key, Value: key, Lease: 1, PrevKv: true}, nil},
		{"ignored value", &pb.PutRequest{Key: key, IgnoreValue: true, Lease: 1}, nil},
		{"ignored value given", &pb.PutRequest{Key: key, IgnoreValue: true, Value: key}, rpctypes.ErrGRPCValueProvided},
		{"ignored lease", &pb.PutRequest{Key: key, IgnoreLease: true, Value: key}, nil},
		{"ignored lease given", &pb.PutRequest{Key: key, IgnoreLease: true, Lease: -1}, rpctypes.ErrGRPCLeaseProvided},
		{"no key before value", &pb.PutRequest{IgnoreValue: true, Value: key}, rpctypes.ErrGRPCEmptyKey},
		{"value before lease", &pb.PutRequest{Key: key, IgnoreValue: true, Value: key, IgnoreLease: true, Lease: 1}, rpctypes.ErrGRPCValueProvided},
		{"reserved key", &pb.PutRequest{Key: []byte{0}}, ErrReservedKey},
		{"lease before reserved key", &pb.PutRequest{Key: []byte{0}, IgnoreLease: true, Lease: 1}, rpctypes.ErrGRPCLeaseProvided},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, Put(tt.r))
			require.Equal(t, tt.want, Txn(then(putOp(tt.r)), 1), "in a transaction")
		})
	}
}

func TestDeleteRange(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    *pb.DeleteRangeRequest
		want error
	}{
		{"nil", nil, rpctypes.ErrGRPCEmptyKey},
		{"no key", &pb.DeleteRangeRequest{RangeEnd: key}, rpctypes.ErrGRPCEmptyKey},
		{"single key", &pb.DeleteRangeRequest{Key: key}, nil},
		{"inverted", &pb.DeleteRangeRequest{Key: key, RangeEnd: []byte("a")}, nil},
		{"reserved key", &pb.DeleteRangeRequest{Key: []byte("\x00clock")}, ErrReservedKey},
		{"everything", &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, nil},
		{"range of reserved keys", &pb.DeleteRangeRequest{Key: []byte("\x00a"), RangeEnd: []byte("\x00b")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, DeleteRange(tt.r))
			require.Equal(t, tt.want, Txn(then(delOp(tt.r)), 1), "in a transaction")
		})
	}
}

func TestTxn(t *testing.T) {
	bad := getOp(&pb.RangeRequest{Key: key, SortOrder: 3})
	for _, tt := range []struct {
		name   string
		r      *pb.TxnRequest
		maxOps int
		want   error
	}{
		{"nil", nil, 0, nil},
		{"empty", &pb.TxnRequest{}, 0, nil},
		{"all kinds", then(put("a"), del("b", ""), get("c", ""), nested(then(put("d")))), 5, nil},

		{"as many compares as allowed", when(compare("a", ""), compare("a", "")), 2, nil},
		{"too many compares", when(compare("a", ""), compare("b", "")), 1, rpctypes.ErrGRPCTooManyOps},
		{"too many operations", then(get("a", ""), get("a", "")), 1, rpctypes.ErrGRPCTooManyOps},
		{"too many operations otherwise", otherwise(get("a", ""), get("a", "")), 1, rpctypes.ErrGRPCTooManyOps},
		{"branches count apart", either(ops(put("a"), put("b")), ops(put("a"), put("b"))), 2, nil},
		{"nested fits what is left", then(get("a", ""), nested(then(put("a"), put("b")))), 4, nil},
		{"nested exceeds what is left", then(get("a", ""), nested(then(put("a"), put("b")))), 3, rpctypes.ErrGRPCTooManyOps},
		{"the longest list counts", &pb.TxnRequest{
			Compare: when(compare("a", ""), compare("b", ""), compare("c", "")).Compare,
			Failure: ops(nested(then(put("a")))),
		}, 3, rpctypes.ErrGRPCTooManyOps},
		{"nested twice", then(nested(then(nested(then(put("a")))))), 3, nil},
		{"nested twice, too deep", then(nested(then(nested(then(put("a")))))), 2, rpctypes.ErrGRPCTooManyOps},
		{"empty nested needs nothing", then(nested(&pb.TxnRequest{})), 1, nil},
		{"nil nested is empty", then(nested(nil)), 1, nil},

		{"compare without key", when(compare("", "")), 1, rpctypes.ErrGRPCEmptyKey},
		{"nil compare", when(nil), 1, rpctypes.ErrGRPCEmptyKey},
		{"nested compare without key", then(nested(when(compare("", "b")))), 2, rpctypes.ErrGRPCEmptyKey},
		{"operation without request", then(&pb.RequestOp{}), 1, rpctypes.ErrGRPCKeyNotFound},
		{"nil operation", otherwise(nil), 1, rpctypes.ErrGRPCKeyNotFound},
		{"bad range", then(bad), 1, rpctypes.ErrGRPCInvalidSortOption},
		{"bad range in a nested failure", then(nested(otherwise(bad))), 2, rpctypes.ErrGRPCInvalidSortOption},
		{"streams' limits do not hold here", then(getOp(&pb.RangeRequest{Key: key, MinModRevision: 1})), 1, nil},

		{"count before compares", when(compare("", ""), compare("", "")), 1, rpctypes.ErrGRPCTooManyOps},
		{"compares before operations", &pb.TxnRequest{Compare: when(compare("", "")).Compare, Success: ops(bad)}, 1, rpctypes.ErrGRPCEmptyKey},
		{"success before failure", either(ops(bad), ops(nil)), 1, rpctypes.ErrGRPCInvalidSortOption},
		{"operations in order", then(nil, bad), 2, rpctypes.ErrGRPCKeyNotFound},
		{"shape before overlap", either(ops(put("a"), put("a")), ops(bad)), 2, rpctypes.ErrGRPCInvalidSortOption},
		{"overlap before reserved key", either(ops(put("\x00")), ops(put("a"), put("a"))), 2, rpctypes.ErrGRPCDuplicateKey},

		{"reserved key compared", when(compare("a", ""), compare("\x00lock", "")), 2, ErrReservedKey},
		{"reserved range compared", when(compare("\x00", "\x00")), 1, nil},
		{"reserved key read", then(get("\x00", "")), 1, ErrReservedKey},
		{"reserved range read", then(get("\x00", "\x00")), 1, nil},
		{"reserved key in a failure", otherwise(put("\x00a")), 1, ErrReservedKey},
		{"reserved key in a nested failure", then(nested(otherwise(del("\x00a", "")))), 2, ErrReservedKey},
		{"reserved key in a nested compare", otherwise(nested(when(compare("\x00", "")))), 2, ErrReservedKey},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, Txn(tt.r, tt.maxOps)) })
	}
}
