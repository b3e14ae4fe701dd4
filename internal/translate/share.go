package translate

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
	"github.com/metaetcd/metaetcd/internal/request"
	"github.com/metaetcd/metaetcd/internal/ring"
)

// Share is what a transaction across members takes of one member: it locks its slots, or all of the member, if
// ranges are concerned or more slots than one request can guard.
type Share struct {
	Member   int
	Whole    bool
	Slots    []int // unless Whole
	Keys     [][]byte
	Compared []Range
	Deleted  []Range
	Leases   []int64          // that some branch attaches keys to
	Apart    bool             // what the transaction is evaluated on does not fit into an answer: it is read under the locks, by ReadsAt
	named    bool             // the keys of deleted ranges have to be known, not only how many they are
	values   func(Range) bool // a compared range is read with its values
	maxOps   int
}

// Shares splits the plan by member, in the order of the members. The first share is the primary's. All requests that are
// made for shares keep within the members' max-txn-ops as long as they have no more operations than there is Room for.
func (p *Plan) Shares(r *ring.Ring, maxTxnOps int) []Share {
	shares := make([]Share, len(p.Members))
	of := make(map[int]*Share, len(p.Members))
	for i, m := range p.Members {
		shares[i] = Share{Member: m, Leases: p.Leases, named: len(p.Deleted) > 1, values: p.ComparesValues, maxOps: maxTxnOps}
		of[m] = &shares[i]
	}
	for _, k := range p.Keys {
		s := of[r.MemberOf(k)]
		s.Keys = append(s.Keys, k)
		s.Slots = append(s.Slots, r.Slot(k))
	}
	for _, x := range p.Compared {
		for _, m := range r.MembersOf(x.Key, x.End) {
			of[m].Compared = append(of[m].Compared, x)
		}
	}
	for _, x := range p.Deleted {
		for _, m := range r.MembersOf(x.Key, x.End) {
			of[m].Deleted = append(of[m].Deleted, x)
		}
	}
	for i := range shares {
		s := &shares[i]
		slices.Sort(s.Slots)
		s.Slots = slices.Compact(s.Slots)
		if len(s.Compared)+len(s.Deleted) > 0 || len(s.Slots)+memberGuards > Width(maxTxnOps) {
			s.Whole, s.Slots = true, nil
		}
	}
	return shares
}

// memberGuards are the compares of a request beside those of slots: epoch, fence, lock.
const memberGuards = 3

// Width bounds the compares of requests for shares: it leaves room for operations that are nested.
func Width(maxTxnOps int) int { return max(maxTxnOps/3, 2) }

// innermost is what an operation of a share may be by itself: a transaction with two compares.
const innermost = 2

// groupSize is how many of n operations come into one list, so that nesting them keeps within max-txn-ops. Where nothing
// keeps, the member will say so.
func groupSize(n, maxTxnOps int) int {
	for levels := 1; ; levels++ {
		size := 2
		for power(size, levels) < n {
			size++
		}
		if size == 2 || nests(size, levels, maxTxnOps) {
			return size
		}
	}
}

// nests reports whether operations can be nested in lists of so many, on so many levels. Etcd takes the longest list of every
// level from max-txn-ops: of the outer level that may be the compares, and a refusal that compares once more (see decide)
// needs as many behind it.
func nests(size, levels, maxTxnOps int) bool {
	compares := Width(maxTxnOps)
	return max(size, compares)+max(size*(levels-1)+innermost, compares) <= maxTxnOps
}

// Room is how many operations a request for a share may always have. It does not count beyond enough.
func Room(maxTxnOps int) int {
	const enough = 1 << 16
	most := 0
	for levels := 1; most < enough && nests(2, levels, maxTxnOps); levels++ {
		size := 2
		for nests(size+1, levels, maxTxnOps) {
			size++
		}
		most = max(most, power(size, levels))
	}
	return most
}

func power(n, exponent int) int {
	p := 1
	for range exponent {
		p *= n
	}
	return p
}

// grouped keeps a list of operations within max-txn-ops by nesting.
func grouped(ops []*pb.RequestOp, maxTxnOps int) []*pb.RequestOp {
	size := groupSize(len(ops), maxTxnOps)
	for len(ops) > size {
		var outer []*pb.RequestOp
		for group := range slices.Chunk(ops, size) {
			outer = append(outer, request.Txn(&pb.TxnRequest{Success: group}))
		}
		ops = outer
	}
	return ops
}

