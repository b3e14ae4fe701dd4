package snapshot

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Level is how much of its pairs a request needs. The user's revisions are in the header of the stored value, so a member that is
// asked for keys alone does not tell them.
type Level int

// The levels, each with what the ones before it have.
const (
	Keys   Level = iota // the keys
	Heads               // what the headers say: revisions, version and lease
	Values              // the values
)

// Levels returns what Select must be shown of the pairs of the bases, and what the pairs of the answer to req must have. Where the
// first is less than the second, the bases are read without values, and what Select has left is completed: so a request
// that sorts or filters many pairs to show a few moves the values of those few.
func Levels(req *pb.RangeRequest) (shown, answered Level) {
	switch all := req.Limit <= 0 && !filtered(req); {
	case req.CountOnly:
		return Keys, Keys
	case req.SortTarget == pb.RangeRequest_VALUE, !req.KeysOnly && (all || window(req) > 0):
		return Values, Values // it is sorted by them, or shows about as many pairs as it reads
	}
	if req.SortTarget != pb.RangeRequest_KEY || filtered(req) {
		shown = Heads
	}
	if req.KeysOnly {
		return shown, Heads
	}
	return shown, Values
}

// unread is recognised by its address.
var unread = make([]byte, 0, 1)

// SetUnread marks a pair of a base whose value was not read, so that it can be told from one whose value is empty, and from
// one that comes from a tail.
func SetUnread(kv *mvccpb.KeyValue) { kv.Value = unread }

// Unread reports whether a pair's value was not read.
func Unread(kv *mvccpb.KeyValue) bool {
	return len(kv.Value) == 0 && cap(kv.Value) == 1 && &kv.Value[:1][0] == &unread[:1][0]
}
