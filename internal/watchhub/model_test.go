package watchhub

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/metaetcd/metaetcd/internal/bridge"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// modelWatch is one watch of the model test: what was asked for and what came.
type modelWatch struct {
	req      *pb.WatchCreateRequest
	start    int64 // the first revision it is to see; known once it is created
	got      []*mvccpb.Event
	last     int64 // highest revision promised
	notified int64
	partial  bool // a fragment is to follow
	canceled bool
	compact  int64
}

func (w *modelWatch) wants(ev *mergedlog.Event) bool {
	key, end, k := w.req.Key, w.req.RangeEnd, ev.Kv.Key
	in := bytes.Equal(k, key) || len(end) > 0 && bytes.Compare(k, key) >= 0 && (end[0] == 0 || bytes.Compare(k, end) < 0)
	drop := pb.WatchCreateRequest_NOPUT
	if ev.Type == mvccpb.Event_DELETE {
		drop = pb.WatchCreateRequest_NODELETE
	}
	return in && ev.Rev >= w.start && !slices.Contains(w.req.Filters, drop)
}

// modelStream reads one stream at its own pace and checks everything that can be checked at once.
type modelStream struct {
	src     *fakeSource
	cs      pb.Watch_WatchClient
	pause   time.Duration
	watches map[int64]*modelWatch
}

// lastWatch is created when everything has happened. Compaction cannot cancel it, so there is somebody to be told about
// the progress that is asked for next.
const lastWatch = 1000

// events returns the source's closed events.
func (s *modelStream) events() []*mergedlog.Event {
	s.src.mu.Lock()
	defer s.src.mu.Unlock()
	return s.src.rangeLocked(0, s.src.closed)
}

// read runs until the final progress request is answered.
func (s *modelStream) read() error {
	for {
		r, err := s.cs.Recv()
		if err != nil {
			return fmt.Errorf("the stream ended: %w", err)
		}
		if r.WatchId == -1 {
			if err := s.progress(r.Header.Revision); err != nil {
				return err
			}
			if s.watches[lastWatch].start > 0 {
				return nil
			}
			continue
		}
		if err := s.take(s.watches[r.WatchId], r); err != nil {
			return fmt.Errorf("watch %v: %w", s.watches[r.WatchId].req, err)
		}
		if s.pause > 0 {
			time.Sleep(s.pause)
		}
	}
}

// progress checks that nothing up to rev is missing anywhere.
func (s *modelStream) progress(rev int64) error {
	for _, w := range s.watches {
		if w.start == 0 || w.canceled {
			continue
		}
		if err := s.progressOf(w, rev); err != nil {
			return fmt.Errorf("progress %d: %w", rev, err)
		}
	}
	return nil
}

// progressOf checks that nothing up to rev is missing, and that the client will not resume below what it has.
func (s *modelStream) progressOf(w *modelWatch, rev int64) error {
	if rev < w.start-1 || rev < w.notified || len(w.got) > 0 && rev < w.got[len(w.got)-1].Kv.ModRevision {
		return fmt.Errorf("below the start %d, the last notification %d, or an event", w.start, w.notified)
	}
	w.notified = rev
	return w.complete(s.events(), rev)
}

// complete checks what came against the log, which it must hold up to rev.
func (w *modelWatch) complete(log []*mergedlog.Event, rev int64) error {
	i := 0
	for _, ev := range log {
		if !w.wants(ev) {
			continue
		}
		if i == len(w.got) {
			if ev.Rev <= rev {
				return fmt.Errorf("event %d of %q is missing from %v", ev.Rev, ev.Kv.Key, w.req)
			}
			return nil
		}
		got := w.got[i]
		i++
		if got.Kv.ModRevision != ev.Rev || !bytes.Equal(got.Kv.Key, ev.Kv.Key) || got.Type != ev.Type ||
			!bytes.Equal(got.Kv.Value, ev.Kv.Value) || (got.PrevKv != nil) != (w.req.PrevKv && ev.PrevKv != nil) && ev.Rev > w.start {
			return fmt.Errorf("event %d is %v, should be %v at %d", i, got, ev.Kv, ev.Rev)
		}
	}
	if i < len(w.got) {
		return fmt.Errorf("%d events too many", len(w.got)-i)
	}
	return nil
}

// take checks one response of one watch.
func (s *modelStream) take(w *modelWatch, r *pb.WatchResponse) error {
	switch {
	case w == nil || w.canceled:
		return fmt.Errorf("unexpected response %v", r)
	case r.Created:
		if w.start = w.req.StartRevision; w.start == 0 {
			w.start = r.Header.Revision + 1
		}
		return nil
	case r.Canceled:
		w.canceled, w.compact = true, r.CompactRevision
		return nil
	case w.start == 0:
		return fmt.Errorf("a response before Created")
	}
	for _, ev := range r.Events {
		rev := ev.Kv.ModRevision
		if rev <= w.last && !w.partial {
			return fmt.Errorf("revision %d came after %d was promised", rev, w.last)
		}
		w.got = append(w.got, ev)
	}
	w.partial = r.Fragment
	if w.partial {
		return nil
	}
	w.last = r.Header.Revision
	if len(r.Events) == 0 {
		return s.progressOf(w, w.last)
	}
	if n := len(w.got); n > 0 && w.last < w.got[n-1].Kv.ModRevision {
		return fmt.Errorf("header %d below its events", w.last)
	}
	return w.complete(s.events(), w.last) // that is also: whole revisions
}

