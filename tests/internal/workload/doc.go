// Package workload puts a store under load from several clients at once, records what every request and every watch was told,
// and checks afterwards that all of it fits one history.
//
//	run := workload.Start(t, cli)            // what is there now is the beginning of the history
//	a := run.Join("a", cli)                  // a process: its watch of everything is recorded from the beginning on
//	a.Work(workload.Load{Groups: []string{"g0/", "g1/"}, Pace: 5 * time.Millisecond})
//	…                                        // break something
//	run.Finish().Check(t)
//
// Keys live in groups, which are prefixes that end with a slash; most writes touch keys of one group, so that they stay on one
// member where the first path segment decides the placement. Pairs of keys and accounts of a bank may lie anywhere. Every value is
// written once and names its write, so an event can be assigned to the request that made it.
//
// Checked is what one etcd promises. Of watches, by the names of etcd's own robustness tests: Ordered, Unique, Atomic,
// Reliable, Resumable, Bookmarkable. Of writes: each acknowledged one took effect once, at the revision it was told, and each
// of unknown outcome at most once. Of reads: each saw the state that the events up to its revision make. Of time: nobody
// is told a revision below one that somebody was told before the request began. Of errors: no caller gets one but
// where its own context ended. Of a bank: at every revision its accounts have the same total.
package workload
