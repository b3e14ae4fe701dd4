// Package history reads what is older than the merged log: revisions that have left its memory, or that are older
// than the process. The members still have it all, back to the last compaction, and deliver it once more to a
// watch from a past revision.
//
// # Order
//
// A member's history is in the order of landings, not of stamps. What a reader at revision R has to know of a
// member is
//
//	lo(R)  the last revision before any stamp > R: with what comes later, nothing at or below R is read in vain
//	hi(R)  the last revision that may hold an event with a stamp <= R: behind it, R is complete
//
// The state at R is that at lo(R), overlaid by the events of (lo(R), hi(R)] with stamps <= R ([History.Snapshot]).
// The events from stamp F on begin behind lo(F-1), and those of one stamp S are complete, and can be shown, once
// every member was read up to hi(S) ([History.Replay]).
//
// From the log's start on, its own index knows both. What is at or below the start has landed for good, because the
// log's start is fenced: hi(start) bounds it on every member. For that past,
//
//   - lo(R) is found by bisection: the record `clock` is the running maximum of stamps, and can be read at any
//     revision that is not compacted;
//   - hi(R) is found by the same record: it holds what its writer knew to be closed, so that nothing at or below R lands behind a
//     revision at which that is R or more. While some member was away that lags; a later revision than hi(R) is as right.
//     A snapshot does with that.
//   - a replay, which asks for hi of every stamp that it shows, has the stamps of all events from lo(F-1) on. They are read
//     once, without previous values, and condensed into an index that all callers share. It reaches back as far as somebody has
//     asked for, no further: a watch from the distant past is a burden for an etcd, which reads all there is from that
//     revision on, again and again.
//
// Single keys need neither: see [History.Snapshot] and [History.ReplayKey], which read points.
//
// # Compaction
//
// Compacting at R compacts each member at its lo(R-1), so that everything with stamps >= R remains, with previous
// values. A member that is compacted at revision C lost nothing of what comes after R exactly if its clock at C is
// at or below R; then C is as good a base as lo(R). If it is not, compaction has overtaken the reader.
package history