func genWatch(t *rapid.T, id, highest int64) *pb.WatchCreateRequest {
	req := &pb.WatchCreateRequest{
		WatchId:        id,
		Key:            []byte{rapid.SampledFrom([]byte("abcd")).Draw(t, "key")},
		PrevKv:         rapid.Bool().Draw(t, "prev"),
		Fragment:       rapid.Bool().Draw(t, "fragment"),
		ProgressNotify: rapid.Bool().Draw(t, "notify"),
	}
	switch rapid.IntRange(0, 3).Draw(t, "range") {
	case 0:
		req.RangeEnd = []byte{0}
	case 1:
		req.RangeEnd = []byte{req.Key[0] + 2}
	case 2:
		req.RangeEnd = []byte{req.Key[0], 'm'}
	}
	switch rapid.IntRange(0, 4).Draw(t, "start") {
	case 0, 1:
		req.StartRevision = rapid.Int64Range(1, highest).Draw(t, "past")
	case 2:
		req.StartRevision = highest + rapid.Int64Range(1, 20).Draw(t, "future")
	}
	if rapid.IntRange(0, 3).Draw(t, "filter") == 0 {
		req.Filters = append(req.Filters, rapid.SampledFrom([]pb.WatchCreateRequest_FilterType{
			pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE,
		}).Draw(t, "drop"))
	}
	return req
}

// TestModel runs random watches over a random history, with consumers of different speed, tiny queues, a log that is
// held back, evicts and is compacted, and compares what each watch saw with the log.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := newSource()
		src.noKeys = rapid.Bool().Draw(t, "no keys")
		hub := New(src, Options{
			QueueBytes:       rapid.SampledFrom([]int{1, 600, 4000, 1 << 20}).Draw(t, "queue"),
			MaxRequestBytes:  rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(t, "response"),
			ProgressInterval: time.Millisecond,
		})
		defer hub.Close()
		streams := make([]*modelStream, rapid.IntRange(1, 3).Draw(t, "streams"))
		var readers sync.WaitGroup
		errs := make(chan error, len(streams))
		requests := make([][]*pb.WatchRequest, len(streams))
		for i := range streams {
			s := &modelStream{src: src, watches: map[int64]*modelWatch{}, pause: rapid.SampledFrom([]time.Duration{0, 0, 50 * time.Microsecond}).Draw(t, "pause")}
			for id := int64(1); id <= rapid.Int64Range(1, 12).Draw(t, "watches"); id++ {
				req := genWatch(t, id, 40)
				s.watches[id] = &modelWatch{req: req}
				requests[i] = append(requests[i], createReq(req))
			}
			s.watches[lastWatch] = &modelWatch{req: &pb.WatchCreateRequest{WatchId: lastWatch, Key: []byte("z")}}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			s.cs, _ = bridge.WatchClient(hub).Watch(ctx)
			defer cancel()
			streams[i] = s
			readers.Go(func() {
				if err := s.read(); err != nil {
					errs <- err
				}
			})
		}
		for range rapid.IntRange(40, 120).Draw(t, "steps") {
			modelStep(t, src, streams, requests)
		}
		src.release()
		for src.Closed() < 70 { // past every start
			src.commit(put("a", "end"))
		}
		for i, s := range streams {
			for _, r := range append(requests[i], createReq(s.watches[lastWatch].req)) {
				_ = s.cs.Send(r)
			}
			_ = s.cs.Send(progressReq())
		}
		readers.Wait()
		select {
		case err := <-errs:
			t.Fatal(err)
		default:
		}
		checkModel(t, src, streams)
	})
}

// modelStep does one random thing.
func modelStep(t *rapid.T, src *fakeSource, streams []*modelStream, requests [][]*pb.WatchRequest) {
	switch rapid.IntRange(0, 11).Draw(t, "step") {
	case 0:
		src.set(func(f *fakeSource) { f.floor = max(f.floor, f.closed-rapid.Int64Range(0, 10).Draw(t, "kept")) })
	case 1:
		if rapid.IntRange(0, 9).Draw(t, "compact") == 0 {
			src.set(func(f *fakeSource) {
				f.compacted = max(f.compacted, rapid.Int64Range(1, f.closed).Draw(t, "at"))
			})
		}
	case 2:
		src.set(func(f *fakeSource) { f.held = true })
	case 3:
		src.release()
	case 4, 5, 6:
		i := rapid.IntRange(0, len(streams)-1).Draw(t, "stream")
		if len(requests[i]) > 0 {
			_ = streams[i].cs.Send(requests[i][0])
			requests[i] = requests[i][1:]
		}
		if rapid.Bool().Draw(t, "ask") {
			_ = streams[i].cs.Send(progressReq())
		}
	case 7:
		time.Sleep(20 * time.Microsecond)
	default:
		var ops []op
		for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "al", "b", "bz", "c", "d", "e"}), 1, 4, rapid.ID).Draw(t, "keys") {
			if rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
				ops = append(ops, del(k))
				continue
			}
			ops = append(ops, put(k, string(make([]byte, rapid.IntRange(0, 60).Draw(t, "size")))))
		}
		src.commit(ops...)
	}
}

// checkModel checks that every watch is complete, and that only compaction cancelled any.
func checkModel(t *rapid.T, src *fakeSource, streams []*modelStream) {
	for _, s := range streams {
		for id, w := range s.watches {
			switch {
			case w.canceled && (w.compact == 0 || w.compact > src.compacted || w.start >= w.compact):
				t.Fatalf("watch %v was cancelled at %d", w.req, w.compact)
			case w.canceled:
				if err := w.complete(src.events, 0); err != nil {
					t.Fatal(err)
				}
			case w.start == 0:
				t.Fatalf("watch %d was not created", id)
			default:
				if err := w.complete(src.events, src.closed); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
