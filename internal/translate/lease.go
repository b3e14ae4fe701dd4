package translate

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// Leases returns the leases that keys of the run are attached to by it, or stay attached to when it puts them, each once.
func (r *Run) Leases() []int64 {
	ids := slices.Clone(r.Kept)
	for _, s := range r.Steps {
		if s.Put != nil && s.Put.Lease != 0 && !slices.Contains(ids, s.Put.Lease) {
			ids = append(ids, s.Put.Lease)
		}
	}
	return ids
}

// Attaches reports whether the run attaches a key to a lease by its name.
func (r *Run) Attaches(lease int64) bool {
	return slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Put != nil && s.Put.Lease == lease })
}

// keep notes the lease of a key that is put and keeps it.
func (r *Run) keep(lease int64) {
	if lease != 0 && !slices.Contains(r.Kept, lease) {
		r.Kept = append(r.Kept, lease)
	}
}

// pinLeases appends what holds while the run's leases are the known, living ones: a key that is put after its lease has died would
// escape those who delete it.
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
