package commit

import (
	"context"
	"slices"
)

// Stamp is a revision of the meta cluster that the clock handed out in an epoch. A new epoch hands out the numbers again that did not
// land in older ones.
type Stamp struct{ Rev, Epoch int64 }

// Take takes one stamp from the clock, for a request that does not travel in a lane. This process holds it until it is given to Landed or
// Surrender, and one of these must be called.
func (p *Pipeline) Take(ctx context.Context) (Stamp, error) {
	first, epoch, err := p.cfg.Clock.Take(ctx, 1)
	if err != nil {
		return Stamp{}, err
	}
	p.hold(first, epoch, 1)
	return Stamp{first, epoch}, nil
}

// Landed says that a stamp of Take has left its mark on a member.
func (p *Pipeline) Landed(s Stamp) { p.release(s) }

// Surrender gives up a stamp of Take that has left no mark on any member and never will: some lane marks it.
func (p *Pipeline) Surrender(s Stamp) { p.surrender(0, s) }

// SurrenderAll gives up the stamps first, …, first+k−1 of an epoch, which nobody has used.
func (p *Pipeline) SurrenderAll(first, k, epoch int64) {
	stamps := make([]Stamp, k)
	for i := range stamps {
		stamps[i] = Stamp{first + int64(i), epoch}
	}
	p.surrender(0, stamps...)
}

// Holds reports whether this process holds a stamp: it was taken, and is about to land or to be surrendered.
func (p *Pipeline) Holds(stamp int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.held[stamp]
	return ok
}

func (p *Pipeline) hold(first, epoch int64, n int) {
	p.mu.Lock()
	for i := range n {
		p.held[first+int64(i)] = epoch
	}
	p.mu.Unlock()
}

func (p *Pipeline) release(stamps ...Stamp) {
	p.mu.Lock()
	for _, s := range stamps {
		if p.held[s.Rev] == s.Epoch { // the number may be held in a newer epoch
			delete(p.held, s.Rev)
		}
	}
	p.mu.Unlock()
}

// surrender gives stamps that will not be sent to the first lane from index on that works, which marks them. If no lane works, they wait
// until one does.
func (p *Pipeline) surrender(index int, stamps ...Stamp) {
	p.release(stamps...)
	for len(stamps) > 0 && !p.stopped() {
		for i := range p.lanes {
			if p.lanes[(index+i)%len(p.lanes)].carry(stamps) {
				return
			}
		}
		p.mu.Lock()
		p.lost = append(p.lost, stamps...)
		p.mu.Unlock()
		if !slices.ContainsFunc(p.lanes, (*lane).works) {
			return
		}
		stamps = p.found() // a lane recovered meanwhile, and may have looked too early
	}
}

// found takes the stamps that no lane could mark. A lane that works again asks for them.
func (p *Pipeline) found() []Stamp {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.lost
	p.lost = nil
	return s
}
