// Package crosstxn runs the transactions that one request to one member cannot carry: those whose keys lie on several members, that
// are too long for one request, that put and delete the same key, or that have lost to other writers too often.
//
// # The idea
//
// The writer locks what the transaction touches, member by member, and reads it under the locks. It evaluates the transaction on what it
// read, takes a stamp, and writes the decision on one member, the primary, in the same request as the primary's own part:
// from then on the transaction has happened, with that stamp. Then every member takes its parts, and with the last of them its
// locks go. The decision is removed when no part is left.
//
//	primary   lock, read ── decide + first part ───────────────────── remove the decision
//	others                lock, read            ── parts, in order
//
// The writer may die anywhere. Then the other processes see its locks in the members' streams, and finish what it began.
//
// # Invariants
//
//   - The primary is locked before the others, and the decision holds only under the locks on the primary. So who finds a lock
//     elsewhere, and on the primary neither locks nor a decision, knows that the transaction never will be decided.
//   - Nothing changes a user's key before the decision; after it, nobody gives the transaction up. Every part takes effect once, however
//     often and by whomever it is sent, and those of one member are sent in their order.
//   - Locks are given back, or taken, only while nothing is decided. That is a compare of the request that does it, not a
//     check before it.
//   - Who waits for a lock holds none, except on the way to a whole member, and those lock one member after the other, in the order of
//     members. So nobody waits in a circle.
//   - A decision is removed only after all parts were taken. One that is left behind does no harm: applying it again changes nothing.
//   - Others leave a transaction alone for as long as its locks ask for (its patience), and no less than for the present grace.
//     A writer whose locks were taken from it asks for twice as much the next time.
//
// [Runner.Run] is the writer's side. [Runner.NewResolver] and [Runner.FinishDecided] are that of the processes which find
// what a writer has left.
package crosstxn
