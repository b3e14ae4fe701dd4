package watchhub

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// always is ready.
var always = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// send is the sender: it takes turns until the stream ends, and returns the stream's status.
func (s *stream) send(broken <-chan error) error {
	ticker := time.NewTicker(s.hub.opts.progressInterval())
	defer ticker.Stop()
	for {
		busy, err := s.turn()
		if err != nil {
			return s.ending(err)
		}
		var again <-chan struct{}
		if busy {
			again = always
		}
		select {
		case <-again:
		case <-s.wake:
		case <-s.gathering:
			s.gathering = nil
			s.groupKeys()
			s.startKeys()
			s.startReplays()
		case p := <-s.pieces:
			err = s.replayed(p)
		case <-ticker.C:
			s.tick, s.tickRev = true, s.hub.src.Told()
		case <-s.ctx.Done():
			err = s.ctx.Err()
		case err = <-broken:
		case <-s.hub.done:
			err = s.finish()
		}
		if err != nil {
			return s.ending(err)
		}
	}
}

// ending is what etcd makes of a stream whose client went away.
func (s *stream) ending(err error) error {
	if errors.Is(s.ctx.Err(), context.Canceled) || errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// errOvertaken ends streams whose log compaction has overtaken. There will be another one: clients come back, each watcher where it was.
var errOvertaken = status.Error(codes.Unavailable, "metaetcd: compaction overtook the log, which is being reopened")

// finish ends the stream because the hub has ended. The error goes to the stream and not to each watcher: clientv3
// shows it to every one of them, while it swallows the reason of a single cancellation. Compaction is the exception: those that
// it has passed are cancelled, and the others can go on.
func (s *stream) finish() error {
	err := s.hub.err
	if compacted, ok := errors.AsType[*CompactedError](err); ok {
		var failed error
		s.eachLive(func(w *watcher) {
			if failed == nil && max(w.floor, w.sender.told+1) < compacted.Rev {
				failed = s.overtaken(w, compacted.Rev)
			}
		})
		if failed != nil {
			return failed
		}
		return errOvertaken
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// turn sends what is queued and a piece for those behind, and says whether there is more of the latter.
func (s *stream) turn() (busy bool, err error) {
	defer s.report()
	sent := s.hub.position.Load() // before take: what it promises is in the queue by now
	items := s.take()
	for i := range items {
		if err := s.process(&items[i]); err != nil {
			return false, err
		}
	}
	if s.asked && s.progressDue(sent) {
		err = s.gather(sent)
	} else {
		_, err = s.catchUp(noLimit)
	}
	if err == nil && s.tick {
		err = s.ticked(sent)
	}
	return len(s.behind) > 0, err
}

func (s *stream) process(it *item) (err error) {
	defer s.sent(it)
	if it.control() {
		<-s.room
	}
	w := it.w
	switch it.kind {
	case itemEvents:
		return s.sendEvents(w, it.events, it.rev)
	case itemBehind:
		s.taken++
		s.fallBehind(w, it.rev)
		return nil
	case itemCreated:
		w.sender.created = true
		err = s.grpc.Send(it.resp)
		if it.rev > 0 {
			s.taken++
			s.fallBehind(w, it.rev)
		}
		return err
	case itemCanceled:
		if w.sender.replay != nil {
			w.sender.replay.leave()
		}
		return s.grpc.Send(it.resp)
	case itemProgress:
		s.asked, s.askedRev = true, max(s.askedRev, it.rev)
		return nil
	default:
		return s.grpc.Send(it.resp)
	}
}

// sendEvents sends a watcher its events, after which it has everything up to rev.
func (s *stream) sendEvents(w *watcher, evs []*mergedlog.Event, rev int64) error {
	for len(evs) > 0 && !w.gone.Load() && !w.sender.dead {
		n := wholeRevisions(evs, s.hub.opts.MaxRequestBytes)
		upTo := evs[n-1].Rev
		if n == len(evs) {
			upTo = rev
		}
		if own := w.events(evs[:n]); own != nil {
			w.sender.notifyDue, w.sender.told = false, own[len(own)-1].Kv.ModRevision
			s.hub.events.Add(uint64(len(own)))
			if err := s.respond(w, &pb.WatchResponse{Header: s.hub.header(upTo), WatchId: w.id, Events: own}); err != nil {
				return err
			}
		}
		evs = evs[n:]
	}
	return nil
}

func (s *stream) respond(w *watcher, r *pb.WatchResponse) error {
	if w.fragment {
		return sendFragments(r, s.hub.opts.MaxRequestBytes, s.grpc.Send)
	}
	return s.grpc.Send(r)
}

// progressDue says whether only watchers behind can stand in the way of an answer to the client's progress request;
// sent is what every synced watcher has. A request with nobody to tell is dropped, as in etcd.
func (s *stream) progressDue(sent int64) bool {
	want, live := s.askedRev, false
	s.eachLive(func(w *watcher) {
		live = true
		want = max(want, w.floor)
	})
	switch {
	case !live:
		s.asked, s.askedRev = false, 0
	case sent < want:
		s.hub.await(s, want)
	default:
		return true
	}
	return false
}

// gather brings those behind to where the synced watchers are, sent, and answers the client's progress request there.
// The queue waits meanwhile: if it were drained, the others would move on, and with a log that is always ahead of its
// reader there might never be a revision at which all watchers are.
func (s *stream) gather(sent int64) error {
	for worked := true; worked; {
		var err error
		if worked, err = s.catchUp(sent); err != nil {
			return err
		}
	}
	rev, told := sent, s.askedRev
	s.eachLive(func(w *watcher) {
		told = max(told, w.floor, w.sender.told)
		if w.sender.behind {
			rev = min(rev, w.sender.cursor-1)
		}
	})
	switch {
	case rev >= told:
		s.asked, s.askedRev = false, 0
		return s.grpc.Send(s.progress(clientv3.InvalidWatchID, rev))
	case sent < told: // a watcher that has caught up is ahead of the dispatcher
		s.hub.await(s, told)
	}
	return nil // a replay is under way: its pieces bring the sender back
}

// eachLive calls f for the watchers that the client knows and that were not cancelled.
func (s *stream) eachLive(f func(w *watcher)) {
	s.scratch = s.snapshot(s.scratch[:0])
	for _, w := range s.scratch {
		if w.sender.created && !w.sender.dead {
			f(w)
		}
	}
	clear(s.scratch)
}

// ticked notifies watchers of progress once that is no less than what was told when the interval had passed.
func (s *stream) ticked(sent int64) error {
	if sent < s.tickRev {
		s.hub.await(s, s.tickRev)
		return nil
	}
	s.tick = false
	return s.notify(sent)
}

// notify serves the watchers with progress_notify that had no event since the last tick. As in etcd, those that are
// not synced are left out.
func (s *stream) notify(sent int64) (err error) {
	s.eachLive(func(w *watcher) {
		st := &w.sender
		if !w.notify || err != nil {
			return
		}
		if st.notifyDue && !st.behind && sent >= max(w.floor, st.told) {
			st.told = sent
			err = s.grpc.Send(s.progress(w.id, sent))
		}
		st.notifyDue = true
	})
	return err
}

func (s *stream) progress(id, rev int64) *pb.WatchResponse {
	return &pb.WatchResponse{Header: s.hub.header(rev), WatchId: id}
}
