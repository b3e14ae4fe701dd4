package conformance

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// progressEvery is how often a stream is asked for its progress until it answers: etcd ignores the question while one of the
// stream's watchers is catching up.
const progressEvery = 10 * time.Millisecond

// watched is one watch on one side, and what it has delivered.
type watched struct {
	ctx       context.Context // names the stream
	responses clientv3.WatchChan
	from      int64
	fragment  bool
	created   int64 // the header's revision at creation; 0 if it was refused
	events    []*mvccpb.Event
	last      int64 // revision of the newest event
	progress  int64 // everything up to here was announced to have been delivered
	ended     bool
	err       error
	compacted int64
}

func startWatch(ctx context.Context, w clientv3.Watcher, req *pb.WatchCreateRequest) (*watched, error) {
	opts := []clientv3.OpOption{clientv3.WithRev(req.StartRevision), clientv3.WithCreatedNotify()}
	if len(req.RangeEnd) > 0 {
		opts = append(opts, clientv3.WithRange(string(req.RangeEnd)))
	}
	if req.PrevKv {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if req.Fragment {
		opts = append(opts, clientv3.WithFragment())
	}
	for _, f := range req.Filters {
		if f == pb.WatchCreateRequest_NOPUT {
			opts = append(opts, clientv3.WithFilterPut())
		} else {
			opts = append(opts, clientv3.WithFilterDelete())
		}
	}
	one := &watched{ctx: ctx, responses: w.Watch(ctx, string(req.Key), opts...), from: req.StartRevision, fragment: req.Fragment}
	select {
	case resp, open := <-one.responses:
		if resp.Created {
			one.created = resp.Header.Revision
			return one, nil
		}
		if resp.Canceled {
			return one, one.take(resp, open)
		}
		return nil, fmt.Errorf("the first response does not say that the watch was created: %+v", resp)
	case <-time.After(opTimeout):
		return nil, fmt.Errorf("not created within %s", opTimeout)
	}
}

// take records one response and checks what holds for every watch: order, and nothing at or below an announced revision.
func (w *watched) take(resp clientv3.WatchResponse, open bool) error {
	if !open {
		w.ended = true
		return nil
	}
	if resp.IsProgressNotify() {
		w.progress = max(w.progress, resp.Header.Revision)
		return nil
	}
	if resp.Canceled {
		w.err, w.compacted = resp.Err(), resp.CompactRevision
	}
	for i, ev := range resp.Events {
		rev := ev.Kv.ModRevision
		switch {
		case rev < w.last, rev == w.last && i == 0 && !w.fragment:
			return fmt.Errorf("an event of revision %d after a response that ended with %d", rev, w.last)
		case rev <= w.progress:
			return fmt.Errorf("an event of revision %d after %d was announced", rev, w.progress)
		case rev > resp.Header.Revision:
			return fmt.Errorf("an event of revision %d under a header of %d", rev, resp.Header.Revision)
		}
		w.events, w.last = append(w.events, ev), rev
	}
	return nil
}

// drain collects responses until each watch has ended or announced the given revision, but for those that begin later: etcd
// is silent about their progress.
func drain(watcher clientv3.Watcher, watches []*watched, rev int64) error {
	deadline := time.Now().Add(opTimeout)
	for _, w := range watches {
		for !w.ended && w.progress < rev && w.from <= rev {
			select {
			case resp, open := <-w.responses:
				if err := w.take(resp, open); err != nil {
					return err
				}
			case <-time.After(progressEvery):
				if err := watcher.RequestProgress(w.ctx); err != nil {
					return err
				}
				if time.Now().After(deadline) {
					return fmt.Errorf("no progress to %d within %s, only to %d with %d events", rev, opTimeout, w.progress, len(w.events))
				}
			}
		}
	}
	return nil
}

// watchPair is the same watch on both sides.
type watchPair struct {
	req         *pb.WatchCreateRequest
	client      int
	plain, meta *watched
	compared    int // events that were found equal so far
}

// watches are the watches of one sequence. Those of one client share a stream, as in applications, except for those that begin
// in the future, as etcd announces no progress to a stream with one of them, and those that are refused, as clientv3 gives
// their error to others of the stream.
type watches struct {
	*pair
	ctx  context.Context
	open []*watchPair
}

// start opens a watch on both sides, at the same rank even if its revision is zero.
func (ws *watches) start(t *rapid.T, client int, req *pb.WatchCreateRequest) {
	w := &watchPair{req: req, client: client}
	ws.knowPresent(t)
	ws.settle(t, w.client)
	ctx := ws.ctx
	if req.StartRevision > ws.revs.current() || emptyRange(req) {
		ctx = metadata.AppendToOutgoingContext(ctx, "stream", fmt.Sprint(len(ws.open)))
	}
	var err error
	if w.plain, err = startWatch(ctx, ws.plain.watcher, req); err != nil {
		t.Fatalf("plain: %v", err)
	}
	metaReq := ws.revs.request(req).(*pb.WatchCreateRequest)
	if w.meta, err = startWatch(ctx, ws.metas[w.client].watcher, metaReq); err != nil {
		t.Fatalf("meta: %v", err)
	}
	if rank := ws.revs.rank(w.meta.created); rank != w.plain.created && w.meta.created+w.plain.created > 0 {
		t.Fatalf("created at revision %d, on plain at %d", rank, w.plain.created)
	}
	ws.open = append(ws.open, w)
}

func emptyRange(req *pb.WatchCreateRequest) bool {
	return len(req.RangeEnd) > 0 && string(req.RangeEnd) != "\x00" && bytes.Compare(req.RangeEnd, req.Key) <= 0
}

// check waits until all watches have delivered everything, and compares.
func (ws *watches) check(t *rapid.T) {
	var plain []*watched
	metas := make([][]*watched, len(ws.metas))
	for _, w := range ws.open {
		plain = append(plain, w.plain)
		metas[w.client] = append(metas[w.client], w.meta)
	}
	if err := drain(ws.plain.watcher, plain, ws.revs.current()); err != nil {
		t.Fatalf("plain watches: %v", err)
	}
	for i, m := range ws.metas {
		if err := drain(m.watcher, metas[i], ws.revs.newest()); err != nil {
			t.Fatalf("watches of client %d: %v", i, err)
		}
	}
	for _, w := range ws.open {
		w.compare(t, ws.revs, ws.compacted)
	}
}

// compare fails the test unless both sides delivered the same. The meta cluster may know the previous value of an event at the
// compacted revision; whether etcd still does is a matter of timing.
func (w *watchPair) compare(t *rapid.T, revs *revisions, compacted int64) {
	for i := w.compared; i < len(w.meta.events); i++ {
		w.meta.events[i] = revs.eventOf(w.meta.events[i])
		if i < len(w.plain.events) && w.plain.events[i].PrevKv == nil && w.plain.events[i].Kv.ModRevision <= compacted {
			w.meta.events[i].PrevKv = nil
		}
	}
	for i := w.compared; i < max(len(w.plain.events), len(w.meta.events)); i++ {
		if i >= len(w.plain.events) || i >= len(w.meta.events) || !proto.Equal(w.plain.events[i], w.meta.events[i]) {
			t.Fatalf("%s on client %d: event %d differs\nplain: %s\nmeta:  %s", format(w.req), w.client, i,
				formatEvents(w.plain.events, i), formatEvents(w.meta.events, i))
		}
	}
	w.compared = len(w.plain.events)
	if w.plain.ended != w.meta.ended || !sameError(w.plain.err, w.meta.err) {
		t.Fatalf("%s on client %d ended differently\nplain: %t %v\nmeta:  %t %v", format(w.req), w.client,
			w.plain.ended, w.plain.err, w.meta.ended, w.meta.err)
	}
	if got := revs.event(w.meta.compacted); got != w.plain.compacted {
		t.Fatalf("%s on client %d: compact revision %d, on plain %d", format(w.req), w.client, got, w.plain.compacted)
	}
}

// formatEvents shows the event that differs and how many follow.
func formatEvents(events []*mvccpb.Event, i int) string {
	if i >= len(events) {
		return "no event"
	}
	return fmt.Sprintf("%s, and %d more", format(events[i]), len(events)-i-1)
}
