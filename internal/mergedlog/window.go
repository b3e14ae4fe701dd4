package mergedlog

// pending is a stamp above W that was marked, with what it changed. A stamp may be pending more than once.
type pending struct {
	stamp int64
	evs   []Event
}

// window holds the marked stamps above W as a heap, lowest first. Stamps arrive nearly in order, so a push
// seldom has to move anything.
type window struct {
	heap   []pending
	events int   // in all pending stamps
	bytes  int64 // their size
	gone   runs  // stamps whose events were let go; above W, like those in the heap
}

func (w *window) push(stamp int64, evs []Event) {
	h := append(w.heap, pending{stamp, evs})
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if h[up].stamp <= h[i].stamp {
			break
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
	w.heap = h
	w.events += len(evs)
	w.bytes += sizeOf(evs)
}

// lowest returns the lowest stamp whose events are here; forever if there is none.
func (w *window) lowest() int64 {
	if len(w.heap) == 0 {
		return forever
	}
	return w.heap[0].stamp
}

// waits is how many events wait; of those that were let go, how many stamps.
func (w *window) waits() int { return w.events + w.gone.stamps() }

// pop removes the lowest stamp and returns its events.
func (w *window) pop() []Event {
	h := w.heap
	evs := h[0].evs
	last := len(h) - 1
	h[0], h[last] = h[last], pending{}
	h = h[:last]
	for i := 0; ; {
		low := 2*i + 1
		if low >= last {
			break
		}
		if r := low + 1; r < last && h[r].stamp < h[low].stamp {
			low = r
		}
		if h[i].stamp <= h[low].stamp {
			break
		}
		h[i], h[low] = h[low], h[i]
		i = low
	}
	w.heap = h
	w.events -= len(evs)
	w.bytes -= sizeOf(evs)
	return evs
}

// drop forgets the stamps up to c.
func (w *window) drop(c int64) {
	for w.lowest() <= c {
		w.pop()
	}
	for w.gone.lowest() <= c {
		if w.gone[0].to > c {
			w.gone[0].from = c + 1
			break
		}
		w.gone = w.gone[1:]
	}
}
