package history

import (
	"cmp"
	"slices"
	"sync"

	"github.com/metaetcd/metaetcd/internal/record"
)

// maxSamples bounds what is remembered of a member's record `clock`, each in 40 bytes.
const maxSamples = 4096

// samples are what the record `clock` was at some member revisions: bisections begin between them. Safe for concurrent use.
type samples struct {
	mu  sync.Mutex
	all []sample // ascending
}

type sample struct {
	rev   int64
	clock record.ClockRecord
}

func (s *samples) add(rev int64, clock record.ClockRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, there := s.at(rev)
	if there {
		return
	}
	s.all = slices.Insert(s.all, i, sample{rev, clock})
	if len(s.all) > maxSamples {
		n := 0
		for i := 0; i < len(s.all); i += 2 {
			s.all[n] = s.all[i]
			n++
		}
		s.all = s.all[:n]
	}
}

// at returns the place of the first sample at or after a revision, and whether it is at that revision.
func (s *samples) at(rev int64) (int, bool) {
	return slices.BinarySearchFunc(s.all, rev, func(s sample, rev int64) int { return cmp.Compare(s.rev, rev) })
}

// lo narrows where in [from, to] the last revision is at which no stamp above r had come.
func (s *samples) lo(from, to, r int64) (int64, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	above, _ := slices.BinarySearchFunc(s.all, r, func(s sample, r int64) int {
		if s.clock.Highest > r {
			return 1
		}
		return -1
	})
	if above < len(s.all) {
		to = min(to, max(from, s.all[above].rev-1))
	}
	if above > 0 {
		from = max(from, min(to, s.all[above-1].rev))
	}
	return from, to
}

// closes narrows where in [from, to] to look for a revision behind which nothing at or below r landed; to is one.
func (s *samples) closes(from, to, r int64) (int64, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := s.at(from)
	for ; i < len(s.all) && s.all[i].rev < to; i++ {
		if s.all[i].clock.Closed >= r {
			to = s.all[i].rev
		} else {
			from = s.all[i].rev + 1
		}
	}
	return min(from, to), to
}
