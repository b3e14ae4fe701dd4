package translate

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// Leases returns the leases that the run attaches keys to, each once.
func (r *Run) Leases() []int64 {
	var ids []int64
	for _, s := range r.Steps {
		if s.Put != nil && s.Put.Lease != 0 && !slices.Contains(ids, s.Put.Lease) {
			ids = append(ids, s.Put.Lease)
		}
	}
	return ids
}

// pinLeases appends what holds while the leases that the run attaches keys to are the known, living ones.
func (r *Run) pinLeases(cs []*pb.Compare) []*pb.Compare {
	for _, id := range r.Leases() {
		cs = append(cs, valueIs(record.LeaseKey(id), r.Records[id]))
	}
	return cs
}

// attach appends what keeps the leases' entries in step with the keys that the run puts and deletes. The entry of a key
// whose state is not exactly known may be there already, or stay behind with a lease that the key has left: entries
// name the keys to look at, and whether they are attached is for their headers to say.
func (r *Run) attach(ops []*pb.RequestOp, touched []touch, state func([]byte) State) []*pb.RequestOp {
	for _, t := range touched {
		if !t.put && !t.deleted {
			continue
		}
		s := state(t.key)
		old := s.KV.GetLease()
		now := r.leaseAfter(t.key, old)
		if old != 0 && old != now {
			ops = append(ops, deleteOp(&pb.DeleteRangeRequest{Key: record.AttachedKey(old, t.key)}))
		}
		if now != 0 && (old != now || s.NativeMod == 0) {
			ops = append(ops, putOp(&pb.PutRequest{Key: record.AttachedKey(now, t.key)}))
		}
	}
	return ops
}

// leaseAfter is the lease that a key has after the run, 0 if none or absent; lease is the one it had before.
func (r *Run) leaseAfter(key []byte, lease int64) int64 {
	for _, s := range r.Steps {
		switch {
		case s.Put != nil && string(s.Put.Key) == string(key) && !s.Put.IgnoreLease:
			lease = s.Put.Lease
		case s.Delete != nil && (Range{s.Delete.Key, s.Delete.RangeEnd}).Contains(key):
			lease = 0
		}
	}
	return lease
}
