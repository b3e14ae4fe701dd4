package mergedlog

import (
	"context"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
)

// OutcomeKind says what became of a stamp that was sent.
type OutcomeKind uint8

// The kinds of outcomes.
const (
	Landed  OutcomeKind = iota + 1 // its write took effect, once
	Refused                        // it reached the member and changed nothing
	Dead                           // it took no effect, and never will
)

// Outcome is what became of a stamp that was sent.
type Outcome struct {
	Kind   OutcomeKind
	Reason manifest.Kind // what the mark says; 0 for the dead
	Rev    int64         // member revision of the mark; of the dead, where the stream stood
}

// Sent is a stamp with the request that carries it to its member, or the stamp's part of it.
type Sent struct {
	Stamp int64
	Txn   *pb.TxnRequest // may be nil: then less can be told where the member is compacted
}

// Doubts are the stamps that a process has sent, and does not know the outcomes of. The logs that they share tell them what the
// members' streams show. All methods may be used concurrently.
//
// That a stamp is dead follows from silence: no mark, and a fence. So the silence has to be unbroken since before the stamp was
// sent. A log that begins later, because compaction overtook the one before it, has not heard it all: what the member
// committed in between is Unseen, and until At and Show have told it, such a stamp is neither dead nor not there.
type Doubts struct {
	slotOf  func(key []byte) int
	members []*observed

	mu sync.Mutex // guards what is below the members' known
}

// observed is what the process has seen of one member.
type observed struct {
	known atomic.Int64 // member revision that the member has reached: what is sent from now on lands above it

	log     int         // which log is the newest: what earlier ones say has no meaning any more
	now     MemberState // where its stream stands
	from    int64       // everything in (from, now.Rev] was shown by it
	sent    map[doubt]*question
	changed chan struct{} // closed when any of that changes; nil: nobody waits
}

// doubt names a stamp that was sent to a member. Its number alone would not do: after the loss of the
// coordinator, a number that never landed is handed out again.
type doubt struct{ epoch, stamp int64 }

// question is a doubt and what is known of it.
type question struct {
	Outcome // Kind 0: no mark was seen
	txn     *pb.TxnRequest
	after   int64 // if it has landed, unnoticed, then above this member revision
	lost    bool  // what lies above it is gone
}

// NewDoubts returns an empty set of doubts, for a cluster as Config has it.
func NewDoubts(members int, slotOf func(key []byte) int) *Doubts {
	d := &Doubts{slotOf: slotOf, members: make([]*observed, members)}
	for i := range d.members {
		d.members[i] = &observed{sent: map[doubt]*question{}}
	}
	return d
}

// Reached says that the member has come to a member revision, as one of its answers shows.
func (d *Doubts) Reached(member int, rev int64) {
	known := &d.members[member].known
	for {
		old := known.Load()
		if rev <= old || known.CompareAndSwap(old, rev) {
			return
		}
	}
}

// Track makes the process remember what becomes of stamps. It comes before they are sent to the member.
func (d *Doubts) Track(member int, epoch int64, sent ...Sent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	after := o.known.Load()
	for _, s := range sent {
		o.sent[doubt{epoch, s.Stamp}] = &question{txn: s.Txn, after: after}
	}
}

// Untrack forgets stamps.
func (d *Doubts) Untrack(member int, epoch int64, stamps ...int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	for _, s := range stamps {
		delete(o.sent, doubt{epoch, s})
	}
	o.wake()
}

// Outcome waits until it is certain what became of a tracked stamp: its mark shows up on the member, in its epoch; or a fence at
// or above it or a newer epoch does, without the mark before it, and it is dead. It fails with the context's error, with
// ErrUntracked, and with ErrForgotten.
func (d *Doubts) Outcome(ctx context.Context, member int, epoch, stamp int64) (Outcome, error) {
	return d.wait(ctx, member, doubt{epoch, stamp}, forever)
}

// Seen is Outcome, but it waits no longer than until everything up to the member's revision rev was looked at. Kind 0 says
// that nothing has come of the stamp by then.
func (d *Doubts) Seen(ctx context.Context, member int, epoch, stamp, rev int64) (Outcome, error) {
	return d.wait(ctx, member, doubt{epoch, stamp}, rev)
}

func (d *Doubts) wait(ctx context.Context, member int, of doubt, rev int64) (Outcome, error) {
	for {
		out, changed, err := d.look(d.members[member], of, rev)
		if changed == nil {
			return out, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		}
	}
}

// look returns what is certain, or what to wait for.
func (d *Doubts) look(o *observed, of doubt, rev int64) (Outcome, <-chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q, ok := o.sent[of]
	switch {
	case !ok:
		return Outcome{}, nil, ErrUntracked
	case q.Kind != 0:
		return q.Outcome, nil, nil
	case q.lost:
		return Outcome{}, nil, ErrForgotten
	case o.covers(q) && o.dead(of):
		return Outcome{Kind: Dead, Rev: o.now.Rev}, nil, nil
	case o.covers(q) && o.now.Rev >= rev:
		return Outcome{}, nil, nil
	}
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return Outcome{}, o.changed, nil
}

// covers reports whether everything since before the stamp was sent has been looked at, up to where the stream stands.
func (o *observed) covers(q *question) bool { return !q.lost && q.after >= o.from }

// dead says that a stamp that has left no mark so far will never do.
func (o *observed) dead(of doubt) bool { return o.now.Epoch > of.epoch || o.now.Fence >= of.stamp }

func (o *observed) wake() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// open begins with a new log, whose stream shows what comes after s, and returns what the log is to name itself.
func (d *Doubts) open(member int, s MemberState) (log int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	for of, q := range o.sent {
		if q.Kind != 0 || !o.covers(q) {
			continue
		}
		if o.dead(of) {
			q.Outcome = Outcome{Kind: Dead, Rev: o.now.Rev}
		}
		q.after = max(q.after, o.now.Rev)
	}
	o.log, o.from, o.now = o.log+1, s.Rev, s
	d.Reached(member, s.Rev)
	o.wake()
	return o.log
}

// stands moves a member's stream on.
func (d *Doubts) stands(member, log int, s MemberState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	if log != o.log {
		return
	}
	o.now = s
	d.Reached(member, s.Rev)
	o.wake()
}

// marked takes the marks of the stream's next revision. They belong to the epoch that it found.
func (d *Doubts) marked(member, log int, rev int64, marks []mark) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.members[member]
	if log != o.log || len(o.sent) == 0 {
		return
	}
	for _, mk := range marks {
		if q, ok := o.sent[doubt{o.now.Epoch, mk.stamp}]; ok && q.Kind == 0 {
			q.settle(mk, rev)
		}
	}
}

// settle takes a mark at member revision rev as the outcome of its stamp.
func (q *question) settle(mk mark, rev int64) {
	q.Outcome = Outcome{Kind: Refused, Reason: mk.kind, Rev: rev}
	if mk.kind.Landed() {
		q.Kind = Landed
	}
}
