package snapshot

import (
	"bytes"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/metaetcd/metaetcd/internal/mergedlog"
)

// Pieces lists a range in key order, piece by piece, and reads every key once: what a member has shown beyond one piece is
// kept for the next. Not safe for concurrent use.
//
// A member whose base was cut has shown all that it holds up to its last base key. So the list stops behind the first such
// key until that member has been asked for more: nobody can hide a key in front of it.
type Pieces struct {
	end     []byte
	sources []source // by member
	heads   byHead   // the sources that stand at a key
	blocked int      // sources that must show more before anything else is listed
	last    []byte   // the key listed last
	total   int64
}

// source is one member's share.
type source struct {
	cursor
	next  []byte // where the base goes on
	asked bool
}

// NewPieces starts a list of the range of key and end, which is more than one key, from members with the given tails.
func NewPieces(key, end []byte, tails [][]*mergedlog.Event) *Pieces {
	p := &Pieces{end: end, sources: make([]source, len(tails)), heads: make(byHead, 0, len(tails)), blocked: len(tails)}
	for i, tail := range tails {
		changes := fold(tail)
		p.total += growth(changes)
		p.sources[i] = source{cursor: cursor{changes: changes, more: true, blocked: true}, next: key}
	}
	return p
}

// Plan returns the native requests to make before the next n keys are taken, in the order of the members, nil for those that
// need none. The caller sets Revision and Serializable, and adds all answers. If Take then lists fewer than n keys, chance
// or the sharding put more of them on one member, and it takes another Plan.
func (p *Pieces) Plan(n int64) []*pb.RangeRequest {
	want := share(n, len(p.sources))
	reqs := make([]*pb.RangeRequest, len(p.sources))
	for i := range p.sources {
		s := &p.sources[i]
		if have := int64(len(s.base)); s.blocked || s.more && have < want/2 {
			reqs[i] = &pb.RangeRequest{Key: s.next, RangeEnd: p.end, Limit: saturatingAdd(want-have, removals(s.changes))}
		}
	}
	return reqs
}

// Add takes over what member i answered to a request of Plan, in the user's view.
func (p *Pieces) Add(i int, resp *pb.RangeResponse) {
	s := &p.sources[i]
	if !s.asked {
		s.asked = true
		p.total += resp.Count
	}
	s.base, s.more = append(s.base, resp.Kvs...), resp.More
	if n := len(resp.Kvs); n > 0 {
		s.next = append(bytes.Clone(resp.Kvs[n-1].Key), 0)
	}
	if !s.blocked {
		return
	}
	p.blocked--
	if s.cursor.next() {
		p.heads = append(p.heads, &s.cursor)
		p.heads.order()
	} else if s.blocked {
		p.blocked++
	}
}

// Total is the number of keys in the whole range, once every member has answered.
func (p *Pieces) Total() int64 { return p.total }

// Take lists the next keys: at most n, fewer when the members must show more first, or when these are the last ones. The error
// is ErrOverlap, or nil.
func (p *Pieces) Take(n int64) ([]*mvccpb.KeyValue, error) {
	var kvs []*mvccpb.KeyValue
	for p.blocked == 0 && len(p.heads) > 0 && int64(len(kvs)) < n {
		kv := p.heads[0].kv
		if p.last != nil && bytes.Compare(p.last, kv.Key) >= 0 {
			return nil, fmt.Errorf("%w: %q after %q", ErrOverlap, kv.Key, p.last)
		}
		kvs, p.last = append(kvs, kv), kv.Key
		p.advance()
	}
	p.last = bytes.Clone(p.last) // the pairs are the caller's
	return kvs, nil
}

// advance moves the first head to its next key.
func (p *Pieces) advance() {
	c := p.heads[0]
	if !c.next() {
		last := len(p.heads) - 1
		p.heads[0], p.heads = p.heads[last], p.heads[:last]
		if c.blocked {
			p.blocked++
		}
	}
	p.heads.down(0)
}
