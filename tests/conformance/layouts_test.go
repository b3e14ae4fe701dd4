package conformance

import (
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd"
)

// layout is a meta cluster to compare with, and what its sharding policy keeps on one member.
type layout struct {
	name     string
	members  int
	sharding metaetcd.Sharding
	group    func(key string) string // keys with the same group share a member
	within   func(key, end string) bool
}

var layouts = []layout{
	{
		name: "keys spread", members: 3,
		group:  func(key string) string { return key },
		within: func(_, end string) bool { return end == "" },
	},
	{
		name: "prefixes spread", members: 3, sharding: metaetcd.Sharding{Segments: 1},
		group: segment,
		within: func(key, end string) bool {
			s := segment(key)
			return end == "" || strings.HasSuffix(s, "/") && end != "\x00" && end <= clientv3.GetPrefixRangeEnd(s)
		},
	},
	{
		name: "one member", members: 1,
		group:  func(string) string { return "" },
		within: func(string, string) bool { return true },
	},
}

// segment is the first path segment of a key, with its separator, or the whole key.
func segment(key string) string {
	if i := strings.IndexByte(key, '/'); i >= 0 {
		return key[:i+1]
	}
	return key
}

// contained tells whether everything that a request compares or writes, on whatever branch, lives on one member as the
// layout promises.
func (l *layout) contained(req any) bool {
	groups := map[string]bool{}
	return l.collect(req, groups) && len(groups) <= 1
}

// collect adds the groups of what a request compares and writes; false: one of its ranges leaves its group.
func (l *layout) collect(req any, groups map[string]bool) bool {
	within := func(key, end []byte) bool {
		groups[l.group(string(key))] = true
		return l.within(string(key), string(end))
	}
	switch req := req.(type) {
	case *pb.PutRequest:
		return within(req.Key, nil)
	case *pb.DeleteRangeRequest:
		return within(req.Key, req.RangeEnd)
	case *pb.TxnRequest:
		all := true
		for _, c := range req.Compare {
			all = within(c.Key, c.RangeEnd) && all
		}
		for _, op := range slices.Concat(req.Success, req.Failure) {
			all = l.collect(inner(op), groups) && all
		}
		return all
	}
	return true
}

// crossMessage begins the text of a metaetcd.CrossMemberError.
const crossMessage = "metaetcd: compares and writes lie on several members"

// crosses recognizes the refusal of what spans members; on the wire it is a status.
func crosses(err error) bool {
	var cross *metaetcd.CrossMemberError
	return errors.As(err, &cross) ||
		status.Code(err) == codes.InvalidArgument && strings.HasPrefix(status.Convert(err).Message(), crossMessage)
}
