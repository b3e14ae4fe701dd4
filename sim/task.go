package main

import "iter"

// Message is a request to a store. It takes effect when the schedule says so, or never.
type Message struct {
	desc  string
	exec  func() any
	reply any
	done  bool // it took effect
	gone  bool // it was lost before
	slow  int  // it does not arrive before this step
}

// result is what a task that waited is woken with.
type result int

const (
	came       result = iota // the answer, or what was waited for
	lostAnswer               // an answer that will not come
	graceOver                // what was waited for was not there for a while
)

// Task is a thread of a process. It runs until it asks a store or waits, and goes on when the schedule resumes it.
type Task struct {
	w      *World
	p      *Process
	client bool // the run waits for it

	next  func() (int, bool)
	stop  func()
	yield func(int) bool
	done  bool

	message *Message    // what it asked
	cond    func() bool // what it waits for
	grace   bool        // it may give up waiting
	res     result

	addEpoch int64 // the epoch of its last add, for a rebuild without a claim
}

// crash unwinds a task of a process that crashed.
type crash struct{}

func (w *World) spawn(p *Process, client bool, fn func(t *Task)) {
	t := &Task{w: w, p: p, client: client}
	seq := iter.Seq[int](func(yield func(int) bool) {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(crash); !ok {
					panic(r)
				}
			}
		}()
		t.yield = yield
		fn(t)
	})
	t.next, t.stop = iter.Pull(seq)
	w.tasks = append(w.tasks, t)
	p.tasks = append(p.tasks, t)
	if client {
		w.live++
	}
}

func (t *Task) pause() {
	if !t.yield(0) {
		panic(crash{})
	}
}

// ask sends a request. False: no answer came, and nobody knows whether it took effect.
func (t *Task) ask(desc string, exec func() any) (any, bool) {
	m := &Message{exec: exec, desc: desc}
	w := t.w
	if w.coin(w.slow) {
		m.slow = w.step + w.rng.Intn(2000)
	}
	w.messages = append(w.messages, m)
	t.message = m
	t.pause()
	t.message = nil
	if t.res == lostAnswer {
		return nil, false
	}
	return m.reply, true
}

// wait waits for a condition. False: the grace is over, if it has one.
func (t *Task) wait(grace bool, cond func() bool) bool {
	if cond() {
		return true
	}
	t.cond, t.grace = cond, grace
	t.pause()
	t.cond = nil
	return t.res == came
}

// idle waits for a grace.
func (t *Task) idle() { t.wait(true, func() bool { return false }) }

func (w *World) resume(t *Task, res result) {
	t.res = res
	if _, ok := t.next(); !ok {
		w.end(t)
	}
}

// end takes a task off the schedule.
func (w *World) end(t *Task) {
	if t.done {
		return
	}
	t.done = true
	if t.client {
		w.live--
	}
	for i, o := range w.tasks {
		if o == t {
			w.tasks[i] = w.tasks[len(w.tasks)-1]
			w.tasks = w.tasks[:len(w.tasks)-1]
			break
		}
	}
}

func (w *World) crash(p *Process) {
	w.log("CRASH p%d", p.id)
	p.up = false
	for _, t := range p.tasks {
		if !t.done {
			w.end(t)
			t.stop()
		}
	}
}
