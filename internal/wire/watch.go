package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// CompactedError ends a watch that begins, or has fallen, behind what the cluster has kept.
type CompactedError struct{ Rev int64 }

func (e *CompactedError) Error() string {
	return fmt.Sprintf("metaetcd: the history is compacted at revision %d", e.Rev)
}

// errSilent ends a watch whose server does not answer any more.
var errSilent = errors.New("metaetcd: the server of a watch is silent")

// BrokeOff reports whether a watch ended for a reason that another attempt may not meet, soon: its connection or its server.
func BrokeOff(err error) bool {
	if errors.Is(err, errSilent) || errors.Is(err, io.EOF) {
		return true
	}
	code := status.Code(err)
	return (code == codes.Unavailable || code == codes.Internal) && !errors.Is(err, rpctypes.ErrGRPCNoLeader)
}

const (
	// askEvery is how often the server of a watch is asked for a sign of life.
	askEvery = 500 * time.Millisecond
	// silence is how long it may send nothing at all, and opening how long until its first answer. Both double with each watch of a
	// client that ends so in a row, up to 64 times: a server may just be slow. One that sends what is behind it says nothing else meanwhile, and
	// cutting much of it into fragments takes it long.
	silence, opening = 2 * time.Second, time.Second
	mostDoublings    = 6
	// suspectSilence is how long it may send nothing when a server of its cluster was found to hang.
	suspectSilence = 500 * time.Millisecond
)

// Watches is the Watch service of the cluster. It remembers whether the last watches met servers that did not answer.
func (s *Servers) Watches() pb.WatchClient {
	return &watches{WatchClient: pb.NewWatchClient(connOf(s.cli)), servers: s}
}

type watches struct {
	pb.WatchClient
	servers *Servers
	silent  atomic.Int32 // watches in a row
}

// Watch implements pb.WatchClient. It goes around a server that hangs.
func (w *watches) Watch(ctx context.Context, opts ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	if c := w.servers.detour(); c != nil {
		return pb.NewWatchClient(c).Watch(ctx, opts...)
	}
	return w.WatchClient.Watch(ctx, opts...)
}

// patience is how long a time is at present.
func (w *watches) patience(d time.Duration) time.Duration {
	if w == nil {
		return d << mostDoublings
	}
	return d << min(w.silent.Load(), mostDoublings)
}

// follow returns where a watch is told that a server of its cluster hangs, and what ends that.
func (w *watches) follow() (suspected <-chan struct{}, leave func()) {
	if w == nil {
		return nil, func() {}
	}
	return w.servers.follow()
}

// heard notes that a server has answered, or has not.
func (w *watches) heard(answered bool) {
	switch {
	case w == nil:
	case answered:
		w.silent.Store(0)
	default:
		w.silent.Add(1)
		w.servers.seek()
	}
}

// Watch watches the whole keyspace of a cluster, from a revision on, until it fails: nothing is resumed.
// It calls fn with events in order, whole revisions at a time, and receives no more before that returns; without any when the server
// shows that it is there. Without prevKV previous values are left out.
//
// Responses come in fragments, of about the server's limit of a request each, whatever they hold together: what is kept is one
// fragment and one revision. A server that hangs is noticed after a few seconds, by requests for progress.
func Watch(ctx context.Context, c pb.WatchClient, from int64, prevKV bool, fn func(evs []*mvccpb.Event) error) error {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel(nil)
	stream, err := c.Watch(ctx, unbounded...)
	if err != nil {
		return err
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from, PrevKv: prevKV, Fragment: true,
	}}})
	if err != nil {
		_, err = stream.Recv() // says why
		return err
	}
	server, _ := c.(*watches)
	suspected, leave := server.follow()
	defer leave()
	silent := newLimit(func() { cancel(errSilent) })
	defer silent.stop()
	asking.Go(func() { askForProgress(ctx, stream, suspected, silent) })
	wait := server.patience(opening)
	var part []*mvccpb.Event // of a response whose last revision may go on in the next fragment
	for {
		silent.start(wait)
		resp, err := stream.Recv()
		silent.stop()
		switch {
		case err != nil && errors.Is(context.Cause(ctx), errSilent):
			server.heard(false) //nolint:contextcheck // the search is everybody's
			return errSilent
		case err != nil:
			return err
		case resp.CompactRevision != 0:
			return &CompactedError{resp.CompactRevision}
		case resp.Canceled:
			return status.Error(codes.FailedPrecondition, resp.CancelReason)
		}
		if !resp.Created {
			server.heard(true) //nolint:contextcheck // it does not search then
		}
		wait = server.patience(silence)
		whole := append(part, resp.Events...)
		part = nil
		if resp.Fragment {
			whole, part = cut(whole)
		}
		if err := fn(whole); err != nil {
			return err
		}
	}
}

// cut splits off the events of the last revision, which may not be all.
func cut(evs []*mvccpb.Event) (whole, part []*mvccpb.Event) {
	n := len(evs)
	for n > 0 && evs[n-1].Kv.ModRevision == evs[len(evs)-1].Kv.ModRevision {
		n--
	}
	return evs[:n:n], append([]*mvccpb.Event(nil), evs[n:]...)
}

// askForProgress makes a server that lives send something, until ctx ends. One that is suspected to hang is given less time for it.
func askForProgress(ctx context.Context, stream pb.Watch_WatchClient, suspected <-chan struct{}, silent *limit) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-suspected:
			silent.shorten(suspectSilence)
		case <-ctx.Done():
			return
		}
		if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}) != nil {
			return // Recv says why
		}
	}
}

// limit calls a function when a time has passed since it was started, unless it was stopped. It is safe for concurrent use.
type limit struct {
	mu    sync.Mutex
	timer *time.Timer
	on    bool
}

func newLimit(f func()) *limit {
	l := &limit{timer: time.AfterFunc(time.Hour, f)}
	l.stop()
	return l
}

func (l *limit) start(d time.Duration) { l.set(d, true) }
func (l *limit) stop()                 { l.set(0, false) }

// shorten makes the time that is left shorter.
func (l *limit) shorten(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on {
		l.timer.Reset(d)
	}
}

func (l *limit) set(d time.Duration, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on = on; on {
		l.timer.Reset(d)
	} else {
		l.timer.Stop()
	}
}
