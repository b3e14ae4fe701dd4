package workload

import (
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Span is when a request was made and when it was answered.
type Span struct{ Begin, End time.Time }

// Took is how long the answer took.
func (s Span) Took() time.Duration { return s.End.Sub(s.Begin) }

// Effect is what a write does to one key.
type Effect struct {
	Key    string
	Value  string // of a put: no other write has it
	Delete bool
}

// Write is a request that changes keys, as its caller knows it.
type Write struct {
	Client  string
	Effects []Effect
	Rev     int64 // of the answer; 0: the outcome is unknown
	Span
}

// Read is what somebody was told of the state at a revision.
type Read struct {
	Client   string
	Key      string
	RangeEnd string // as in etcd; empty: the key alone
	Rev      int64
	KVs      []*mvccpb.KeyValue
	Present  bool // a request of its own for the present state, linearizable; otherwise Span is empty
	Span

	Shape
	Counted bool // Count and More are as the answer said
	Count   int64
	More    bool
}

// Shape is how much of what it found a read was told.
type Shape struct {
	Limit     int64 // 0: none
	KeysOnly  bool
	CountOnly bool
}

// Response is what a watch delivered at once.
type Response struct {
	Rev    int64 // of the header
	At     time.Time
	Events []*clientv3.Event // none: a progress notification
}

// last is the highest revision that the response says to be delivered.
func (r Response) last() int64 {
	if n := len(r.Events); n > 0 {
		return r.Events[n-1].Kv.ModRevision
	}
	return r.Rev
}

// Stream is what one watch delivered, from a revision on.
type Stream struct {
	Client    string
	Prefix    string // of the keys that it watched; empty: all
	From      int64
	Resumed   bool // opened after From, to go on where something else ended
	Lost      bool // the client was lost, or gave the watch up: it may end early
	Listed    bool // opened with a list of the same keys at From-1, which is First
	First     []*mvccpb.KeyValue
	Responses []Response
}

// whole reports whether the stream is of everything that happened.
func (s *Stream) whole() bool { return s.Prefix == "" && !s.Lost && !s.Resumed && !s.Listed }

// reached is how far the stream got.
func (s *Stream) reached() int64 {
	rev := s.From - 1
	for _, r := range s.Responses {
		rev = max(rev, r.last())
	}
	return rev
}

// Log returns the stream's events up to a revision.
func (s *Stream) Log(last int64) []*clientv3.Event {
	var evs []*clientv3.Event
	for _, r := range s.Responses {
		for _, ev := range r.Events {
			if ev.Kv.ModRevision <= last {
				evs = append(evs, ev)
			}
		}
	}
	return evs
}

// Arrival returns when the stream delivered the events of a revision.
func (s *Stream) Arrival(rev int64) (time.Time, bool) {
	i, _ := slices.BinarySearchFunc(s.Responses, rev, func(r Response, rev int64) int {
		if r.last() >= rev {
			return 1
		}
		return -1
	})
	if i == len(s.Responses) {
		return time.Time{}, false
	}
	return s.Responses[i].At, true
}

// History is everything that was recorded.
type History struct {
	Base    int64              // the streams begin after it
	First   []*mvccpb.KeyValue // the state at Base
	Last    int64              // every stream has delivered everything up to it
	Writes  []*Write
	Reads   []*Read
	Streams []*Stream
	Faults  []error // what was wrong in itself
}
