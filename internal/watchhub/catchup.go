package watchhub

import (
	"errors"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

const (
	// pieceEvents is how many events are read between two looks at the queue.
	pieceEvents = 512
	// noLimit lets catchUp read whatever is closed.
	noLimit = math.MaxInt64 - 1
	// none is above every revision.
	none = math.MaxInt64
)

// fallBehind makes the sender itself serve a watcher that has everything below cursor.
func (s *stream) fallBehind(w *watcher, cursor int64) {
	if w.gone.Load() {
		return
	}
	w.sender.behind, w.sender.cursor, w.sender.place = true, cursor, len(s.behind)
	s.behind = append(s.behind, w)
	s.lagging.add(w)
}

// caughtUp takes a watcher out of lagging; the caller takes it out of behind.
func (s *stream) caughtUp(w *watcher) {
	s.lagging.remove(w)
	w.sender.behind = false
}

// setAside takes a watcher out of lagging and behind, though it remains behind. The last one takes its place: there may be
// any number of them, and all may be set aside.
func (s *stream) setAside(w *watcher) {
	s.lagging.remove(w)
	i, last := w.sender.place, len(s.behind)-1
	s.behind[i] = s.behind[last]
	s.behind[i].sender.place = i
	s.behind[last] = nil
	s.behind = s.behind[:last]
}

// catchUp reads a piece of the log, up to the revision limit, from the cursor of one of the watchers behind, for all of
// them that it helps. The watchers take turns, so that one with a long way to go does not hold up the others. It says
// whether anybody needed it.
func (s *stream) catchUp(limit int64) (worked bool, err error) {
	w := s.nextBehind(limit)
	if w == nil {
		s.rejoin()
		return false, nil
	}
	from := w.sender.cursor
	if compacted := s.hub.src.Compacted(); from < compacted {
		s.setAside(w)
		return true, s.overtaken(w, compacted)
	}
	evs, next, err := s.hub.src.Since(from, pieceEvents)
	switch {
	case errors.Is(err, mergedlog.ErrEvicted):
		s.awaitReplay(s.hub.src.Floor())
		return true, nil
	case err != nil:
		s.hub.end(s.hub.terminal(err))
		return false, s.finish()
	}
	if next > limit+1 {
		next = limit + 1
		evs = evs[:len(evs)-len(since(evs, next))]
	}
	if err := s.deliver(s.lagging, s.behind, evs, from, next); err != nil {
		return false, err
	}
	if next > s.hub.position.Load() {
		s.rejoin()
	}
	return true, nil
}

// nextBehind returns the watcher whose turn it is, of those that lack revisions up to limit.
func (s *stream) nextBehind(limit int64) *watcher {
	for range s.behind {
		s.turnOf = (s.turnOf + 1) % len(s.behind)
		if w := s.behind[s.turnOf]; w.sender.cursor <= limit {
			return w
		}
	}
	return nil
}

// rejoin syncs whoever has caught up with the dispatcher.
func (s *stream) rejoin() {
	if len(s.behind) > 0 {
		s.behind = s.hub.join(s, s.behind)
	}
}

// deliver sends the events in [from, next) to the watchers of an index whose cursor is in there.
func (s *stream) deliver(x *index, watchers []*watcher, evs []*mergedlog.Event, from, next int64) error {
	for _, g := range x.match(evs) {
		evs := g.take()
		for _, w := range g.watchers {
			if w.sender.cursor < from {
				continue
			}
			if err := s.sendEvents(w, since(evs, w.sender.cursor), next-1); err != nil {
				return err
			}
		}
	}
	for _, w := range watchers {
		if w.sender.cursor >= from {
			w.sender.cursor = max(w.sender.cursor, next)
		}
	}
	return nil
}

// report tells the hub what the watchers behind lack, so that the log keeps it for a while.
func (s *stream) report() {
	lowest := int64(none)
	for _, w := range s.behind {
		lowest = min(lowest, w.sender.cursor)
	}
	for _, waiting := range [][]*watcher{s.replayOf, s.keysOf} {
		for _, w := range waiting {
			if !w.gone.Load() {
				lowest = min(lowest, w.sender.cursor)
			}
		}
	}
	for r := range s.replays {
		lowest = min(lowest, r.to+1)
	}
	for _, r := range s.keyReplays {
		lowest = min(lowest, r.to+1)
	}
	if s.taken > 0 || lowest != s.reported {
		s.hub.noted(s, lowest, s.taken)
		s.taken, s.reported = 0, lowest
	}
}

// overtaken cancels a watcher because compaction has passed it. As in etcd, its id stays taken until the client lets
// go of it, and the header has no revision.
func (s *stream) overtaken(w *watcher, compacted int64) error {
	if !w.sender.created || w.sender.dead || w.gone.Load() {
		return nil
	}
	w.sender.dead = true
	s.hub.remove(w)
	return s.grpc.Send(&pb.WatchResponse{
		Header:          s.hub.header(0),
		WatchId:         w.id,
		Canceled:        true,
		CompactRevision: compacted,
	})
}
