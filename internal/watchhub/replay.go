package watchhub

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

const (
	// maxReplays is how often history is read for one stream at once, and maxKeyReplays for how many single keys.
	maxReplays, maxKeyReplays = 4, 64
	// gatherReplay is how long a replay waits for others that need about the same: most come together, and each would take longer.
	gatherReplay = 10 * time.Millisecond
	// farShare is the share of a replay that a watcher may have already for it to be one of those that it is read for: it waits as long.
	farShare = 4
	// The pause after a failed replay doubles from the first to the second.
	replayPause    = 50 * time.Millisecond
	maxReplayPause = 2 * time.Second
)

// replay is one reading of history, for all watchers of a stream that lack about the same of it, or that lack one key. Everything but what
// read uses is the sender's.
type replay struct {
	keys     keyrange.Range // all that the watchers watch
	alone    bool           // it is for one key
	from, to int64
	stop     context.CancelFunc

	watchers []*watcher
	index    *index // of watchers
	live     int    // of them: not cancelled
}

// piece is what a replay hands to the sender: events with revisions below next, or its end.
type piece struct {
	of     *replay
	events []*mergedlog.Event
	next   int64
	done   bool
	refuse bool // done: a key's history is not to be had alone
	err    *CompactedError
}

// awaitReplay sets aside the watchers that the log has nothing for below its floor: history is read for them, in a moment.
func (s *stream) awaitReplay(floor int64) {
	for _, w := range slices.Backward(s.behind) { // the last one takes the place of one that goes
		if w.sender.cursor >= floor {
			continue
		}
		s.setAside(w)
		if keyrange.Of(w.key, w.end).Single() {
			s.keysOf = append(s.keysOf, w)
		} else {
			s.replayOf = append(s.replayOf, w)
		}
	}
	s.replaySoon()
}

// replaySoon starts replays in a moment.
func (s *stream) replaySoon() {
	if s.gathering == nil {
		s.gathering = time.After(gatherReplay)
	}
}

// startKeys starts as many of the replays of single keys as are allowed.
func (s *stream) startKeys() {
	for len(s.keyReplays) > 0 && s.keysRead < maxKeyReplays {
		r := s.keyReplays[0]
		s.keyReplays[0], s.keyReplays = nil, s.keyReplays[1:]
		if r.live > 0 {
			s.keysRead++
			s.start(r)
		}
	}
}

// startReplays starts as many of the others as are allowed.
func (s *stream) startReplays() {
	for len(s.replays)-s.keysRead < maxReplays {
		r := s.nextReplay()
		if r == nil {
			return
		}
		s.start(r)
	}
}

func (s *stream) start(r *replay) {
	ctx, stop := context.WithCancel(s.ctx)
	r.stop = stop
	s.replays[r] = struct{}{}
	s.reading.Go(func() {
		defer stop()
		s.read(ctx, r)
	})
}

// groupKeys makes replays of the watchers of single keys that wait for one: one for each key.
func (s *stream) groupKeys() {
	to := s.hub.src.ReplayTo()
	of := map[string]*replay{}
	for _, w := range s.keysOf {
		if w.gone.Load() {
			continue
		}
		r := of[string(w.key)]
		if r == nil {
			r = &replay{alone: true, from: w.sender.cursor, to: to, index: newIndex()}
			of[string(w.key)] = r
			s.keyReplays = append(s.keyReplays, r)
		}
		r.from = min(r.from, w.sender.cursor)
		r.add(w)
	}
	clear(s.keysOf)
	s.keysOf = s.keysOf[:0]
}

// nextReplay takes the watcher with the lowest cursor of those that wait for a replay, with all others that are near. nil: nobody waits.
func (s *stream) nextReplay() *replay {
	from := int64(none)
	for _, w := range s.replayOf {
		if !w.gone.Load() {
			from = min(from, w.sender.cursor)
		}
	}
	if from == none {
		s.replayOf = nil
		return nil
	}
	r := &replay{from: from, to: s.hub.src.ReplayTo(), index: newIndex()}
	near := from + max((r.to-from)/farShare, pieceEvents)
	left := s.replayOf[:0]
	for _, w := range s.replayOf {
		switch {
		case w.gone.Load():
		case w.sender.cursor <= near:
			r.add(w)
		default:
			left = append(left, w)
		}
	}
	clear(s.replayOf[len(left):])
	s.replayOf = left
	return r
}

