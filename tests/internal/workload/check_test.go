package workload

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// world makes histories: it is an etcd that writes down what it does.
type world struct {
	h      *History
	events []*clientv3.Event
	now    map[string]*mvccpb.KeyValue
}

// newWorld begins at revision 1 with nothing.
func newWorld() *world {
	return &world{h: &History{Base: 1, Last: 1}, now: map[string]*mvccpb.KeyValue{}}
}

// write makes a write of the effects, which is acknowledged.
func (w *world) write(effects ...Effect) *Write {
	w.h.Last++
	for _, e := range effects {
		prev := w.now[e.Key]
		ev := &clientv3.Event{Type: clientv3.EventTypeDelete, PrevKv: prev, Kv: &mvccpb.KeyValue{Key: []byte(e.Key), ModRevision: w.h.Last}}
		delete(w.now, e.Key)
		if !e.Delete {
			ev.Type, ev.Kv.Value, ev.Kv.CreateRevision, ev.Kv.Version = clientv3.EventTypePut, []byte(e.Value), w.h.Last, 1
			if prev != nil {
				ev.Kv.CreateRevision, ev.Kv.Version = prev.CreateRevision, prev.Version+1
			}
			w.now[e.Key] = ev.Kv
		}
		w.events = append(w.events, ev)
	}
	wr := &Write{Client: "a", Effects: effects, Rev: w.h.Last}
	w.h.Writes = append(w.h.Writes, wr)
	return wr
}

