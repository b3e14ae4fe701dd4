package watchhub

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

const (
	// pieceEvents is how many events of the log are read between two looks at the queue.
	pieceEvents = 512
	// maxReplays is how many watchers of one stream have history read for them at once.
	maxReplays = 4
	// The pause after a failed replay doubles from the first to the second.
	replayPause    = 50 * time.Millisecond
	maxReplayPause = 2 * time.Second
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

// noLimit lets catchUp read whatever is closed.
const noLimit = math.MaxInt64 - 1

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
		s.setAside(w)
		s.replayOf = append(s.replayOf, w)
		s.startReplays()
		return true, nil
	case err != nil:
		s.hub.end(s.hub.terminal(err))
		return false, s.finish()
	}
	if next > limit+1 {
		next = limit + 1
		evs = evs[:len(evs)-len(since(evs, next))]
	}
	if err := s.deliver(evs, from, next); err != nil {
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

// deliver sends the events in [from, next) to the watchers whose cursor is in there.
func (s *stream) deliver(evs []*mergedlog.Event, from, next int64) error {
	for _, g := range s.lagging.match(evs) {
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
	for _, w := range s.behind {
		if w.sender.cursor >= from {
			w.sender.cursor = max(w.sender.cursor, next)
		}
	}
	return nil
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

// piece is what a replay hands to the sender: events, or its end.
type piece struct {
	w      *watcher
	events []*mergedlog.Event
	next   int64 // the cursor afterwards
	done   bool
	err    *CompactedError
}

// startReplays starts as many replays as are allowed.
func (s *stream) startReplays() {
	for s.replaying < maxReplays && len(s.replayOf) > 0 {
		w := s.replayOf[0]
		s.replayOf[0], s.replayOf = nil, s.replayOf[1:]
		if w.gone.Load() {
			continue
		}
		ctx, stop := context.WithCancel(s.ctx)
		w.sender.stop = stop
		s.replaying++
		from, to := w.sender.cursor, s.hub.src.Closed()
		s.replays.Go(func() {
			defer stop()
			s.replay(ctx, w, from, to)
		})
	}
}

// replay reads a watcher's history in [from, to] and hands it to the sender, piece by piece as the sender has time.
func (s *stream) replay(ctx context.Context, w *watcher, from, to int64) {
	pause, outage := replayPause, &s.hub.outage
	goesOn := func() {
		if outage.Ends(w) {
			s.hub.opts.Logger.Info("history can be read again")
		}
	}
	defer outage.Ends(w)
	for {
		err := s.hub.src.Replay(ctx, w.key, w.end, from, to, func(evs []*mergedlog.Event) error {
			if len(evs) == 0 {
				return nil
			}
			goesOn()
			from = evs[len(evs)-1].Rev + 1
			return s.hand(piece{w: w, events: slices.Clone(evs), next: from})
		})
		compacted, overtaken := errors.AsType[*CompactedError](err)
		if err == nil || ctx.Err() != nil || overtaken {
			if err == nil {
				goesOn()
			}
			// A replay that was stopped reports too: the sender counts them.
			_ = s.hand(piece{w: w, next: to + 1, done: true, err: compacted})
			return
		}
		if outage.Begins(w) {
			s.hub.opts.Logger.Warn("reading history for a watch failed; trying again", zap.Int64("revision", from), zap.Error(err))
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxReplayPause)
		case <-ctx.Done():
		}
	}
}

// hand gives a piece to the sender, unless the stream ends first.
func (s *stream) hand(p piece) error {
	select {
	case s.pieces <- p:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// replayed takes a piece of a replay.
func (s *stream) replayed(p piece) error {
	w := p.w
	if !p.done {
		if err := s.sendEvents(w, p.events, p.next-1); err != nil {
			return err
		}
		w.sender.cursor = p.next
		return nil
	}
	s.replaying--
	s.startReplays()
	w.sender.stop = nil
	switch {
	case w.gone.Load():
		return nil
	case p.err != nil:
		return s.overtaken(w, max(p.err.Rev, s.hub.src.Compacted()))
	default:
		s.fallBehind(w, p.next)
		return nil
	}
}
