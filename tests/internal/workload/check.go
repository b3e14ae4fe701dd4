package workload

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What is promised, and was not kept. The first six are of watches, named as in etcd's robustness tests.
var (
	ErrOrdered      = errors.New("events are not ordered by revision")
	ErrUnique       = errors.New("an event was delivered twice")
	ErrAtomic       = errors.New("the events of one revision came apart")
	ErrReliable     = errors.New("events were lost, or watches differ")
	ErrResumable    = errors.New("a watch from a past revision delivered something else")
	ErrBookmarkable = errors.New("progress was announced before its events")

	ErrWrite    = errors.New("a write took effect not once, or not where it was told")
	ErrState    = errors.New("a read saw another state than the events make")
	ErrCount    = errors.New("a counter skipped or repeated a number")
	ErrRealTime = errors.New("a revision is behind one that was told before")
	ErrCall     = errors.New("a request failed, and its context had not ended")
)

// most bounds how many violations are shown.
const most = 10

// Check fails the test, now, unless the history is what one etcd could have shown.
func (h *History) Check(t testing.TB) {
	t.Helper()
	errs := h.Violations()
	if len(errs) == 0 {
		return
	}
	n := len(errs)
	t.Fatalf("%d violations of the history from %d to %d: %v", n, h.Base, h.Last, errors.Join(errs[:min(n, most)]...))
}

// Violations returns everything that one etcd could not have shown.
func (h *History) Violations() []error {
	errs := slices.Clone(h.Faults)
	events := h.Events()
	for _, s := range h.Streams {
		errs = append(errs, h.checkStream(s, events)...)
	}
	log := byRevision(events)
	errs = append(errs, checkWrites(h.Writes, log)...)
	reads := slices.SortedStableFunc(slices.Values(h.Reads), func(a, b *Read) int { return cmp.Compare(a.Rev, b.Rev) })
	errs = append(errs, replay(h.First, log, reads, h.Last)...)
	for _, s := range h.Streams {
		if s.Listed {
			errs = append(errs, h.rebuild(s, reads)...)
		}
	}
	return errs
}

// Events is the longest record of what happened: that of the first client that lived to the end.
func (h *History) Events() []*clientv3.Event {
	for _, s := range h.Streams {
		if s.whole() {
			return s.Log(h.Last)
		}
	}
	return nil
}

// checkStream checks one stream in itself and against the log.
func (h *History) checkStream(s *Stream, log []*clientv3.Event) []error {
	name := s.String()
	var errs []error
	complain := func(kind error, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s: %s", kind, name, fmt.Sprintf(format, args...)))
	}
	last, announced := s.From-1, int64(0)
	type change struct {
		key string
		rev int64
	}
	seen := map[change]bool{}
	for _, r := range s.Responses {
		if len(r.Events) == 0 {
			announced = max(announced, r.Rev)
			continue
		}
		for i, ev := range r.Events {
			key, rev := string(ev.Kv.Key), ev.Kv.ModRevision
			switch c := (change{key, rev}); {
			case seen[c]:
				complain(ErrUnique, "%q at %d", key, rev)
			case rev <= announced:
				complain(ErrBookmarkable, "%q at %d after %d was announced", key, rev, announced)
			case rev < last || rev < s.From:
				complain(ErrOrdered, "%q at %d after %d", key, rev, last)
			case rev == last && i == 0:
				complain(ErrAtomic, "revision %d in two responses", rev)
			case rev > r.Rev:
				complain(ErrOrdered, "%q at %d under a header of %d", key, rev, r.Rev)
			}
			last, seen[change{key, rev}] = rev, true
		}
	}
	kind := ErrReliable
	if s.Resumed {
		kind = ErrResumable
	}
	if err := sameLog(s, log, h.Last); err != nil {
		complain(kind, "%v", err)
	}
	return errs
}

func compareRevision(ev *clientv3.Event, rev int64) int { return cmp.Compare(ev.Kv.ModRevision, rev) }