// list reads everything.
func (w *world) list() *Read {
	r := &Read{Client: "a", Key: "\x00", RangeEnd: "\x00", Rev: w.h.Last, Counted: true, Count: int64(len(w.now))}
	for _, kv := range w.now {
		r.KVs = append(r.KVs, kv)
	}
	slices.SortFunc(r.KVs, func(a, b *mvccpb.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	w.h.Reads = append(w.h.Reads, r)
	return r
}

// watch adds a stream that was told all that it should be, a response for each revision.
func (w *world) watch(s Stream) *Stream {
	for _, m := range byRevision(w.events) {
		var events []*clientv3.Event
		for _, ev := range m.events {
			if strings.HasPrefix(string(ev.Kv.Key), s.Prefix) {
				events = append(events, &clientv3.Event{Type: ev.Type, Kv: ev.Kv, PrevKv: ev.PrevKv})
			}
		}
		if m.rev >= s.From && len(events) > 0 {
			s.Responses = append(s.Responses, Response{Rev: m.rev, Events: events})
		}
	}
	s.Responses = append(s.Responses, Response{Rev: w.h.Last})
	w.h.Streams = append(w.h.Streams, &s)
	return &s
}

func put(key, value string) Effect { return Effect{Key: key, Value: value} }

// scene is a history in which everything is as it should be, and its parts.
type scene struct {
	h                        *History
	whole, resumed, listener *Stream
	early, late              *Read
	put, both, last          *Write
}

func newScene() *scene {
	w := newWorld()
	s := &scene{h: w.h}
	s.put = w.write(put("g/k0", "v2"))
	s.both = w.write(put("g/left", "v3l"), put("g/right", "v3r"))
	s.early = w.list()
	w.write(put("g/counter", "1 v4"))
	w.write(Effect{Key: "g/k0", Delete: true})
	w.write(put("h/k0", "v6"))
	w.write(put("g/counter", "2 v7"), put("g/left", "v7"))
	s.late = w.list()
	s.last = w.write(put("the/end", "v8"))
	s.whole = w.watch(Stream{Client: "a", From: 2})
	w.watch(Stream{Client: "b", From: 2})
	s.resumed = w.watch(Stream{Client: "b", From: 5, Resumed: true})
	s.listener = w.watch(Stream{Client: "b", Prefix: "g/", From: 4, Listed: true, First: s.early.KVs})
	return s
}

// at is the index of the stream's response of a revision.
func (s *Stream) at(rev int64) int {
	return slices.IndexFunc(s.Responses, func(r Response) bool { return len(r.Events) > 0 && r.Rev == rev })
}

func without[T any](s []T, i int) []T { return slices.Delete(slices.Clone(s), i, i+1) }

func TestNothingIsWrong(t *testing.T) {
	require.Empty(t, newScene().h.Violations())
}

// TestUnknownOutcomes: a write of unknown outcome may have happened or not.
func TestUnknownOutcomes(t *testing.T) {
	s := newScene()
	s.put.Rev, s.both.Rev = 0, 0
	s.h.Writes = append(s.h.Writes, &Write{Client: "a", Effects: []Effect{put("g/k0", "never")}}, &Write{Client: "a", Effects: []Effect{{Key: "g/k0", Delete: true}}})
	require.Empty(t, s.h.Violations())
}

// TestEndedEarly: a stream that was given up need not have got everything, but nothing else.
func TestEndedEarly(t *testing.T) {
	s := newScene()
	s.listener.Lost = true
	s.listener.Responses = s.listener.Responses[:1]
	require.Empty(t, s.h.Violations())
	s.listener.Responses[0].Events = s.whole.Responses[s.whole.at(5)].Events
	require.NotEmpty(t, s.h.Violations())
}

// TestEveryPromiseCanBreak: each violation of a history that is fine otherwise is found, and called by its name.
func TestEveryPromiseCanBreak(t *testing.T) {
	for _, tc := range []struct {
		name    string
		want    error
		corrupt func(s *scene)
	}{
		{"two responses swapped", ErrOrdered, func(s *scene) {
			r := s.whole.Responses
			r[1], r[2] = r[2], r[1]
		}},
		{"an event before the watch's beginning", ErrOrdered, func(s *scene) {
			s.resumed.Responses = slices.Insert(s.resumed.Responses, 0, s.whole.Responses[s.whole.at(4)])
		}},
		{"a header below its events", ErrOrdered, func(s *scene) { s.whole.Responses[1].Rev-- }},
		{"an event twice in a response", ErrUnique, func(s *scene) {
			r := &s.whole.Responses[0]
			r.Events = append(r.Events, r.Events[0])
		}},
		{"a response twice", ErrUnique, func(s *scene) {
			s.whole.Responses = slices.Insert(s.whole.Responses, 1, s.whole.Responses[0])
		}},
		{"a response again, much later", ErrUnique, func(s *scene) {
			s.whole.Responses = append(s.whole.Responses, s.whole.Responses[0])
		}},
		{"a transaction in two responses", ErrAtomic, func(s *scene) {
			i := s.whole.at(3)
			first, second := s.whole.Responses[i], s.whole.Responses[i]
			first.Events, second.Events = first.Events[:1], second.Events[1:]
			s.whole.Responses = slices.Replace(s.whole.Responses, i, i+1, first, second)
		}},
		{"a transaction in another order, for everybody", ErrWrite, func(s *scene) {
			for _, st := range s.h.Streams {
				if i := st.at(3); i >= 0 {
					slices.Reverse(st.Responses[i].Events)
				}
			}
		}},
		{"half a transaction, for everybody", ErrAtomic, func(s *scene) {
			for _, st := range s.h.Streams {
				if i := st.at(3); i >= 0 {
					st.Responses[i].Events = st.Responses[i].Events[:1]
				}
			}
		}},
		{"a response missing", ErrReliable, func(s *scene) {
			s.whole.Responses = without(s.whole.Responses, 2)
		}},
		{"the end missing", ErrReliable, func(s *scene) {
			s.h.Streams[1].Responses = without(s.h.Streams[1].Responses, s.h.Streams[1].at(8))
		}},
		{"another value", ErrReliable, func(s *scene) {
			ev := s.listener.Responses[0].Events[0]
			ev.Kv = proto.Clone(ev.Kv).(*mvccpb.KeyValue)
			ev.Kv.Value = []byte("1 x")
		}},
		{"a key that was not watched", ErrReliable, func(s *scene) {
			s.listener.Responses = slices.Insert(s.listener.Responses, s.listener.at(7), s.whole.Responses[s.whole.at(6)])
		}},
		{"a resumed watch that begins too late", ErrResumable, func(s *scene) {
			s.resumed.Responses = without(s.resumed.Responses, 0)
		}},
		{"progress announced before its event", ErrBookmarkable, func(s *scene) {
			i := s.whole.at(4)
			s.whole.Responses = slices.Insert(s.whole.Responses, i, Response{Rev: 4})
		}},
		{"progress of the far future", ErrBookmarkable, func(s *scene) {
			s.resumed.Responses = slices.Insert(s.resumed.Responses, 0, Response{Rev: 8})
		}},
		{"an acknowledged write that nobody saw", ErrWrite, func(s *scene) {
			s.h.Writes = append(s.h.Writes, &Write{Client: "a", Effects: []Effect{put("g/k0", "v9")}, Rev: 9})
		}},
		{"a write told at another revision", ErrWrite, func(s *scene) { s.last.Rev = 9 }},
		{"an event that nobody made", ErrWrite, func(s *scene) { s.h.Writes = without(s.h.Writes, 1) }},
		{"a delete that nobody made", ErrWrite, func(s *scene) { s.h.Writes = without(s.h.Writes, 3) }},
		{"a revision told twice", ErrUnique, func(s *scene) { s.last.Rev = s.both.Rev }},
		{"a write that happened twice", ErrWrite, func(s *scene) {
			s.put.Rev, s.last.Rev = 0, 0
			s.put.Effects = slices.Concat(s.put.Effects, s.last.Effects)
			s.h.Writes = without(s.h.Writes, len(s.h.Writes)-1)
		}},
		{"a list without a key", ErrState, func(s *scene) { s.late.KVs = without(s.late.KVs, 1) }},
		{"a list of another revision", ErrState, func(s *scene) { s.late.Rev = s.early.Rev }},
		{"a list with a key too many", ErrState, func(s *scene) {
			s.late.KVs = append(slices.Clone(s.late.KVs), s.early.KVs[0])
		}},
		{"a wrong count", ErrState, func(s *scene) { s.late.Count++ }},
		{"more, of what fits", ErrState, func(s *scene) { s.late.More = true }},
		{"values of keys only", ErrState, func(s *scene) { s.late.KeysOnly = true }},
		{"beyond the limit", ErrState, func(s *scene) { s.late.Limit, s.late.More = 1, true }},
		{"a list that its watch does not go on from", ErrState, func(s *scene) { s.listener.First = s.listener.First[1:] }},
		{"a counter that skips", ErrCount, func(s *scene) {
			for _, st := range s.h.Streams {
				if i := st.at(4); i >= 0 {
					ev := st.Responses[i].Events[0]
					ev.Kv = proto.Clone(ev.Kv).(*mvccpb.KeyValue)
					ev.Kv.Value = []byte("7 v4")
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene()
			tc.corrupt(s)
			require.ErrorIs(t, errors.Join(s.h.Violations()...), tc.want)
		})
	}
}

// TestTotals: money that is lost on the way is missed, in events and in lists.
func TestTotals(t *testing.T) {
	bank := &Bank{Accounts: []string{"a/x", "b/x", "c/x"}, opened: 3, total: 30}
	newHistory := func() (h *History, early, late *Read, whole *Stream) {
		w := newWorld()
		w.write(put("other/x", "7 v2"))
		w.write(put("a/x", "10 v3"), put("b/x", "10 v3"), put("c/x", "10 v3"))
		early = w.list()
		w.write(put("a/x", "4 v4"), put("b/x", "16 v4"))
		w.write(put("other/x", "8 v5"))
		late = w.list()
		return w.h, early, late, w.watch(Stream{Client: "a", From: 2})
	}
	h, _, _, _ := newHistory()
	states, lists, errs := bank.violations(h)
	require.Empty(t, errs)
	require.Equal(t, []int{3, 2}, []int{states, lists})

	h, early, late, _ := newHistory()
	late.KVs = slices.Concat(early.KVs[:1], late.KVs[1:])
	_, _, errs = bank.violations(h)
	require.ErrorIs(t, errors.Join(errs...), ErrTotal)

	h, _, _, whole := newHistory()
	i := whole.at(4)
	whole.Responses[i].Events = whole.Responses[i].Events[:1]
	_, _, errs = bank.violations(h)
	require.ErrorIs(t, errors.Join(errs...), ErrTotal)
}
