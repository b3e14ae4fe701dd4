package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// caught is how a rule was missed when it was taken away: after so many seeds, or not.
type caught struct {
	seeds int64
	how   string
}

// takeAway runs seeds without a rule until a promise is broken.
func takeAway(r *Rule, s Settings, from, n int64) caught {
	s.Without[r.n/64] |= 1 << (r.n % 64)
	for seed := from; seed < from+n; seed++ {
		if w := run(seed, s); w.viol != "" {
			return caught{seed - from + 1, w.viol}
		}
	}
	return caught{n, ""}
}

// takeEach takes rules away, one at a time, and prints after how many seeds each was missed.
func takeEach(rs []*Rule, s Settings, from, n int64) (missed int) {
	var lock sync.Mutex
	var group sync.WaitGroup
	next := make(chan *Rule)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for r := range next {
				c := takeAway(r, s, from, n)
				lock.Lock()
				if c.how == "" {
					missed++
					c.how = "NOT CAUGHT"
				}
				fmt.Printf("%-14s %6d  %.100s\n", r.flag, c.seeds, c.how)
				lock.Unlock()
			}
		})
	}
	for _, r := range rs {
		next <- r
	}
	close(next)
	group.Wait()
	return missed
}

// allRules lists the rules by flag.
func allRules() []*Rule {
	all := make([]*Rule, 0, len(rules))
	for _, r := range rules {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Rule) int { return a.n - b.n })
	return all
}
