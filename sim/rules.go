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
	bit  uint64
}

// rules has every rule, by flag.
var rules = map[string]*Rule{}

func newRule(flag, says string) *Rule {
	if len(rules) == 64 || rules[flag] != nil {
		panic("rule " + flag + ": no room, or there already")
	}
	r := &Rule{flag: flag, says: says, bit: 1 << len(rules)}
	rules[flag] = r
	return r
}

// Without is a set of rules that are taken away.
type Without uint64

// holds tells whether a rule is kept in this run.
func (s Without) holds(r *Rule) bool { return uint64(s)&r.bit == 0 }

// without makes the set of the rules that flags name.
func without(flags ...string) (s Without, err error) {
	for _, f := range flags {
		r := rules[f]
		if r == nil {
			return 0, fmt.Errorf("no flag %s", f)
		}
		s |= Without(r.bit)
	}
	return s, nil
}

// listRules prints the flags with what they take away.
func listRules() {
	all := make([]*Rule, 0, len(rules))
	for _, r := range rules {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Rule) int { return cmp.Compare(a.flag, b.flag) })
	for _, r := range all {
		fmt.Printf("%-14s%s\n", r.flag, r.says)
	}
}
