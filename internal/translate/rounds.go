package translate

import (
	"errors"
	"slices"

	"go.etcd.io/etcd/pkg/v3/adt"

	"github.com/metaetcd/metaetcd/internal/keyrange"
)

// ErrRounds reports a run that puts and deletes one key. It takes more than one revision of the key's member, under locks.
var ErrRounds = errors.New("the transaction puts a key and deletes it")

// rounds spreads the changes of a run over revisions of a member, so that none of them deletes and puts one key: an etcd that is
// compacted at such a revision may lose the key, and one that is stricter than today's refuses the request. Every key is changed
// in the order of the operations. A key is put at most once in a run.
type rounds struct {
	puts    []adt.IntervalTree // keys, by round
	deletes []cover            // by round
	last    int                // round of the latest delete; they ascend
}

// put returns the round of a put: the first behind the deletes of its key.
func (r *rounds) put(key []byte) int {
	round := len(r.deletes)
	for round > 0 && !r.deletes[round-1].has(key) {
		round--
	}
	r.grow(round)
	r.puts[round].Insert(adt.NewBytesAffinePoint(key), nil)
	return round
}

// remove returns the round of a delete: the first behind the puts in its range, and not before other deletes, which may have
// the same keys.
func (r *rounds) remove(x Range) int {
	ivl, empty := interval(x)
	if empty {
		return r.last
	}
	for round := len(r.puts); round > r.last; round-- {
		if r.puts[round-1].Intersects(ivl) {
			r.last = round
		}
	}
	r.grow(r.last)
	r.deletes[r.last].add(x)
	return r.last
}

func (r *rounds) grow(round int) {
	for len(r.deletes) <= round {
		r.puts, r.deletes = append(r.puts, adt.NewIntervalTree()), append(r.deletes, cover{})
	}
}

// Rounds reports whether the run takes more than one revision of a member: it fails Guard and Exclude with ErrRounds.
func (r *Run) Rounds() bool {
	puts, deletes := 0, 0
	for _, s := range r.Steps {
		switch {
		case s.Put != nil:
			puts++
		case s.Delete != nil:
			deletes++
		}
	}
	if puts == 0 || deletes == 0 {
		return false
	}
	var before, behind cover
	if slices.ContainsFunc(r.Steps, before.meets) {
		return true
	}
	for _, s := range slices.Backward(r.Steps) {
		if behind.meets(s) {
			return true
		}
	}
	return false
}

// meets adds what a step deletes. It reports whether one puts what was added.
func (c *cover) meets(s Step) bool {
	if s.Delete != nil {
		c.add(keyrange.Of(s.Delete.Key, s.Delete.RangeEnd))
	}
	return s.Put != nil && c.has(s.Put.Key)
}
