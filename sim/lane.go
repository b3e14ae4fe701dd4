package main

// Queued is an operation on its way to a member.
type Queued struct {
	op    *Op
	slots []int
	build func(T int64) *Guarded // nil: it needs another stamp
	done  bool
	out   Outcome
}

// submit puts an operation in the queue to a member, and waits for what becomes of it.
func (t *Task) submit(member int, q *Queued) Outcome {
	t.p.queue[member] = append(t.p.queue[member], q)
	t.wait(false, func() bool { return q.done })
	return q.out
}

// lane takes batches to a member. There are two at most, on disjoint slots.
func (t *Task) lane(member int) {
	p := t.p
	for {
		var batch []*Queued
		t.wait(false, func() bool {
			if len(p.queue[member]) < 2 && t.w.coin(0.93) {
				return false // others may come
			}
			batch = p.pick(member)
			return len(batch) > 0
		})
		for _, q := range batch {
			q.out = Outcome{st: unsent}
		}
		t.fly(member, batch)
		for _, q := range batch {
			q.done = true
			for _, s := range q.slots {
				delete(p.busy, s)
			}
		}
	}
}

// pick takes up to three operations off the queue, and makes their slots busy. Slots keep their order; who is exclusive is alone.
func (p *Process) pick(member int) (batch []*Queued) {
	used := map[int]bool{}
	var rest []*Queued
	for _, q := range p.queue[member] {
		clash := len(batch) >= 3 || len(batch) > 0 && (q.op.excl || batch[0].op.excl)
		for _, s := range q.slots {
			clash = clash || used[s] || p.busy[s]
		}
		for _, s := range q.slots {
			used[s] = true
		}
		if clash {
			rest = append(rest, q)
		} else {
			batch = append(batch, q)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	p.queue[member] = rest
	for _, q := range batch {
		for _, s := range q.slots {
			p.busy[s] = true
		}
	}
	return batch
}

// fly takes stamps for a batch, sends it, and notes the outcomes.
func (t *Task) fly(member int, batch []*Queued) {
	w := t.w
	stamps, epoch, ok := t.stampsFor(batch)
	if !ok {
		return
	}
	b := &Batch{W: t.p.carries(), together: w.coin(0.5) && !batch[0].op.excl}
	var sent []*Queued
	for i, q := range batch {
		o := q.build(stamps[i])
		if o == nil {
			b.gone = append(b.gone, stamps[i])
			continue
		}
		b.ops = append(b.ops, o)
		sent = append(sent, q)
		q.out = Outcome{st: unknown, T: o.T, epoch: epoch}
	}
	if len(b.ops) == 0 {
		return
	}
	r, ok := t.ask(w.describe(t.p, member, b.ops), func() any { return w.batch(w.members[member], epoch, b) })
	if !ok {
		if !w.holds(onlyAnsweredIsMarked) {
			t.markRefused(b, epoch)
		}
		return
	}
	rep := r.(BatchReply)
	if rep.wrong {
		for _, q := range sent {
			q.out.st = wrongEpoch
		}
		t.syncEpoch()
		return
	}
	t.noteLandings(b, rep, epoch)
	for i, q := range sent {
		q.out = rep.outs[i]
	}
}

// stampsFor takes a stamp for each of a batch. They are not always neighbours: those between are surrendered.
func (t *Task) stampsFor(batch []*Queued) (stamps []int64, epoch int64, ok bool) {
	step := int64(1)
	if len(batch) > 1 && t.w.coin(0.5) {
		step = 2
	}
	n := step * int64(len(batch))
	T, epoch, ok := t.add(n)
	if !ok {
		return nil, 0, false
	}
	var between []int64
	for i := range n {
		if i%step == 0 {
			stamps = append(stamps, T+1+i)
		} else {
			between = append(between, T+1+i)
		}
	}
	t.markLater(surrendered(between), epoch)
	return stamps, epoch, true
}
