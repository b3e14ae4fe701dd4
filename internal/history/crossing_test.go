package history

import (
	"maps"
	"math"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
	"github.com/metaetcd/metaetcd/internal/record"
)

// cross begins a transaction across members: it locks a slot of each, or a whole member, unless something is locked already. Its operations
// go to the members in turn; then comes a range delete, of which each of them has some. Some members have a second part, which deletes what
// the first has put, and puts what it has deleted.
func (w *world) cross() {
	x := &crossing{w: w, parts: len(w.members)}
	for _, m := range w.members {
		s := &share{m: m, slot: w.draw(keysPerMember / 2), whole: w.draw(4) == 0, again: w.draw(3) == 0}
		if m.locked[mergedlog.Whole] != nil || m.locked[s.lock()] != nil || s.whole && len(m.locked) > 0 {
			return
		}
		if s.again {
			x.parts++
		}
		x.shares = append(x.shares, s)
	}
	x.holder.ID = record.NewTxnID()
	for _, s := range x.shares {
		s.m.locked[s.lock()] = x
		c := s.m.begin()
		if s.before = c.slots[s.lock()]; s.whole {
			c.record(record.KeyLock, x.holder.Value())
		} else {
			c.hold(s.lock(), x.holder)
		}
		c.commit()
	}
	w.crosses = append(w.crosses, x)
}

// crossing is a transaction across members on its way.
type crossing struct {
	w            *world
	holder       record.Holder
	shares       []*share
	stamp        int64 // 0: it is not decided
	parts, index int
}

// share is a member's part of it.
type share struct {
	m      *member
	slot   int // of its keys
	whole  bool
	again  bool
	before int64 // the clock of the slot

	keys map[string]*mvccpb.KeyValue // before the first of two parts
	done []landing                   // by it
}

// lock is what is locked of the member.
func (s *share) lock() int {
	if s.whole {
		return mergedlog.Whole
	}
	return testSlot([]byte(keyName(s.m.id, 2*s.slot)))
}

// proceed takes some transaction a step further: it is decided, given up, or one of its parts lands.
func (w *world) proceed() {
	if len(w.crosses) == 0 {
		return
	}
	x := w.crosses[w.draw(len(w.crosses))]
	switch {
	case x.stamp > 0:
		x.land(x.shares[w.draw(len(x.shares))])
	case w.draw(4) == 0:
		for _, s := range x.shares {
			x.unlock(s, nil)
		}
		x.end()
	default:
		x.decide()
	}
}

func (x *crossing) decide() {
	x.w.clock++
	x.stamp = x.w.clock
	x.land(x.shares[0])
}

// finish lands what is decided, so that a log can begin.
func (w *world) finish() {
	for _, x := range slices.Clone(w.crosses) {
		for x.stamp > 0 && len(x.shares) > 0 {
			x.land(x.shares[0])
		}
	}
}

func (x *crossing) end() {
	x.w.crosses = slices.DeleteFunc(x.w.crosses, func(o *crossing) bool { return o == x })
}

// land lands the next part of a share.
func (x *crossing) land(s *share) {
	a, b := keyName(s.m.id, 2*s.slot), keyName(s.m.id, 2*s.slot+1)
	if s.done == nil {
		s.keys = maps.Clone(s.m.keys)
		s.done = x.part(s, !s.again, func(c *change, do doer) {
			for n, key := range []string{b, a} {
				if x.w.draw(2) == 0 {
					do(n*len(x.w.members)+x.w.draw(len(x.w.members)), func() { c.put(key, x.stamp) })
				}
			}
			if len(c.landed) == 0 {
				do(10*len(x.w.members), func() {
					c.del(a, x.stamp)
					c.del(b, x.stamp)
				})
			}
		})
		if s.done = append([]landing{}, s.done...); s.again {
			return
		}
	} else {
		x.part(s, true, func(c *change, do doer) {
			for n, l := range s.done {
				do(20*len(x.w.members)+n, func() { c.undo(l, s.keys[l.key]) })
			}
		})
	}
	x.shares = slices.DeleteFunc(x.shares, func(o *share) bool { return o == s })
	if len(x.shares) == 0 {
		x.end()
	}
}

// doer makes a change that is an operation of the transaction.
type doer = func(op int, change func())

// part lands the next part of the transaction.
func (x *crossing) part(s *share, last bool, ops func(c *change, do doer)) []landing {
	c := s.m.begin()
	c.part = &manifest.Part{Index: x.index, Shares: []manifest.Share{{Member: 1, Parts: x.parts}}}
	x.index++
	ops(c, func(op int, change func()) {
		before := len(c.landed)
		c.op = max(c.op, op) // names are in the order of the operations
		change()
		for j := range c.landed[before:] {
			c.landed[before+j].parted, c.landed[before+j].order = true, op
		}
	})
	c.mark(x.stamp, manifest.Parted)
	if last {
		x.unlock(s, c)
	} else if s.whole {
		c.record(record.KeyLock, x.holder.At(1).Value())
	} else {
		c.hold(s.lock(), x.holder.At(1))
	}
	c.commit()
	return c.landed
}

// unlock gives up the lock of a share, in a revision of its own if the transaction has no part in it.
func (x *crossing) unlock(s *share, in *change) {
	c, clock := in, x.stamp
	if c == nil {
		c, clock = s.m.begin(), s.before
	}
	delete(s.m.locked, s.lock())
	switch {
	case !s.whole:
		c.slots[s.lock()] = clock
		c.record(string(record.SlotKey(s.lock())), record.Number(clock))
	default:
		c.record(record.KeyLock, nil)
		if in != nil && c.fence < x.stamp {
			c.raise(x.stamp)
		}
	}
	if in == nil {
		c.commit()
	}
}

// hold locks a slot.
func (c *change) hold(slot int, h record.Holder) {
	c.slots[slot] = math.MaxInt64
	c.record(string(record.SlotKey(slot)), h.Value())
}

// undo deletes a key that the transaction has put, or puts it if it has deleted it. What was before is from before the transaction.
func (c *change) undo(done landing, before *mvccpb.KeyValue) {
	if done.value == "" {
		c.put(done.key, done.stamp)
		return
	}
	c.del(done.key, done.stamp)
	var prev *mvccpb.KeyValue
	if before != nil {
		prev = userView(before)
	}
	c.landed[len(c.landed)-1].text = eventText(true, &mvccpb.KeyValue{Key: []byte(done.key), ModRevision: done.stamp}, prev)
}
