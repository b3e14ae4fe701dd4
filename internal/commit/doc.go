// Package commit is the group commit: the writes that one process sends to one member travel
// together, as one member transaction.
//
// Each member has a lane, and an operation moves along it in four steps:
//
//	queue     it waits for a stamp: everything that waits shares one add on the clock
//	stamped   it holds a stamp and waits for room in a flight
//	flight    its batch is one member transaction on the way; one flight per lane, and a second one on disjoint keys and slot clocks when it is full;
//	          a caller that is alone flies in its own goroutine
//	landed    or refused, or settled on the member's log when the member's answer was lost
//
// While a flight is out, nothing gets a stamp unless a whole batch waits: what comes until the landing travels together. A whole batch
// gets its stamps at once, so that the clock's round trip hides behind the member's.
//
// Invariants:
//
//   - a stamp is taken after the operation arrived, so an operation that begins after another was acknowledged has the larger stamp;
//   - a stamp is sent to one member, and never again after an unknown outcome;
//   - a stamp that will not be sent is surrendered: some lane carries a mark for it, so nobody waits for it. Close does so too;
//   - a stamp is surrendered only when its operation cannot land with it: it was not sent, or refused for certain;
//   - operations on one key leave a lane in the order of their stamps, one at a time, and a slot clock is not set while a
//     lower stamp that needs it is on its way: a process never refuses itself;
//   - stamps do not wait for what may take long, as every reader of the meta cluster would wait with them: while a flight is
//     overdue or its outcome unknown, its lane has no other stamps, nor has an operation whose keys' state takes long to read;
//   - an operation ends once: landed, refused, failed for certain, or, if the log or the pipeline is closed before, as ErrUnknown.
//
// The alternative, one member transaction per write with many in flight, was measured at a sixth of the throughput; a
// single batch in flight leaves the member idle while the next stamps are fetched.
package commit
