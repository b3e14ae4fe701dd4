package translate

import (
	"bytes"
	"slices"
	"sort"
)

// presence follows which keys are there while a run under locks goes on: by share, those that the transaction names, and those
// that were read of the ranges that it deletes.
type presence struct {
	x     *Cross
	known [][]keyThere // ascending
}

type keyThere struct {
	key         []byte
	before, now bool // there; before the run only of keys that the transaction names
}

func (x *Cross) presence() *presence {
	p := &presence{x: x, known: make([][]keyThere, len(x.shares))}
	for i, s := range x.shares {
		var ks []keyThere
		for j, k := range s.Keys {
			there := x.locked[i].states[j].KV != nil
			ks = append(ks, keyThere{k, there, there})
		}
		for j := range s.Deleted {
			for _, kv := range x.locked[i].deleted[j].GetKvs() {
				ks = append(ks, keyThere{key: kv.Key, now: true})
			}
		}
		// Named keys first, of those that are there twice.
		slices.SortStableFunc(ks, func(a, b keyThere) int { return bytes.Compare(a.key, b.key) })
		p.known[i] = slices.CompactFunc(ks, func(a, b keyThere) bool { return bytes.Equal(a.key, b.key) })
	}
	return p
}

// of finds a key that the transaction names.
func (p *presence) of(key []byte) *keyThere {
	ks := p.known[p.x.shareOf(key)]
	i, _ := slices.BinarySearchFunc(ks, key, func(k keyThere, key []byte) int { return bytes.Compare(k.key, key) })
	return &ks[i]
}

func (p *presence) set(key []byte, there bool) { p.of(key).now = there }

// count is how many keys there are of one.
func (p *presence) count(key []byte) int {
	if p.of(key).now {
		return 1
	}
	return 0
}

// remove takes away what there is of a share's deleted range, and returns how many keys that were. Where the range's keys were
// not read, it is the only one that is deleted: they are as many as were counted, but for those that the transaction has
// touched one by one.
func (p *presence) remove(share, place int) (n int) {
	s := &p.x.shares[share]
	if !s.named {
		n = int(p.x.locked[share].deleted[place].GetCount())
	}
	r := s.Deleted[place]
	ks := p.known[share]
	for i := sort.Search(len(ks), func(i int) bool { return bytes.Compare(ks[i].key, r.Key) >= 0 }); i < len(ks) && r.Contains(ks[i].key); i++ {
		k := &ks[i]
		if k.before && !s.named {
			n--
		}
		if k.now {
			n++
		}
		k.now = false
	}
	return n
}
