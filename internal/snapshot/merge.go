package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// ErrOverlap reports that two members hold the same key, or that a base is not in key order: somebody else than
// metaetcd wrote to a member.
var ErrOverlap = errors.New("metaetcd: members' keys overlap")

// collect returns the first window keys of all parts (0: all keys), in key order, and the number of keys in the
// whole range.
func collect(parts []Part, window int64) ([]*mvccpb.KeyValue, int64, error) {
	if len(parts) == 1 && len(parts[0].Tail) == 0 {
		return head(parts[0].Kvs, window, 0), parts[0].Count, nil
	}
	cursors := make([]cursor, len(parts))
	heads := make(byHead, 0, len(parts))
	var size, total int64
	for i := range parts {
		p, c := &parts[i], &cursors[i]
		c.base, c.changes = p.Kvs, fold(p.Tail)
		size += int64(len(c.base) + len(c.changes))
		total += p.Count + growth(c.changes)
		if c.next() {
			heads = append(heads, c)
		}
	}
	if window > 0 {
		size = min(size, window)
	}
	kvs, err := heads.merge(make([]*mvccpb.KeyValue, 0, size), window)
	return kvs, total, err
}

// head cuts kvs to the keys that complete a list of n keys to the window.
func head(kvs []*mvccpb.KeyValue, window int64, n int) []*mvccpb.KeyValue {
	if room := window - int64(n); window > 0 && int64(len(kvs)) > room {
		return kvs[:room]
	}
	return kvs
}

// cursor walks the keys of one part in key order.
type cursor struct {
	kv      *mvccpb.KeyValue   // where the cursor stands
	base    []*mvccpb.KeyValue // behind kv
	changes []change           // behind kv
	more    bool               // the base goes on, behind what is known of it
	blocked bool               // next found nothing, because of that
}

// next moves to the next key and tells whether there is one. What is hidden of the base may come before the next change.
func (c *cursor) next() bool {
	for {
		if c.blocked = c.more && len(c.base) == 0; c.blocked || len(c.base)+len(c.changes) == 0 {
			return false
		}
		if len(c.changes) == 0 {
			c.step()
			return true
		}
		ch := c.changes[0]
		if len(c.base) > 0 {
			switch cmp := bytes.Compare(c.base[0].Key, ch.key()); {
			case cmp < 0:
				c.step()
				return true
			case cmp == 0:
				c.base = c.base[1:]
			}
		}
		c.changes = c.changes[1:]
		if ch.exists() {
			c.kv = copyOf(ch.last.Kv)
			return true
		}
	}
}

func (c *cursor) step() { c.kv, c.base = c.base[0], c.base[1:] }

// copyOf copies a pair of the log, which is shared by everybody who reads it. Nobody writes to the bytes.
func copyOf(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key:            slices.Clip(kv.Key), // what a reader appends to it is its own
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
		Version:        kv.Version,
		Value:          slices.Clip(kv.Value),
		Lease:          kv.Lease,
	}
}

// byHead is a binary heap of cursors, the one with the lowest key first.
type byHead []*cursor

// merge appends keys in order until there are window of them in dst (0: all). It consumes h.
func (h byHead) merge(dst []*mvccpb.KeyValue, window int64) ([]*mvccpb.KeyValue, error) {
	h.order()
	for len(h) > 0 && (window == 0 || int64(len(dst)) < window) {
		c := h[0]
		if n := len(dst); n > 0 && bytes.Compare(dst[n-1].Key, c.kv.Key) >= 0 {
			return nil, fmt.Errorf("%w: %q after %q", ErrOverlap, c.kv.Key, dst[n-1].Key)
		}
		dst = append(dst, c.kv)
		if len(h) == 1 && len(c.changes) == 0 {
			return append(dst, head(c.base, window, len(dst))...), nil
		}
		if !c.next() {
			last := len(h) - 1
			h[0], h = h[last], h[:last]
		}
		h.down(0)
	}
	return dst, nil
}

// order makes a heap of h.
func (h byHead) order() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

// down restores the heap after h[i] grew.
func (h byHead) down(i int) {
	for {
		low := 2*i + 1
		if low >= len(h) {
			return
		}
		if right := low + 1; right < len(h) && bytes.Compare(h[right].kv.Key, h[low].kv.Key) < 0 {
			low = right
		}
		if bytes.Compare(h[i].kv.Key, h[low].kv.Key) <= 0 {
			return
		}
		h[i], h[low], i = h[low], h[i], low
	}
}
