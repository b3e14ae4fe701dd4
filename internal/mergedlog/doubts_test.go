package mergedlog

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

// sender is a process that sends stamps and settles them, while compaction overtakes its log again and again.
type sender struct {
	t      *rapid.T
	w      *world
	doubts *Doubts
	log    *Log
	open   []bool
	at     []int64 // member revision that the log has come to

	compacted []int64
	everGone  []bool // history was read, and was compacted
	sent      []sentStamp
}

type sentStamp struct {
	member int
	flight
	claim Outcome // what the doubts said first
}

func newSender(t *rapid.T) *sender {
	n := rapid.IntRange(1, 3).Draw(t, "members")
	s := &sender{
		t: t, w: newWorld(t, n), doubts: NewDoubts(n, worldSlot),
		compacted: make([]int64, n), everGone: make([]bool, n),
	}
	s.w.onSend = func(member int, f flight, txn *pb.TxnRequest) {
		if s.w.draw(4) == 0 { // another process's
			return
		}
		s.doubts.Track(member, f.epoch, Sent{Stamp: f.stamp, Txn: txn})
		s.sent = append(s.sent, sentStamp{member: member, flight: f})
	}
	s.reopen()
	return s
}

// reopen begins with a new log. Its streams begin one after the other.
func (s *sender) reopen() {
	s.log = New(Config{Members: len(s.w.members), SlotOf: worldSlot, Doubts: s.doubts})
	s.open, s.at = make([]bool, len(s.w.members)), make([]int64, len(s.w.members))
	s.openNext()
}

func (s *sender) openNext() {
	if i := slices.Index(s.open, false); i >= 0 {
		m := s.w.members[i]
		s.log.Open(i, m.state, m.held()...)
		s.open[i], s.at[i] = true, m.state.Rev
	}
}

// deliver brings up to n revisions to the log, unless they are compacted.
func (s *sender) deliver(i, n int) {
	m := s.w.members[i]
	for ; n > 0 && s.open[i] && s.at[i] < m.state.Rev; n-- {
		if s.at[i]+1 < s.compacted[i] {
			s.reopen()
			return
		}
		s.at[i]++
		require.NoError(s.t, s.log.Append(i, []MemberRevision{m.deliverable(s.at[i])}))
	}
}

// recall tells the doubts what they have not seen, a few revisions at most.
func (s *sender) recall(i, n int) {
	u, missing := s.doubts.Unseen(i)
	if !missing {
		return
	}
	require.Less(s.t, u.After, u.UpTo)
	at := u.After
	if at < s.compacted[i] {
		at, s.everGone[i] = s.compacted[i], true
	}
	s.doubts.At(i, at, s.heldAt(i, at, u.Keys))
	for more := true; more && n > 0 && at < s.w.members[i].state.Rev; n-- {
		at++
		more = s.doubts.Show(i, s.w.members[i].deliverable(at))
	}
}