func (r *replay) add(w *watcher) {
	own := keyrange.Of(w.key, w.end)
	if len(r.watchers) == 0 {
		r.keys = own
	} else {
		r.keys = hull(r.keys, own)
	}
	w.sender.replay = r
	r.index.add(w)
	r.watchers = append(r.watchers, w)
	r.live++
}

// hull is the smallest range that contains two, which are not empty.
func hull(a, b keyrange.Range) keyrange.Range {
	if a.Single() && b.Single() && bytes.Equal(a.Key, b.Key) {
		return a
	}
	key := a.Key
	if bytes.Compare(b.Key, key) < 0 {
		key = b.Key
	}
	if a.Unbounded() || b.Unbounded() {
		return keyrange.From(key)
	}
	end := endOf(a)
	if other := endOf(b); bytes.Compare(other, end) > 0 {
		end = other
	}
	return keyrange.Of(key, end)
}

// endOf is the lowest key above a bounded range.
func endOf(r keyrange.Range) []byte {
	if r.Single() {
		return append(bytes.Clone(r.Key), 0)
	}
	return r.End
}

// leave takes note that a watcher was cancelled: what is read for nobody is not read.
func (r *replay) leave() {
	if r.live--; r.live == 0 && r.stop != nil {
		r.stop()
	}
}

// read reads history and hands it to the sender, piece by piece as the sender has time.
func (s *stream) read(ctx context.Context, r *replay) {
	var evs []*mergedlog.Event
	bytes, from := 0, r.from
	flush := func() error {
		if len(evs) == 0 {
			return nil
		}
		p := piece{of: r, events: evs, next: from}
		evs, bytes = nil, 0
		return s.hand(p)
	}
	outage := &s.hub.outage
	goesOn := func() {
		if outage.Ends(r) {
			s.hub.opts.Logger.Info("history can be read again")
		}
	}
	defer outage.Ends(r)
	for pause := replayPause; ; {
		refused := false
		err := s.replay(ctx, r, from, &refused, func(more []*mergedlog.Event) error {
			if len(more) == 0 {
				return nil
			}
			goesOn()
			evs, from = append(evs, more...), more[len(more)-1].Rev+1
			if bytes += int(sizeAll(more)); len(evs) < pieceEvents && bytes < s.hub.opts.MaxRequestBytes {
				return nil
			}
			return flush()
		})
		if flush() != nil {
			return // the stream has ended
		}
		compacted, overtaken := errors.AsType[*CompactedError](err)
		if err == nil || ctx.Err() != nil || overtaken {
			if err == nil {
				goesOn()
			}
			// A replay that was stopped reports too: the sender counts them.
			_ = s.hand(piece{of: r, next: r.to + 1, done: true, refuse: refused, err: compacted})
			return
		}
		if outage.Begins(r) {
			s.hub.opts.Logger.Warn("reading history for a watch failed; trying again", zap.Int64("revision", from), zap.Error(err))
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxReplayPause)
		case <-ctx.Done():
		}
	}
}

// replay asks the source. refused: for one key alone it is not to be had.
func (s *stream) replay(ctx context.Context, r *replay, from int64, refused *bool, fn func(evs []*mergedlog.Event) error) error {
	if !r.alone {
		return s.hub.src.Replay(ctx, r.keys.Key, r.keys.End, from, r.to, fn)
	}
	ok, err := s.hub.src.ReplayKey(ctx, r.keys.Key, from, r.to, fn)
	*refused = !ok && err == nil
	return err
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
	r := p.of
	if !p.done {
		return s.deliver(r.index, r.watchers, p.events, r.from, p.next)
	}
	delete(s.replays, r)
	if r.alone {
		s.keysRead--
	}
	for _, w := range r.watchers {
		w.sender.replay = nil
		r.index.remove(w)
		switch {
		case w.gone.Load():
			continue
		case p.refuse: // together with others, then
			s.replayOf = append(s.replayOf, w)
			continue
		case p.err == nil:
			w.sender.cursor = max(w.sender.cursor, p.next)
		case w.sender.cursor < max(p.err.Rev, s.hub.src.Compacted()):
			if err := s.overtaken(w, max(p.err.Rev, s.hub.src.Compacted())); err != nil {
				return err
			}
			continue
		}
		s.fallBehind(w, w.sender.cursor)
	}
	switch {
	case p.refuse:
		s.replaySoon()
	case !r.alone:
		s.startReplays()
	}
	s.startKeys()
	return nil
}
