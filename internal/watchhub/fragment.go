package watchhub

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// eventsField is the number of WatchResponse.events.
const eventsField protowire.Number = 11

// sendFragments sends a response in pieces whose encoded size stays below maxBytes, by etcd's rule: a response of one
// event is never split, and all fragments but the last say so.
func sendFragments(r *pb.WatchResponse, maxBytes int, send func(*pb.WatchResponse) error) error {
	if len(r.Events) < 2 || proto.Size(r) < maxBytes {
		return send(r)
	}
	base := proto.Size(fragmentOf(r, nil))
	for from := 0; from < len(r.Events); {
		to, n := from, base
		for ; to < len(r.Events); to++ {
			n += protowire.SizeTag(eventsField) + protowire.SizeBytes(proto.Size(r.Events[to]))
			if to > from && n >= maxBytes {
				break
			}
		}
		// The receiver appends later fragments to the first, so its slice must end where its events do.
		f := fragmentOf(r, r.Events[from:to:to])
		f.Fragment = to < len(r.Events)
		if err := send(f); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// fragmentOf returns r with other events, as one of several. The header is shared: nobody changes it.
func fragmentOf(r *pb.WatchResponse, evs []*mvccpb.Event) *pb.WatchResponse {
	return &pb.WatchResponse{Header: r.Header, WatchId: r.WatchId, Fragment: true, Events: evs}
}
