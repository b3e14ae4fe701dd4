package translate

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
)

// Leases returns the leases that keys of the run are attached to by it, or stay attached to when it puts them, each once.
func (r *Run) Leases() []int64 {
	ids := slices.Clone(r.Kept)
	for _, s := range r.Steps {
		if s.Put != nil && s.Put.Lease != 0 {
			ids = append(ids, s.Put.Lease)
		}
	}
	return distinct(ids)
}

// AttachesTo reports whether the run attaches a key to one of the leases by its name.
func (r *Run) AttachesTo(leases []int64) bool {
	if len(leases) == 0 {
		return false
	}
	named := make(map[int64]bool, len(leases))
	for _, id := range leases {
		named[id] = true
	}
	return slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Put != nil && named[s.Put.Lease] })
}

// keep notes the lease of a key that is put and keeps it.
func (r *Run) keep(lease int64) {
	if lease != 0 {
		r.Kept = append(r.Kept, lease)
	}
}

// pinLeases appends what holds while the run's leases are the known, living ones: a key that is put after its lease has died would
// escape those who delete it.
func (r *Run) pinLeases(cs []*pb.Compare) []*pb.Compare {
	for _, id := range r.Leases() {
		cs = append(cs, request.ValueIs(record.LeaseKey(id), r.Records[id]))
	}
	return cs
}

// attach appends what keeps the leases' entries in step with the keys that the run puts and deletes. The entry of a key
// whose state is not exactly known may be there already, or stay behind with a lease that the key has left: entries
// name the keys to look at, and whether they are attached is for their headers to say.
func (r *Run) attach(ops []*pb.RequestOp, touched []touch, state func([]byte) State) []*pb.RequestOp {
	if !r.leased(touched, state) {
		return ops
	}
	after := r.leasesAfter(touched, state)
	for i, t := range touched {
		if !t.put && !t.deleted {
			continue
		}
		s := state(t.key)
		old, now := s.KV.GetLease(), after[i]
		if old != 0 && old != now {
			ops = append(ops, request.Delete(&pb.DeleteRangeRequest{Key: record.AttachedKey(old, t.key)}))
		}
		if now != 0 && (old != now || s.NativeMod == 0) {
			ops = append(ops, request.Put(&pb.PutRequest{Key: record.AttachedKey(now, t.key)}))
		}
	}
	return ops
}

// leased reports whether any lease is concerned.
func (r *Run) leased(touched []touch, state func([]byte) State) bool {
	return slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Put != nil && s.Put.Lease != 0 }) ||
		slices.ContainsFunc(touched, func(t touch) bool { return state(t.key).KV.GetLease() != 0 })
}

// leasesAfter are the leases that keys have after the run, 0 for none or for absent ones. What the run does last to a key
// decides, so that it is gone through from its end, until every key has its answer.
func (r *Run) leasesAfter(touched []touch, state func([]byte) State) []int64 {
	leases := make([]int64, len(touched))
	places := make(map[string]int, len(touched)) // of the keys that are not decided
	for i, t := range touched {
		leases[i] = state(t.key).KV.GetLease()
		places[string(t.key)] = i
	}
	var later cover // what is deleted behind the step
	for _, s := range slices.Backward(r.Steps) {
		switch {
		case s.Delete != nil:
			later.add(keyrange.Of(s.Delete.Key, s.Delete.RangeEnd))
		case s.Put != nil && !s.Put.IgnoreLease:
			if i, open := places[string(s.Put.Key)]; open {
				if leases[i] = s.Put.Lease; later.has(s.Put.Key) {
					leases[i] = 0
				}
				delete(places, string(s.Put.Key))
			}
		}
	}
	for key, i := range places {
		if later.has([]byte(key)) {
			leases[i] = 0
		}
	}
	return leases
}
