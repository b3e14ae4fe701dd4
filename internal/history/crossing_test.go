package history

import (
	"maps"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/record"
)

// cross lands a transaction across members at a new stamp. Its operations go to the members in turn; then comes a range delete, of
// which each of them has some. Some members have a second part, which deletes what the first has put, and puts what it has deleted.
func (w *world) cross() {
	w.clock++
	x := &crossing{w: w, stamp: w.clock, parts: len(w.members)}
	var again []bool
	for range w.members {
		again = append(again, w.draw(3) == 0)
		if again[len(again)-1] {
			x.parts++
		}
	}
	for i, m := range w.members {
		slot := w.draw(keysPerMember / 2)
		a, b := keyName(i, 2*slot), keyName(i, 2*slot+1)
		before := maps.Clone(m.keys)
		done := x.part(m, a, func(c *change, do doer) {
			for n, key := range []string{b, a} {
				if w.draw(2) == 0 {
					do(n*len(w.members)+w.draw(len(w.members)), func() { c.put(key, x.stamp) })
				}
			}
			if len(c.landed) == 0 {
				do(10*len(w.members), func() {
					c.del(a, x.stamp)
					c.del(b, x.stamp)
				})
			}
		})
		if again[i] {
			x.part(m, a, func(c *change, do doer) {
				for n, l := range done {
					do(20*len(w.members)+n, func() { c.undo(l, before[l.key]) })
				}
			})
		}
	}
}

// crossing is a transaction across members on its way.
type crossing struct {
	w            *world
	stamp        int64
	parts, index int
}

// doer makes a change that is an operation of the transaction.
type doer = func(op int, change func())

// part lands the next part of the transaction.
func (x *crossing) part(m *member, key string, ops func(c *change, do doer)) []landing {
	c := m.begin()
	part := record.Part{Stamp: x.stamp, Of: x.parts, Index: x.index}
	x.index++
	ops(c, func(op int, change func()) {
		before := len(c.landed)
		change()
		for j := range c.landed[before:] {
			c.landed[before+j].parted, c.landed[before+j].order = true, op
		}
		if n := len(c.landed) - before; n > 0 {
			part.Runs = append(part.Runs, record.Run{Op: op, Events: n})
		}
	})
	c.slot(testSlot([]byte(key)), x.stamp)
	c.record(string(record.MarkKey(0)), part.Value())
	c.commit()
	return c.landed
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
