package watchhub

import (
	"slices"
	"sort"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/keyrange"
	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// watcher is one watch of one stream. It is in the hub's index, or in its stream's, or in none.
type watcher struct {
	// What was asked for; never changed.
	stream   *stream
	id       int64
	key, end []byte // in etcd's convention
	prevKV   bool
	fragment bool
	notify   bool // progress_notify
	noPut    bool
	noDelete bool
	floor    int64 // where it was created: no progress is announced below; set before Created is queued
	bare     int64 // compacted when it was created: events up to it come without previous values, as in etcd; set like floor

	gone atomic.Bool // cancelled by the client: nothing more is sent

	// Where it is in the index that holds it; guarded like that index.
	group *group
	place int

	// Guarded by Hub.mu.
	registered bool  // it counts
	synced     bool  // it is in the hub's index
	next       int64 // while synced: the first revision to deliver

	sender senderState
}

// senderState is what only the stream's sender knows of a watcher.
type senderState struct {
	created   bool    // Created was sent
	dead      bool    // cancelled by the server; the client may still cancel it
	behind    bool    // not synced; everything below cursor was sent
	cursor    int64   // while behind
	place     int     // while behind: in stream.behind
	told      int64   // highest revision of an event or a notification that it was sent
	notifyDue bool    // no events since the last tick
	replay    *replay // that is under way for it
}

func newWatcher(s *stream, id int64, req *pb.WatchCreateRequest) *watcher {
	w := &watcher{
		stream:   s,
		id:       id,
		key:      watchKey(req),
		end:      slices.Clone(req.RangeEnd),
		prevKV:   req.PrevKv,
		fragment: req.Fragment,
		notify:   req.ProgressNotify,
		noPut:    slices.Contains(req.Filters, pb.WatchCreateRequest_NOPUT),
		noDelete: slices.Contains(req.Filters, pb.WatchCreateRequest_NODELETE),
	}
	w.sender.notifyDue = true
	return w
}

// watchKey returns the key of a request: an empty one means the smallest that there is.
func watchKey(req *pb.WatchCreateRequest) []byte {
	if len(req.Key) == 0 {
		return []byte{0}
	}
	return slices.Clone(req.Key)
}

// emptyRange says whether a request's range can hold no key.
func emptyRange(req *pb.WatchCreateRequest) bool {
	return keyrange.Of(watchKey(req), req.RangeEnd).Empty()
}

// filtered says whether the watcher does not want an event.
func (w *watcher) filtered(ev *mergedlog.Event) bool {
	return w.noPut && ev.Type == mvccpb.Event_PUT || w.noDelete && ev.Type == mvccpb.Event_DELETE
}

// cell and prevCell are an event of one watcher's own, in one piece of memory.
type cell struct {
	ev mvccpb.Event
	kv mvccpb.KeyValue
}

type prevCell struct {
	cell
	prev mvccpb.KeyValue
}

// events makes the watcher's own events: new structs around the log's bytes, without those it does not want.
func (w *watcher) events(evs []*mergedlog.Event) []*mvccpb.Event {
	n := len(evs)
	if w.noPut || w.noDelete {
		n = 0
		for _, ev := range evs {
			if !w.filtered(ev) {
				n++
			}
		}
	}
	if n == 0 {
		return nil
	}
	own := make([]*mvccpb.Event, 0, n)
	if w.prevKV {
		cells := make([]prevCell, n)
		for _, ev := range evs {
			if w.filtered(ev) {
				continue
			}
			c := &cells[len(own)]
			if ev.PrevKv != nil && ev.Rev > w.bare {
				copyKV(&c.prev, ev.PrevKv)
				c.ev.PrevKv = &c.prev
			}
			own = append(own, c.fill(ev))
		}
		return own
	}
	cells := make([]cell, n)
	for _, ev := range evs {
		if !w.filtered(ev) {
			own = append(own, cells[len(own)].fill(ev))
		}
	}
	return own
}

func (c *cell) fill(ev *mergedlog.Event) *mvccpb.Event {
	copyKV(&c.kv, ev.Kv)
	c.ev.Type, c.ev.Kv = ev.Type, &c.kv
	return &c.ev
}

func copyKV(dst, src *mvccpb.KeyValue) {
	// Clipped, so that what a receiver appends to them is its own.
	dst.Key, dst.Value = slices.Clip(src.Key), slices.Clip(src.Value)
	dst.CreateRevision, dst.ModRevision, dst.Version = src.CreateRevision, src.ModRevision, src.Version
	dst.Lease = src.Lease
}

// eventOverhead is about what an event takes beside its bytes, in memory and, generously, on the wire.
const eventOverhead = 64

// size estimates an event with its previous value, in bytes.
func size(ev *mergedlog.Event) int {
	n := eventOverhead + len(ev.Kv.Key) + len(ev.Kv.Value)
	if ev.PrevKv != nil {
		n += eventOverhead + len(ev.PrevKv.Key) + len(ev.PrevKv.Value)
	}
	return n
}

func sizeAll(evs []*mergedlog.Event) (n int64) {
	for _, ev := range evs {
		n += int64(size(ev))
	}
	return n
}

// since returns the events with revisions >= rev.
func since(evs []*mergedlog.Event, rev int64) []*mergedlog.Event {
	if len(evs) == 0 || evs[0].Rev >= rev {
		return evs
	}
	return evs[sort.Search(len(evs), func(i int) bool { return evs[i].Rev >= rev }):]
}

// wholeRevisions returns how many events fit into one response of maxBytes: entire revisions, at least one.
func wholeRevisions(evs []*mergedlog.Event, maxBytes int) int {
	end, bytes := 0, 0
	for i, ev := range evs {
		bytes += size(ev)
		if bytes > maxBytes && end > 0 {
			return end
		}
		if i+1 == len(evs) || evs[i+1].Rev != ev.Rev {
			end = i + 1
		}
	}
	return end
}
