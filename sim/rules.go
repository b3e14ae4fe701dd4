package main

import (
	"cmp"
	"fmt"
	"slices"
)

// Rule is a rule of the protocol that a run can do without, to see what it is good for. It is declared beside the code that keeps
// it, which asks World.holds.
type Rule struct {
	flag string // names the mutation on the command line
	says string
	n    int // its place in a set
}

// rules has every rule, by flag.
var rules = map[string]*Rule{}

func newRule(flag, says string) *Rule {
	if len(rules) == 128 || rules[flag] != nil {
		panic("rule " + flag + ": no room, or there already")
	}
	r := &Rule{flag: flag, says: says, n: len(rules)}
	rules[flag] = r
	return r
}

// Without is a set of rules that are taken away.
type Without [2]uint64

// holds tells whether a rule is kept in this run.
func (s Without) holds(r *Rule) bool { return s[r.n/64]>>(r.n%64)&1 == 0 }

// without makes the set of the rules that flags name.
func without(flags ...string) (s Without, err error) {
	for _, f := range flags {
		r := rules[f]
		if r == nil {
			return s, fmt.Errorf("no flag %s", f)
		}
		s[r.n/64] |= 1 << (r.n % 64)
	}
	return s, nil
}

// listRules prints the flags with what they take away.
func listRules() {
	all := allRules()
	slices.SortFunc(all, func(a, b *Rule) int { return cmp.Compare(a.flag, b.flag) })
	for _, r := range all {
		fmt.Printf("%-14s%s\n", r.flag, r.says)
	}
}