// ungrouped returns the responses to n operations that were grouped.
func ungrouped(rs []*pb.ResponseOp, n, maxTxnOps int) []*pb.ResponseOp {
	size := groupSize(n, maxTxnOps)
	for lists := (n + size - 1) / size; lists > 1; lists = (lists + size - 1) / size {
		var inner []*pb.ResponseOp
		for _, r := range rs {
			inner = append(inner, r.GetResponseTxn().GetResponses()...)
		}
		rs = inner
	}
	return rs
}

// held holds while the transaction has what it locked.
func (s *Share) held(h record.Holder) []*pb.Compare { return heldBy(h, s.Whole, s.Slots) }

func heldBy(h record.Holder, whole bool, slots []int) []*pb.Compare {
	v := h.Value()
	if whole {
		return []*pb.Compare{request.ValueIs([]byte(record.KeyLock), v)}
	}
	cs := make([]*pb.Compare, 0, len(slots)+memberGuards)
	for _, s := range slots {
		cs = append(cs, request.ValueIs(record.SlotKey(s), v))
	}
	return cs
}

// Lock builds the request that locks the share for h, if nothing of it is locked, and reads what the transaction is
// evaluated on.
func (s *Share) Lock(epoch int64, h record.Holder) *pb.TxnRequest {
	cs := append(inEpoch(epoch), request.ValueIs([]byte(record.KeyLock), nil))
	then := s.lockFor(h)
	if s.Whole {
		cs = append(cs, slotsFree())
	}
	for i, slot := range s.Slots {
		cs = append(cs, request.ValueBelow(record.SlotKey(slot), record.Infinity()))
		then[i].GetRequestPut().PrevKv = true
	}
	if !s.Apart {
		then = append(then, s.reads()...)
	}
	for _, id := range s.Leases {
		then = append(then, request.Put(&pb.PutRequest{Key: record.HeldKey(id, h.ID[:])}))
	}
	return &pb.TxnRequest{Compare: cs, Success: grouped(then, s.maxOps), Failure: whyNot()}
}

// lockFor puts the share's locks.
func (s *Share) lockFor(h record.Holder) []*pb.RequestOp {
	v := h.Value()
	if s.Whole {
		return []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte(record.KeyLock), Value: v})}
	}
	ops := make([]*pb.RequestOp, 0, len(s.Slots)+2) // for part.frame
	for _, slot := range s.Slots {
		ops = append(ops, request.Put(&pb.PutRequest{Key: record.SlotKey(slot), Value: v}))
	}
	return ops
}

// release gives up the share's locks, and what the transaction holds, when it has landed.
func (s *Share) release(h record.Holder, stamp, epoch int64) []*pb.RequestOp {
	ops := letGo(h, s.Leases)
	if s.Whole {
		fence := record.Pair(epoch, stamp)
		ops = append(ops, freeMember(), request.Txn(&pb.TxnRequest{
			// In a later epoch, nothing below the stamp is left that could land.
			Compare: []*pb.Compare{request.ValueAbove([]byte(record.KeyFence), record.Number(epoch)), request.ValueBelow([]byte(record.KeyFence), fence)},
			Success: []*pb.RequestOp{request.Put(&pb.PutRequest{Key: []byte(record.KeyFence), Value: fence})},
		}))
	}
	for _, slot := range s.Slots {
		ops = append(ops, request.Put(&pb.PutRequest{Key: record.SlotKey(slot), Value: record.Number(stamp)}))
	}
	return ops
}

// Claim builds the request that locks the member for h though slots of it are locked: nobody locks more of them, and once
// they are free, Read may follow. Otherwise who needs a whole member might wait for ever.
func (s *Share) Claim(epoch int64, h record.Holder) *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: append(inEpoch(epoch), request.ValueIs([]byte(record.KeyLock), nil)),
		Success: grouped(s.claims(h), s.maxOps),
		Failure: whyNot(),
	}
}

func (s *Share) claims(h record.Holder) []*pb.RequestOp {
	ops := s.lockFor(h)
	for _, id := range s.Leases {
		ops = append(ops, request.Put(&pb.PutRequest{Key: record.HeldKey(id, h.ID[:])}))
	}
	return ops
}

// Read builds the request that reads a claimed share when no slot is locked any more.
func (s *Share) Read(epoch int64, h record.Holder) *pb.TxnRequest {
	req := &pb.TxnRequest{Compare: append(append(inEpoch(epoch), slotsFree()), s.held(h)...), Failure: whyNot()}
	if !s.Apart {
		req.Success = grouped(s.reads(), s.maxOps)
	}
	return req
}

// ReadsAt are the reads of a share that is Apart, as they were when it was locked; under its locks nothing of that changes. FillReads
// takes the answers.
func (s *Share) ReadsAt(rev int64) []*pb.RangeRequest {
	var reqs []*pb.RangeRequest
	for _, op := range s.reads() {
		r := op.GetRequestRange()
		r.Revision = rev
		reqs = append(reqs, r)
	}
	return reqs
}

