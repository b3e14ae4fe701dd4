package mergedlog

import (
	"github.com/metaetcd/metaetcd/internal/manifest"
	"github.com/metaetcd/metaetcd/internal/record"
)

// worldMark is what a manifest is to say of a stamp.
type worldMark struct {
	stamp int64
	kind  manifest.Kind
	names []manifest.Name
}

// worldPart is a part of a transaction across members.
type worldPart struct {
	stamp int64
	manifest.Part
	op  int            // under way
	ops map[string]int // of the keys that were touched
}

// mark notes what the manifest is to say of a stamp.
func (t *worldTxn) mark(stamp int64, kind manifest.Kind) *worldMark {
	t.clock = max(t.clock, stamp)
	for i := range t.rev.marks {
		if m := &t.rev.marks[i]; m.stamp == stamp {
			m.kind = max(m.kind, kind)
			return m
		}
	}
	t.rev.marks = append(t.rev.marks, worldMark{stamp: stamp, kind: kind})
	return &t.rev.marks[len(t.rev.marks)-1]
}

// name notes what a stamp that landed touches.
func (t *worldTxn) name(stamp int64, n manifest.Name) {
	if t.parted != nil {
		n.Op = t.parted.op
		t.parted.ops[string(n.Key)] = n.Op
	}
	m := t.mark(stamp, manifest.Landed)
	m.names = append(m.names, n)
}

// note writes the manifests: one of everything, or one of each operation, as they are if it is decided inside of the request.
func (t *worldTxn) note(w *world) {
	if len(t.rev.events) == 0 && len(t.rev.marks) == 0 {
		return
	}
	var outer []manifest.Entry
	nested := t.parted == nil && w.draw(3) == 0
	for i, m := range t.rev.marks {
		e := manifest.Entry{Stamp: m.stamp, Kind: m.kind, Names: m.names}
		if t.parted != nil {
			e.Part = t.parted.Part
		}
		if nested && m.kind != manifest.Exclusive {
			t.record(record.NestedKey(i), manifest.Encode(e))
		} else {
			outer = append(outer, e)
		}
	}
	if len(t.rev.marks) > 0 || w.draw(2) == 0 {
		t.record([]byte(record.KeyManifest), manifest.Encode(outer...))
	}
}
