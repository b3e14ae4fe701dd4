// Package read serves reads: ranges, streams, transactions that do not write, and the answers of those that did.
//
// A read is of one snapshot of all members, at a revision. Its parts come from the members' own revisions, which the merged log, or
// the members' histories, find for it, and from the events that the log has above them. Which revision a read gets:
//
//	linearizable   a closed one that covers a reading of the clock, which was begun after the read
//	serializable   the highest that this process has told anybody; no coordinator is asked, and no member but the range's
//	at a revision  that one: compacted ones and those of the future are the request's errors
//
// A linearizable read of one key that a member which is away holds up is made with a stamp of its own on the key's member: a fenced
// read. The clock must have answered all the same.
//
// Invariants:
//
//   - a revision is read only when nothing can land at or below it any more, on the members that hold the range: it is closed, or
//     settled there.
//   - an answer covers what any process acknowledged before a linearizable read, and what this one told before a serializable one.
//   - one answer is of one revision, however many members, chunks, tries and logs it takes.
//   - a compaction that the request did not name is no error: this process was behind, catches up and reads again. One that it named
//     is, and is marked so (AskedError).
//   - a reading of the clock is waited for only as long as that clock is there: one that was rebuilt may never come to it.
//   - a guess, a read at the closed revision while the clock is asked, is answered only if the clock says that it covers.
//   - what a transaction answers is replayed on the snapshot below its stamp, with its own earlier writes on top, in their order.
package read