// FillReads completes a share that was locked by the answers to ReadsAt.
func (s *Share) FillReads(l *Locked, rs []*pb.RangeResponse) error {
	ops := make([]*pb.ResponseOp, len(rs))
	for i, r := range rs {
		ops[i] = &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}
	}
	if len(ops) != s.read() {
		return errShape
	}
	return s.fill(l, ops)
}

// read is how many reads there are.
func (s *Share) read() int { return len(s.Keys) + len(s.Compared) + len(s.Deleted) + len(s.Leases) }

func slotsFree() *pb.Compare {
	key, end := record.SlotRange()
	free := request.ValueBelow(key, record.Infinity())
	free.RangeEnd = end
	return free
}

// reads are what the transaction is evaluated on.
func (s *Share) reads() []*pb.RequestOp {
	var ops []*pb.RequestOp
	for _, k := range s.Keys {
		ops = append(ops, request.Range(&pb.RangeRequest{Key: k}))
	}
	for _, r := range s.Compared {
		ops = append(ops, request.Range(&pb.RangeRequest{Key: r.Key, RangeEnd: r.End, KeysOnly: !s.values(r)}))
	}
	for _, r := range s.Deleted {
		ops = append(ops, request.Range(&pb.RangeRequest{Key: r.Key, RangeEnd: r.End, CountOnly: !s.named, KeysOnly: s.named}))
	}
	for _, id := range s.Leases {
		ops = append(ops, request.Range(&pb.RangeRequest{Key: record.LeaseKey(id)}))
	}
	return ops
}

// whyNot reads what may have refused a request beside its own guards: the fence and the member's lock.
func whyNot() []*pb.RequestOp {
	return []*pb.RequestOp{request.Range(&pb.RangeRequest{Key: []byte(record.KeyFence)}), request.Range(&pb.RangeRequest{Key: []byte(record.KeyLock)})}
}

// inEpoch holds while the member works in the epoch.
func inEpoch(epoch int64) []*pb.Compare {
	return []*pb.Compare{
		request.ValueAbove([]byte(record.KeyFence), record.Number(epoch)),
		request.ValueBelow([]byte(record.KeyFence), record.Number(epoch+1)),
	}
}

// Locked is a share that was locked, and what was read under its locks; or one that was not.
type Locked struct {
	Refused   bool
	Holder    record.Holder // refused: who has the whole member, if anybody
	Held      bool          // somebody has
	MemberRev int64

	clocks  [][]byte // of Slots, before
	states  []State  // of Keys
	ranges  [][]*mvccpb.KeyValue
	deleted []*pb.RangeResponse

	// Bare are the pairs of the compared ranges that were read without values, as the member shows them at MemberRev. The caller fills
	// in what their users know of them.
	Bare []*mvccpb.KeyValue

	living map[int64]bool // leases that keys can be attached to
}

// DecodeLock reads the member's answer to Lock.
func (s *Share) DecodeLock(epoch int64, resp *pb.TxnResponse) (*Locked, error) {
	puts := len(s.Slots)
	if s.Whole {
		puts = 1
	}
	return s.decode(epoch, resp, puts, len(s.Leases))
}

// DecodeClaim reads the member's answer to Claim: if it is not refused, Read comes next.
func (s *Share) DecodeClaim(epoch int64, resp *pb.TxnResponse) (*Locked, error) {
	if resp.Succeeded {
		return &Locked{MemberRev: resp.Header.GetRevision()}, nil
	}
	return s.decode(epoch, resp, 0, 0)
}

// DecodeRead reads the member's answer to Read. Refused, it was too early, unless somebody else holds the member now.
func (s *Share) DecodeRead(epoch int64, resp *pb.TxnResponse) (*Locked, error) {
	return s.decode(epoch, resp, 0, 0)
}

// decode reads an answer that begins with those to puts of locks, and ends with some that say nothing. It fails with
// *WrongEpochError.
func (s *Share) decode(epoch int64, resp *pb.TxnResponse, puts, rest int) (*Locked, error) {
	l := &Locked{Refused: !resp.Succeeded, MemberRev: resp.Header.GetRevision(), living: map[int64]bool{}}
	if l.Refused {
		_, err := l.decodeRefusal(epoch, resp)
		return l, err
	}
	n := puts + rest
	if !s.Apart {
		n += s.read()
	}
	rs := ungrouped(resp.Responses, n, s.maxOps)
	if len(rs) != n {
		return nil, errShape
	}
	for _, r := range rs[:puts] {
		if prev := r.GetResponsePut().GetPrevKv(); prev != nil {
			l.clocks = append(l.clocks, prev.Value)
		}
	}
	if len(l.clocks) != len(s.Slots) {
		return nil, errShape
	}
	if s.Apart {
		return l, nil
	}
	return l, s.fill(l, rs[puts:])
}

