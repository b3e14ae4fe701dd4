package mergedlog

import (
	"fmt"
	"runtime"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

const benchOps = 60

// benchRevision is a batch of updates with 256-byte values, as a member's stream delivers it.
func benchRevision(rev, stamp int64) MemberRevision {
	r := MemberRevision{Rev: rev, Events: make([]*mvccpb.Event, 0, benchOps+2)}
	value := make([]byte, 256)
	kv := func(i int, rev, stamp int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{
			Key: fmt.Appendf(nil, "/registry/things/%06d", i), ModRevision: rev, CreateRevision: 1, Version: 3,
			Value: record.Header{Stamp: stamp, Create: 1}.Value(value),
		}
	}
	for i := range benchOps {
		r.Events = append(r.Events, &mvccpb.Event{Kv: kv(i, rev, stamp+int64(i)), PrevKv: kv(i, rev-1, stamp-benchOps+int64(i))})
	}
	entries := make([]manifest.Entry, benchOps)
	for i := range entries {
		entries[i] = named(stamp+int64(i), putOf(string(r.Events[i].Kv.Key)))
	}
	clock := record.ClockRecord{Epoch: 1, Highest: stamp + benchOps - 1}
	r.Events = append(r.Events, rec([]byte(record.KeyManifest), manifest.Encode(entries...)), rec([]byte(record.KeyClock), clock.Value()))
	return r
}

// BenchmarkAppend measures batches of 60 updates on their way through the log, from three members in
// turns that land in reverse order.
func BenchmarkAppend(b *testing.B) {
	const members = 3
	l := New(Config{Members: members, SlotOf: func([]byte) int { return 0 }, MaxBytes: 8 << 20})
	for m := range members {
		l.Open(m, MemberState{Rev: 10, Epoch: 1, Fence: 100, Clock: 100})
	}
	if err := l.Start(100); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	const chunk = 100 * members
	var before, after runtime.MemStats
	var mallocs uint64
	b.StopTimer()
	for done := 0; done < b.N; done += chunk {
		revs := make([]MemberRevision, chunk)
		for i := range revs {
			n := done + i
			order := n/members*members + members - 1 - n%members
			revs[i] = benchRevision(int64(11+n/members), int64(101+order*benchOps))
		}
		runtime.ReadMemStats(&before)
		b.StartTimer()
		for i := range revs {
			if err := l.Append((done+i)%members, revs[i:i+1]); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		runtime.ReadMemStats(&after)
		mallocs += after.Mallocs - before.Mallocs
	}
	per := float64((b.N + chunk - 1) / chunk * chunk * benchOps)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/per, "ns/event")
	b.ReportMetric(float64(mallocs)/per, "allocs/event")
}

// BenchmarkSnapshot measures base and tail of one key at W while 2,000 events wait above it.
func BenchmarkSnapshot(b *testing.B) {
	l := New(Config{Members: 1, SlotOf: func([]byte) int { return 0 }})
	l.Open(0, MemberState{Rev: 10, Epoch: 1, Fence: 100, Clock: 100})
	if err := l.Start(100); err != nil {
		b.Fatal(err)
	}
	for i := range int64(34) {
		if err := l.Append(0, []MemberRevision{benchRevision(11+i, 102+i*benchOps)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Snapshot(100, []int{0}, []byte("/registry/things/000001"), nil); err != nil {
			b.Fatal(err)
		}
	}
}