// sameLog compares a stream with the part of the log that it watched; of a lost client's, with how far it got.
func sameLog(s *Stream, log []*clientv3.Event, last int64) error {
	begin, _ := slices.BinarySearchFunc(log, s.From, compareRevision)
	got := s.Log(last)
	var want []*clientv3.Event
	for _, ev := range log[begin:] {
		if strings.HasPrefix(string(ev.Kv.Key), s.Prefix) {
			want = append(want, ev)
		}
	}
	if s.Lost && len(got) < len(want) {
		want = want[:len(got)]
	}
	for i := range min(len(want), len(got)) {
		if !sameEvent(want[i], got[i]) {
			return fmt.Errorf("event %d is %s, elsewhere %s", i, describe(got[i]), describe(want[i]))
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d events, elsewhere %d", len(got), len(want))
	}
	return nil
}

// moment is what happened at one revision.
type moment struct {
	rev    int64
	events []*clientv3.Event
}

func byRevision(events []*clientv3.Event) []moment {
	var log []moment
	for _, ev := range events {
		if n := len(log); n > 0 && log[n-1].rev == ev.Kv.ModRevision {
			log[n-1].events = append(log[n-1].events, ev)
		} else {
			log = append(log, moment{ev.Kv.ModRevision, []*clientv3.Event{ev}})
		}
	}
	return log
}

// checkWrites assigns each revision of the log to one write, and each write to at most one revision: an acknowledged one to the
// revision that it was told.
func checkWrites(writes []*Write, log []moment) []error {
	var errs []error
	byRev, byValue, unknownDeletes := map[int64]*Write{}, map[string]*Write{}, map[string]int{}
	for _, w := range writes {
		if other := byRev[w.Rev]; w.Rev > 0 && other != nil {
			errs = append(errs, fmt.Errorf("%w: revision %d was told twice, for %s and %s", ErrUnique, w.Rev, w, other))
		}
		if w.Rev > 0 {
			byRev[w.Rev] = w
		}
		for _, e := range w.Effects {
			if !e.Delete {
				byValue[e.Value] = w
			} else if w.Rev == 0 {
				unknownDeletes[e.Key]++
			}
		}
	}
	done := map[*Write]int64{}
	for _, m := range log {
		w := byRev[m.rev]
		switch ev := m.events[0]; {
		case w != nil:
		case ev.Type == clientv3.EventTypeDelete:
			if unknownDeletes[string(ev.Kv.Key)]--; unknownDeletes[string(ev.Kv.Key)] < 0 || len(m.events) > 1 {
				errs = append(errs, fmt.Errorf("%w: nobody made the delete of %q at %d", ErrWrite, ev.Kv.Key, m.rev))
			}
			continue
		default:
			w = byValue[string(ev.Kv.Value)]
		}
		if w == nil {
			errs = append(errs, fmt.Errorf("%w: nobody made %s", ErrWrite, describe(m.events[0])))
			continue
		}
		if before, twice := done[w]; twice {
			errs = append(errs, fmt.Errorf("%w: %s took effect at %d and at %d", ErrWrite, w, before, m.rev))
		}
		done[w] = m.rev
		errs = append(errs, w.compare(m)...)
	}
	for _, w := range writes {
		if _, landed := done[w]; !landed && w.Rev > 0 {
			errs = append(errs, fmt.Errorf("%w: %s is lost", ErrWrite, w))
		}
	}
	return errs
}

// String implements fmt.Stringer.
func (s *Stream) String() string {
	if s.Prefix == "" {
		return fmt.Sprintf("%s's watch from %d", s.Client, s.From)
	}
	return fmt.Sprintf("%s's watch of %q from %d", s.Client, s.Prefix, s.From)
}

// compare compares a write with the revision at which it took effect. Its events come in the order of its operations, as in etcd.
func (w *Write) compare(m moment) []error {
	var errs []error
	if w.Rev > 0 && w.Rev != m.rev {
		errs = append(errs, fmt.Errorf("%w: %s took effect at %d", ErrWrite, w, m.rev))
	}
	if len(w.Effects) != len(m.events) {
		return append(errs, fmt.Errorf("%w: %s left %d events at %d", ErrAtomic, w, len(m.events), m.rev))
	}
	for i, e := range w.Effects {
		if !e.is(m.events[i]) {
			errs = append(errs, fmt.Errorf("%w: %s left something else at %d, or in another order: %s", ErrWrite, w, m.rev, describe(m.events[i])))
		}
	}
	return errs
}

// is reports whether an event is the effect.
func (e Effect) is(ev *clientv3.Event) bool {
	if e.Delete {
		return ev.Type == clientv3.EventTypeDelete && string(ev.Kv.Key) == e.Key
	}
	return ev.Type == clientv3.EventTypePut && string(ev.Kv.Key) == e.Key && string(ev.Kv.Value) == e.Value
}

// String implements fmt.Stringer.
func (w *Write) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s's write", w.Client)
	for _, e := range w.Effects {
		if e.Delete {
			fmt.Fprintf(&b, " delete %q", e.Key)
		} else {
			fmt.Fprintf(&b, " %q=%q", e.Key, e.Value)
		}
	}
	if w.Rev == 0 {
		return b.String() + " of unknown outcome"
	}
	return fmt.Sprintf("%s told to be at %d", b.String(), w.Rev)
}