// fill takes the answers to the reads.
func (s *Share) fill(l *Locked, rs []*pb.ResponseOp) error {
	for range s.Keys {
		state, err := StateOf(rs[0].GetResponseRange())
		if err != nil {
			return err
		}
		l.states, rs = append(l.states, state), rs[1:]
	}
	for _, r := range s.Compared {
		kvs := rs[0].GetResponseRange().GetKvs()
		if err := l.show(kvs, s.values(r)); err != nil {
			return err
		}
		l.ranges, rs = append(l.ranges, kvs), rs[1:]
	}
	for range s.Deleted {
		l.deleted, rs = append(l.deleted, rs[0].GetResponseRange()), rs[1:]
	}
	for i, id := range s.Leases {
		for _, kv := range rs[i].GetResponseRange().GetKvs() {
			rec, err := record.ParseLease(kv.Value)
			if err != nil {
				return err
			}
			l.living[id] = !rec.Dead
		}
	}
	return nil
}

// show takes over what was read of a compared range.
func (l *Locked) show(kvs []*mvccpb.KeyValue, values bool) error {
	if !values {
		l.Bare = append(l.Bare, kvs...)
		return nil
	}
	for _, kv := range kvs {
		if err := record.ToUser(kv); err != nil {
			return err
		}
	}
	return nil
}

// decodeRefusal reads the answer of whyNot: who holds the member's lock, and the fence. It fails with *WrongEpochError.
func (l *Locked) decodeRefusal(epoch int64, resp *pb.TxnResponse) (fence int64, err error) {
	if len(resp.Responses) != 2 || len(resp.Responses[0].GetResponseRange().GetKvs()) != 1 {
		return 0, errShape
	}
	e, fence, err := record.ParsePair(resp.Responses[0].GetResponseRange().Kvs[0].Value)
	if err == nil && e != epoch {
		err = &WrongEpochError{Epoch: e}
	}
	if err != nil {
		return 0, err
	}
	for _, kv := range resp.Responses[1].GetResponseRange().GetKvs() {
		l.Holder, l.Held, err = record.ParseHolder(kv.Value)
	}
	return fence, err
}

// Unlock builds the request that gives a share back as it was found. Only the transaction's own writer may send it, and
// only while nothing is decided.
func (s *Share) Unlock(h record.Holder, l *Locked) *pb.TxnRequest {
	ops := letGo(h, s.Leases)
	if s.Whole {
		ops = append(ops, freeMember())
	}
	for i, slot := range s.Slots {
		ops = append(ops, request.Put(&pb.PutRequest{Key: record.SlotKey(slot), Value: l.clocks[i]}))
	}
	return &pb.TxnRequest{Compare: s.held(h), Success: grouped(ops, s.maxOps)}
}

// letGo lets leases die that were held for the transaction.
func letGo(h record.Holder, leases []int64) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for _, id := range leases {
		ops = append(ops, request.Delete(&pb.DeleteRangeRequest{Key: record.HeldKey(id, h.ID[:])}))
	}
	return ops
}

func freeMember() *pb.RequestOp { return request.Put(&pb.PutRequest{Key: []byte(record.KeyLock)}) }

// Hold is what a transaction has on a member, as others find it.
type Hold struct {
	Holder record.Holder
	Whole  bool
	Slots  []int
	Leases []int64 // that it keeps alive
}

// Abort builds the request by which anybody takes it away, unless the transaction has been decided: slots get the stamp as
// their clock, and leases are let go. closed is a revision that the sender knows to be closed. At most Width slots at once.
func (hold Hold) Abort(epoch, stamp, closed int64, maxTxnOps int) *pb.TxnRequest {
	cs := append(heldBy(hold.Holder, hold.Whole, hold.Slots), inEpoch(epoch)...)
	ops := letGo(hold.Holder, hold.Leases)
	if hold.Whole {
		ops = append(ops, freeMember())
	} else {
		for _, s := range hold.Slots {
			ops = append(ops, request.Put(&pb.PutRequest{Key: record.SlotKey(s), Value: record.Number(stamp)}))
		}
		ops = append(ops, Note(manifest.Of(manifest.Taken, stamp)...), raiseClock(epoch, stamp, closed))
	}
	return &pb.TxnRequest{Compare: append(cs, request.CreateIs(record.TxnKey(hold.Holder.ID), 0)), Success: grouped(ops, maxTxnOps)}
}
