package snapshot

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// benchParts spreads n keys over the members and lets each tail change every step-th key (0: empty tails).
func benchParts(n, members, step int) []Part {
	parts := make([]Part, members)
	for i := range n {
		p := &parts[i*7919%members]
		kv := put(fmt.Sprintf("/registry/pods/namespace-%03d/pod-%07d", i/100, i), int64(2+i*7907%n), 2, 1, nil).Kv
		p.Kvs = append(p.Kvs, kv)
		p.Count++
		if step > 0 && i%step == 0 {
			p.Tail = append(p.Tail, put(string(kv.Key), int64(n+i+2), kv.CreateRevision, 2, kv))
		}
	}
	return parts
}

func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{1, 1000, 10000} {
		for _, bc := range []struct {
			name          string
			members, step int
			req           *pb.RangeRequest
		}{
			{"members=1", 1, 0, &pb.RangeRequest{}},
			{"members=3", 3, 0, &pb.RangeRequest{}},
			{"members=16", 16, 0, &pb.RangeRequest{}},
			{"members=3/tail=1%", 3, 100, &pb.RangeRequest{}},
			{"members=3/limit=500", 3, 0, &pb.RangeRequest{Limit: 500}},
			{"members=3/count", 3, 0, &pb.RangeRequest{CountOnly: true}},
			{"members=3/by=mod", 3, 0, &pb.RangeRequest{SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_DESCEND}},
		} {
			parts := benchParts(n, bc.members, bc.step)
			fresh := make([]Part, len(parts))
			kvs := make([]*mvccpb.KeyValue, 0, n)
			b.Run(fmt.Sprintf("keys=%d/%s", n, bc.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					kvs = kvs[:0] // Merge takes over the base
					for i, p := range parts {
						from := len(kvs)
						kvs = append(kvs, p.Kvs...)
						fresh[i] = Part{Kvs: kvs[from:], Count: p.Count, Tail: p.Tail}
					}
					if _, err := Merge(bc.req, fresh); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	req := &pb.RangeRequest{Key: []byte("/registry/pods/"), RangeEnd: []byte("/registry/pods0"), Limit: 500}
	tail := benchParts(1000, 1, 100)[0].Tail
	kv := tail[0].Kv
	for name, tail := range map[string][]*mergedlog.Event{
		"empty": nil, "sets": tail, "removes": append([]*mergedlog.Event{del(string(kv.Key), 1<<20, kv)}, tail...),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Plan(req, tail, 3)
			}
		})
	}
}
