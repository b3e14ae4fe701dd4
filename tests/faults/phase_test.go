package faults

import (
	"bytes"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// moment is when, in the course of a write, a process dies.
type moment int32

const (
	never         moment = iota
	beforeStamp          // the coordinator has handed out stamps, and the process has not heard of them
	beforeLanding        // the stamps are known, and nothing was sent to the member
	afterLanding         // the member has committed, and the process has not heard of it

	// Of a transaction across members.
	beforeLock     // a member's locks have not been asked for
	afterLock      // a member's locks are taken, and the process has not heard of it
	beforeTxnStamp // as beforeStamp, when a transaction's locks are taken on every member
	beforeDecision
	afterDecision
	beforePart // the decision has landed, and a member has not been sent its part
	afterPart
	beforeTidying // all parts have landed, and the decision's record is still there
	afterTidying
)

func (m moment) String() string {
	return [...]string{
		"never", "before its stamp arrives", "between stamp and landing", "between landing and answer",
		"before a lock", "after a lock", "before the transaction's stamp arrives", "before the decision", "after the decision",
		"before a part", "after a part", "before tidying", "after tidying",
	}[m]
}

// phase is what a request is for.
type phase int

const (
	other   phase = iota
	add           // takes stamps
	flight        // lands writes
	rebuild       // creates a record of the clock
	lock          // locks slots, or a member, for a transaction across members
	decide        // lands its decision
	part          // applies another of its parts
	unlock        // gives locks back
	tidy          // removes a decision
)

func phaseOf(req any) phase {
	txn, ok := req.(*pb.TxnRequest)
	if !ok || len(txn.Success) == 0 {
		return other
	}
	if p := phaseOfTxn(txn); p != other {
		return p
	}
	for _, c := range txn.Compare {
		if c.Target == pb.Compare_CREATE {
			return rebuild
		}
	}
	for _, op := range txn.Success {
		if op.GetRequestTxn() != nil {
			return flight
		}
	}
	if txn.Success[0].GetRequestPut().GetIgnoreValue() {
		return add
	}
	return other
}

// phaseOfTxn recognises the requests of transactions across members by the records that they write.
func phaseOfTxn(txn *pb.TxnRequest) phase {
	decided, locks, parted, tidied := false, false, false, false
	for _, op := range operations(txn.Success) {
		put, del := op.GetRequestPut(), op.GetRequestDeleteRange()
		switch record.KindOf(put.GetKey()) {
		case record.Txn:
			decided = true
		case record.Lock, record.Slot:
			locks = locks || isLocked(put.GetValue())
		case record.Manifest:
			entries, err := manifest.Decode(put.GetValue())
			parted = parted || err == nil && len(entries) == 1 && entries[0].Kind == manifest.Parted
		}
		tidied = tidied || record.KindOf(del.GetKey()) == record.Txn
	}
	held := slices.ContainsFunc(txn.Compare, isHeld)
	switch {
	case decided:
		return decide
	case parted && held: // it may leave the locks to the member's next part
		return part
	case locks:
		return lock
	case held:
		return unlock
	case tidied:
		return tidy
	}
	return other
}

// isHeld recognises a compare that demands a lock.
func isHeld(c *pb.Compare) bool { return c.Result == pb.Compare_EQUAL && isLocked(c.GetValue()) }

// operations are the operations of a branch, and of the branches within that run if all goes well.
func operations(ops []*pb.RequestOp) []*pb.RequestOp {
	var all []*pb.RequestOp
	for _, op := range ops {
		all = append(all, op)
		all = append(all, operations(op.GetRequestTxn().GetSuccess())...)
	}
	return all
}

// isLocked reports whether the record of a slot or of a member's lock says that a transaction holds it.
func isLocked(value []byte) bool { return bytes.HasPrefix(value, record.Infinity()) }

// momentsOf are the moments before and after a request of a phase.
var momentsOf = map[phase]struct{ before, after moment }{
	add:    {never, beforeStamp},
	flight: {beforeLanding, afterLanding},
	lock:   {beforeLock, afterLock},
	decide: {beforeDecision, afterDecision},
	part:   {beforePart, afterPart},
	tidy:   {beforeTidying, afterTidying},
}
