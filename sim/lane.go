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
	T, epoch, ok := t.add(int64(len(batch)))
	if !ok {
		return
	}
	var ops []*Guarded
	var sent []*Queued
	for i, q := range batch {
		if o := q.build(T + 1 + int64(i)); o != nil {
			ops = append(ops, o)
			sent = append(sent, q)
			q.out = Outcome{st: unknown, T: o.T, epoch: epoch}
		}
	}
	if len(ops) == 0 {
		return
	}
	r, ok := t.ask(w.describe(t.p, member, ops), func() any { return w.batch(w.members[member], epoch, ops) })
	if !ok {
		return
	}
	rep := r.(BatchReply)
	for i, q := range sent {
		if rep.wrong {
			q.out.st = wrongEpoch
		} else {
			q.out = rep.outs[i]
		}
	}
	if rep.wrong {
		t.syncEpoch()
	}
}