// heldAt reads what At needs of a member at a member revision.
func (s *sender) heldAt(i int, rev int64, keys [][]byte) (kvs []*mvccpb.KeyValue) {
	records, marks, marksEnd := MarkRecords()
	state := map[string]*mvccpb.KeyValue{}
	for r := int64(1); r <= rev; r++ {
		for _, ev := range s.w.members[i].deliverable(r).Events {
			if delete(state, string(ev.Kv.Key)); ev.Type == mvccpb.Event_PUT {
				state[string(ev.Kv.Key)] = ev.Kv
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(state)) {
		kv := state[key]
		asked := slices.ContainsFunc(slices.Concat(records, keys), func(k []byte) bool { return string(k) == key })
		if asked || keyrange.Of(marks, marksEnd).Contains(kv.Key) {
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

// truth is the mark that a stamp has left on its member; Kind 0: none, up to rev.
func (s *sender) truth(d sentStamp, rev int64) Outcome {
	m := s.w.members[d.member]
	for _, r := range m.history[:min(rev, m.state.Rev)] {
		for _, mk := range r.marks {
			if mk.stamp == d.stamp && r.before.Epoch == d.epoch {
				o := Outcome{Kind: Refused, Reason: mk.kind, Rev: r.after.Rev}
				if mk.kind.Landed() {
					o.Kind = Landed
				}
				return o
			}
		}
	}
	return Outcome{}
}

// check asks for every stamp, and holds the answers against what has happened so far.
func (s *sender) check() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for i := range s.sent {
		d := &s.sent[i]
		out, err := s.doubts.Outcome(ctx, d.member, d.epoch, d.stamp)
		switch {
		case errors.Is(err, ErrForgotten):
			require.True(s.t, s.everGone[d.member], "nothing was compacted: stamp %d of member %d", d.stamp, d.member)
		case err != nil:
			require.ErrorIs(s.t, err, context.Canceled)
		case d.claim.Kind == 0:
			d.claim = out
		}
		s.checkClaim(*d)
		rev := 1 + int64(s.w.draw(int(s.w.members[d.member].state.Rev)+1))
		if out, err := s.doubts.Seen(ctx, d.member, d.epoch, d.stamp, rev); err == nil && out.Kind == 0 {
			require.NotEqual(s.t, Landed, s.truth(*d, rev).Kind, "stamp %d of member %d was not seen, up to %d", d.stamp, d.member, rev)
		}
	}
}

func (s *sender) checkClaim(d sentStamp) {
	if d.claim.Kind == 0 {
		return
	}
	truth := s.truth(d, forever)
	require.Equal(s.t, truth.Kind == Landed, d.claim.Kind == Landed, "stamp %d of epoch %d on member %d: %v, in truth %v", d.stamp, d.epoch, d.member, d.claim, truth)
	if by := s.truth(d, d.claim.Rev); !s.everGone[d.member] && by.Kind != 0 { // a late refusal may follow
		require.Equal(s.t, by.Kind, d.claim.Kind, "stamp %d of member %d", d.stamp, d.member)
		require.True(s.t, by.Kind == Landed || by.Reason == d.claim.Reason, "stamp %d of member %d", d.stamp, d.member)
	}
	if truth.Kind == Landed && truth.Rev != d.claim.Rev { // a slot that was given back shows it again, or it is another part's
		for _, e := range s.w.members[d.member].history[d.claim.Rev-1].evs {
			require.Equal(s.t, d.stamp, e.stamp, "stamp %d of member %d landed at %d, not at %d", d.stamp, d.member, truth.Rev, d.claim.Rev)
		}
	}
}

func (s *sender) step() {
	i := s.w.draw(len(s.w.members))
	switch x := s.w.draw(24); {
	case x < 10:
		s.w.step()
	case x < 14:
		s.deliver(i, 1+s.w.draw(4))
	case x < 15:
		s.reopen()
	case x < 18:
		s.openNext()
	case x < 20:
		s.recall(i, s.w.draw(6))
	case x < 21:
		s.doubts.Reached(i, int64(s.w.draw(int(s.w.members[i].state.Rev)+1)))
	case x < 22 && s.open[i]:
		if r, ok := s.w.raise(s.w.members[i], s.w.epoch, 1+int64(s.w.draw(int(s.w.clock)))); ok {
			s.log.FenceHolds(r.member, r.epoch, r.fence, r.rev)
		}
	case s.w.draw(3) == 0:
		s.compacted[i] = max(s.compacted[i], int64(s.w.draw(int(s.w.members[i].state.Rev)+1)))
	}
}

// TestDoubts: whatever is compacted, and whenever logs begin, what is said of a stamp is true and stays so; and in the end something is
// said of all but those whose traces are gone.
func TestDoubts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSender(t)
		for i := range rapid.SampledFrom([]int{30, 100, 300}).Draw(t, "steps") {
			s.step()
			if i%10 == 9 {
				s.check()
			}
		}
		for s.w.claimed >= 0 {
			s.w.rebuild()
		}
		for i, m := range s.w.members {
			for len(m.underway) > 0 {
				s.w.arrive(m)
			}
			s.w.raise(m, s.w.epoch, s.w.clock)
			for !s.open[i] {
				s.openNext()
			}
		}
		for i, m := range s.w.members {
			for s.at[i] < m.state.Rev {
				s.deliver(i, 1<<30)
				for slices.Contains(s.open, false) {
					s.openNext()
				}
			}
			for {
				if _, missing := s.doubts.Unseen(i); !missing {
					break
				}
				s.recall(i, 1<<30)
			}
		}
		s.check()
		for _, d := range s.sent {
			_, err := s.doubts.Outcome(t.Context(), d.member, d.epoch, d.stamp)
			require.True(t, err == nil || errors.Is(err, ErrForgotten), "%v", err)
		}
	})
}
