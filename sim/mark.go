package main

import (
	"cmp"
	"slices"
)

var (
	marksNameTheirEpoch  = newRule("mMarkEpoch", "a mark of refused stamps is guarded by their epoch (A11)")
	onlyAnsweredIsMarked = newRule("mMarkDoubt", "only a refusal that was answered is marked, never an outcome in doubt (A11)")
)

// noteLandings learns from what landed, and sees to the marks of what was refused without one.
func (t *Task) noteLandings(b *Batch, rep BatchReply, epoch int64) {
	for i, o := range b.ops {
		if rep.outs[i].st == done {
			t.p.learnOwn(o, rep.at)
		}
	}
	if b.together && rep.at == 0 {
		t.markRefused(b, epoch)
	}
}

// markRefused has the stamps of a batch marked.
func (t *Task) markRefused(b *Batch, epoch int64) {
	es := surrendered(b.gone)
	for _, o := range b.ops {
		es = append(es, Entry{T: o.T})
	}
	t.markLater(es, epoch)
}

// markLater has stamps marked, beside what follows.
func (t *Task) markLater(es []Entry, epoch int64) {
	if len(es) == 0 {
		return
	}
	t.w.spawn(t.p, false, func(t *Task) {
		if t.w.coin(0.8) {
			t.idle()
		}
		t.mark(es, epoch)
	})
}

// mark puts a manifest on some member, until one has answered. What the fences have passed needs none.
func (t *Task) mark(es []Entry, epoch int64) {
	w, p := t.w, t.p
	top := slices.MaxFunc(es, func(a, b Entry) int { return cmp.Compare(a.T, b.T) }).T
	for p.fenced() < top {
		m, W := w.members[w.rng.Intn(len(w.members))], p.carries()
		_, ok := t.ask("mark", func() any {
			if m.epoch == epoch || !w.holds(marksNameTheirEpoch) {
				rv := m.revision()
				w.note(m, &rv, Manifest{W: W, entries: es}, true)
				m.commit(rv)
			}
			return nil
		})
		if ok {
			return
		}
	}
}
