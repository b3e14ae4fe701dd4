// Package mergedlog merges the histories of all members into one log in stamp order and knows how far that log
// is complete: the closed revision, W. It is pure: it is fed with what the members' streams deliver, and has no
// network, no goroutine and no clock of its own.
//
// # Why the order has to be made
//
// A writer takes its stamp before its write lands, so stamps land out of order, on several members, and those of
// a crashed writer never land:
//
//	member a, revision 70: stamps 12, 15
//	member b, revision 31: stamp 14
//	member a, revision 71: stamp 13
//	stamp 16: its writer is gone
//
// Whoever showed 12, 15 and called that revision 15 would have lost 13 and 14. So nothing is shown before it is
// closed.
//
// # What closes a stamp
//
//   - Its mark. The manifests of a member revision name every stamp that arrived with it and what became of each, and what
//     they touched: that is which stamp an event has. A mark on any member closes the stamp, because a stamp is sent to one
//     member only, and marked elsewhere only when it is certain that it changed nothing there and never will.
//   - Fences. A member with fence F lets no stamp <= F land any more. A fence that was seen in the stream of
//     every member closes everything up to it: what had landed before came earlier in the same streams.
//
// W is the largest revision with every stamp up to it closed. It never moves back, and an event that shows up at
// or below it proves that the clock or a guard is broken: the log stops with [ErrClockBroken]. No timeout is
// involved; [Log.Gap] tells the caller which stamp holds W up, and raising the fences is the caller's way to
// settle it.
//
// Events leave the log in stamp order, up to W, all events of one stamp together ([Log.Since]).
//
// # Base and tail
//
// A member can be read at its own revisions only, and none of them may be the state at R: in the picture above,
// member a has stamp 15 at revision 70 already, but 13 only at 71. The state at R = 13 is that at lo = 69, the
// last revision before any stamp above R (the base), overlaid by the events that came later with stamps up to R
// (the tail): 12 from revision 70, 13 from 71. Writes to one key land in stamp order, so the overlay in the
// member's order is right. [Log.Snapshot] gives lo and tail while the events are in memory; [Log.Lo] bounds the
// member revisions between which a tail can lie, from a compact index that reaches back further.
//
// # Rules of the streams
//
// The stream of a member delivers every revision of the whole keyspace after the revision given to [Log.Open], in
// order, each whole, with previous values. Fences count from the moment the stream reaches the revision at which
// they hold, never from the moment somebody was told about them: the writes that a fence let pass come before it
// in that stream and nowhere else.
package mergedlog
