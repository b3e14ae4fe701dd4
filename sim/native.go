package main

import "slices"

var revisionsAreWhole = newRule("mFragment", "an event proves what its revision has only when the last fragment of it has come (A4)")

// Conn is a gRPC stream of a process to a member, with its native watchers, as etcd serves them: what a watcher brings is in the
// order of revisions, each whole, but one may lag behind another.
type Conn struct {
	m       *Member
	watches []*Native
	out     []Response // on its way to the process
	asked   bool       // progress was asked for
	slow    int        // nothing moves before this step
}

// Native is a native watcher.
type Native struct {
	reserved bool // of the reserved range
	keys     Keys // of these
	start    int  // the revision to begin at; 0: behind the present one

	// The server's side.
	registered bool
	header     int // when it was
	announced  bool
	ended      bool       // by compaction
	sent       int        // all up to it was sent
	victim     int        // the server does nothing for it before this step
	held       []Response // until it is announced

	// The client's.
	known  bool    // it was created on the present stream
	resume int     // where clientv3 goes on after the stream broke off; 0: it was not created
	part   []Event // of a revision of which more is to come
	take   func(Response)
}

// Response is what a server sends: the creation of a watcher, events of one revision, or progress of the whole stream.
type Response struct {
	of        *Native // nil: progress
	created   bool
	compacted int // it is ended: its next revision is below this one
	header    int // where the member was
	rev       int // of the events
	evs       []Event
	more      bool // of them are in the next response
}

// watch asks for a watcher.
func (c *Conn) watch(n *Native) *Native {
	c.watches = append(c.watches, n)
	return n
}

// cancel ends a watcher. What it has sent still arrives.
func (c *Conn) cancel(n *Native) {
	c.watches = slices.DeleteFunc(c.watches, func(o *Native) bool { return o == n })
}

// serve is a step of the server.
func (w *World) serve(c *Conn) {
	if c.asked && w.coin(0.3) {
		c.answerProgress()
		return
	}
	if len(c.watches) == 0 {
		return
	}
	n := c.watches[w.rng.Intn(len(c.watches))]
	switch {
	case n.ended, !w.fair && n.victim > w.step:
	case !n.registered:
		n.registered, n.header, n.sent = true, len(c.m.log), len(c.m.log)
		if n.start > 0 {
			n.sent = n.start - 1
		}
	case !n.announced && w.coin(0.3):
		n.announced = true
		c.out = append(c.out, Response{of: n, created: true, header: n.header})
		c.out = append(c.out, n.held...)
		n.held = nil
	case n.announced && n.sent+1 < c.m.compacted:
		n.ended = true
		c.out = append(c.out, Response{of: n, header: len(c.m.log), compacted: c.m.compacted})
	case !w.fair && !n.reserved && w.coin(w.slow/10):
		n.victim = w.step + w.rng.Intn(1500)
	default:
		w.send(c, n)
	}
}

// answerProgress says how far the member is, if every watcher has been sent all. If not, the request is lost.
func (c *Conn) answerProgress() {
	c.asked = false
	for _, n := range c.watches {
		if n.registered && !n.ended && n.sent != len(c.m.log) {
			return
		}
	}
	c.out = append(c.out, Response{header: len(c.m.log)})
}

// send sends the next revision that a watcher is there for.
func (w *World) send(c *Conn, n *Native) {
	for n.sent < len(c.m.log) {
		rv := &c.m.log[n.sent]
		n.sent++
		var evs []Event
		for _, e := range rv.evs {
			if n.keys.has(e.key) {
				evs = append(evs, e)
			}
		}
		if len(evs) == 0 && (!n.reserved || !rv.record) {
			continue
		}
		rs := []Response{{of: n, header: len(c.m.log), rev: n.sent, evs: evs}}
		if len(evs) > 1 && w.coin(0.3) { // fragments
			rs = append(rs, rs[0])
			rs[0].evs, rs[0].more, rs[1].evs = evs[:1:1], true, evs[1:]
		}
		if n.announced {
			c.out = append(c.out, rs...)
		} else {
			n.held = append(n.held, rs...)
		}
		return
	}
}

// arrive brings the process the next response.
func (w *World) arrive(c *Conn) {
	if len(c.out) == 0 {
		return
	}
	r := c.out[0]
	c.out = c.out[1:]
	if n := r.of; n != nil {
		if r.more && w.holds(revisionsAreWhole) {
			n.part = r.evs
			return
		}
		r.evs, n.part = append(n.part, r.evs...), nil
		again := r.created && n.resume > 0
		switch {
		case r.created && !again:
			n.resume = max(n.start, 1)
			if n.start == 0 {
				n.resume = r.header + 1
			}
		case r.rev > 0 && !r.more:
			n.resume = r.rev + 1
		}
		n.known = true
		if r.compacted > 0 {
			c.cancel(n)
		}
		if !again {
			n.take(r)
		}
		return
	}
	for _, n := range slices.Clone(c.watches) {
		switch {
		case n.known:
			n.resume = max(n.resume, r.header+1)
			n.take(r)
		case n.resume == 0:
			n.take(r)
		}
	}
}

// breakOff loses what is under way. clientv3 opens the watchers again, each where it was.
func (w *World) breakOff(c *Conn) {
	c.out, c.asked = nil, false
	for _, n := range c.watches {
		if w.coin(0.3) {
			n.victim = w.step + w.rng.Intn(800)
		}
		n.registered, n.announced, n.ended, n.known, n.held, n.part = false, false, false, false, nil, nil
		if n.resume > 0 {
			n.start = n.resume
		}
	}
}

// idle tells whether nothing is left to be sent or to arrive.
func (c *Conn) idle() bool {
	return len(c.out) == 0 && !slices.ContainsFunc(c.watches, func(n *Native) bool {
		return !n.announced || !n.ended && n.sent < len(c.m.log)
	})
}
