package watchhub

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// recorder is a stream's client that takes everything at once.
type recorder struct {
	pb.Watch_WatchServer
	got []*pb.WatchResponse
}

func (r *recorder) Send(m *pb.WatchResponse) error {
	r.got = append(r.got, m)
	return nil
}

// still returns a stream of a hub whose dispatcher stands still at a position of the test's choosing, in a log in which
// every revision from 2 to closed changes "k".
func still(position, closed int64) (*stream, *recorder) {
	src := newSource()
	for src.highest < closed {
		src.commit(put("k", "v"))
	}
	h := &Hub{src: src, opts: Options{}.withDefaults(), synced: newIndex(), waiting: map[*stream]int64{}}
	h.position.Store(position)
	client := &recorder{}
	return &stream{
		queue: newQueue(1 << 20), hub: h, grpc: client, watchers: map[int64]*watcher{}, lagging: newIndex(),
	}, client
}

// place adds a watcher that has everything below cursor; one at the position is synced.
func (s *stream) place(id, cursor int64) *watcher {
	w := &watcher{stream: s, id: id, key: []byte("k"), notify: true}
	w.sender = senderState{created: true, notifyDue: true, told: cursor - 1}
	s.watchers[id] = w
	if cursor > s.hub.position.Load() {
		s.hub.syncLocked(w, cursor)
	} else {
		s.fallBehind(w, cursor)
	}
	return w
}

// TestGatherMeetsAtOneRevision: those behind come to exactly where the others are, however far that is and however far
// the log has gone on, and the answer follows there.
func TestGatherMeetsAtOneRevision(t *testing.T) {
	const sent, closed = 4 * pieceEvents, 6 * pieceEvents
	s, client := still(sent, closed)
	s.place(1, 2)
	s.place(2, 1000)
	s.place(3, sent+1)
	s.asked, s.askedRev = true, sent-100
	require.True(t, s.progressDue(sent))
	require.NoError(t, s.gather(sent))
	next := map[int64]int64{1: 2, 2: 1000}
	for _, r := range client.got[:len(client.got)-1] {
		for _, ev := range r.Events {
			require.Equal(t, next[r.WatchId], ev.Kv.ModRevision)
			next[r.WatchId]++
		}
	}
	require.Equal(t, map[int64]int64{1: sent + 1, 2: sent + 1}, next)
	last := client.got[len(client.got)-1]
	require.True(t, isProgress(last))
	require.EqualValues(t, -1, last.WatchId)
	require.EqualValues(t, sent, last.Header.Revision)
	require.False(t, s.asked)
	require.Empty(t, s.behind)
	require.Equal(t, 3, s.hub.synced.len())
}

// TestProgressNeverGoesBack: a watcher that caught up ahead of the dispatcher has seen more than the position says.
func TestProgressNeverGoesBack(t *testing.T) {
	const sent, ahead = 10, 15
	s, client := still(sent, ahead)
	w := s.place(1, ahead+1)
	s.asked, s.askedRev = true, sent
	require.True(t, s.progressDue(sent))
	require.NoError(t, s.gather(sent))
	require.NoError(t, s.notify(sent))
	require.Empty(t, client.got)
	require.True(t, s.asked)
	require.Equal(t, map[*stream]int64{s: ahead}, s.hub.waiting)

	s.hub.advanceLocked(ahead)
	require.Empty(t, s.hub.waiting)
	<-s.wake
	require.NoError(t, s.gather(ahead))
	require.NoError(t, s.notify(ahead))
	require.Len(t, client.got, 2)
	for i, id := range []int64{-1, 1} {
		require.EqualValues(t, id, client.got[i].WatchId)
		require.EqualValues(t, ahead, client.got[i].Header.Revision)
	}
	require.EqualValues(t, ahead, w.sender.told)
}

// TestProgressRightAfterAnEvent lets the dispatcher and a progress request reach the sender at the same time.
func TestProgressRightAfterAnEvent(t *testing.T) {
	f := setup(t, Options{})
	c := f.open()
	c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	for range 5000 {
		rev := f.src.commit(put("k", "v"))
		c.send(progressReq())
		require.EqualValues(t, rev, c.recv().Header.Revision, "the event")
		require.Equal(t, rev, c.progressAnswer())
	}
}
