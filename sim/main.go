// Command sim is a randomized simulator of the ordering protocol. README.md says what it models, and which rules can be taken away
// to see what they are good for.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// tally is what the runs come to.
type tally struct {
	seeds, steps, ops, landed, cross, watched, rebuilds, bad, live int
}

func (a *tally) add(w *World) {
	a.seeds++
	a.steps += w.step
	a.ops += len(w.ops)
	a.landed += len(w.landed)
	a.watched += w.watched
	a.rebuilds += w.rebuilds
	for _, o := range w.landed {
		if o.cross {
			a.cross++
		}
	}
}

func main() {
	var s Settings
	seed := flag.Int64("seed", 1, "first seed")
	n := flag.Int64("n", 1000, "number of seeds")
	d := flag.Duration("d", time.Hour, "stop after this time")
	stop := flag.Int("stop", 3, "stop after so many violations")
	fl := flag.String("f", "", "rules to take away, with commas between them (-rules lists them)")
	skip := flag.Bool("skiplive", false, "do not count clients that did not finish as a violation")
	each := flag.String("each", "", "take away the rules whose flags begin so, one at a time, and say after how many seeds each was missed (\"all\": every rule)")
	list := flag.Bool("rules", false, "list the rules that -f knows")
	flag.IntVar(&s.cross, "x", 0, "percent of writes that may go to several members")
	flag.Float64Var(&s.loss, "loss", 1, "factor on how often the coordinator is lost")
	flag.IntVar(&s.maxLoss, "maxloss", math.MaxInt32, "how often the coordinator is lost in a run at most")
	flag.IntVar(&s.size, "size", 1, "factor on the length of a run")
	flag.BoolVar(&s.trace, "v", false, "print every step")
	flag.Parse()
	if *list {
		listRules()
		return
	}
	if *fl != "" {
		var err error
		if s.Without, err = without(strings.Split(*fl, ",")...); err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
	}

	if *each != "" {
		rs := slices.DeleteFunc(allRules(), func(r *Rule) bool { return *each != "all" && !strings.HasPrefix(r.flag, *each) })
		if takeEach(rs, s, *seed, *n) > 0 {
			os.Exit(1)
		}
		return
	}

	var all tally
	begin := time.Now()
	for i := *seed; i < *seed+*n && time.Since(begin) < *d && all.bad < *stop; i++ {
		w := run(i, s)
		all.add(w)
		switch {
		case w.viol == "":
		case *skip && strings.HasPrefix(w.viol, "live"):
			all.live++
		default:
			all.bad++
			fmt.Printf("seed %d step %d: %s\n", i, w.step, w.viol)
		}
	}
	fmt.Printf("flags=%q x=%d seeds=%d steps=%d ops=%d landed=%d cross=%d watched=%d rebuilds=%d BAD=%d live=%d in %v\n", *fl, s.cross,
		all.seeds, all.steps, all.ops, all.landed, all.cross, all.watched, all.rebuilds, all.bad, all.live, time.Since(begin).Round(time.Millisecond))
}
