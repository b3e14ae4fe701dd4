// Package commit is the group commit (section 5 of the protocol): the writes that one process sends to one member travel
// together, as one member transaction of guarded, nested ones.
//
// Each member has a lane, and an operation moves along it in four steps:
//
//	queue     it waits for a stamp: everything that waits shares one add on the clock
//	stamped   it holds a stamp and waits for room in a flight
//	flight    its batch is one member transaction on the way; one flight per lane, and a second one on disjoint keys and slot clocks when it is full
//	landed    or refused, or settled on the member's log when the member's answer was lost
//
// Stamps are taken while the last flight is still out, so the clock's round trip hides behind the member's.
//
// Invariants:
//
//   - a stamp is taken after the operation arrived, so an operation that begins after another was acknowledged has the larger stamp;
//   - a stamp is sent to one member, and never again after an unknown outcome;
//   - a stamp that will not be sent is surrendered: some lane carries a mark for it, so nobody waits for it;
//   - operations on one key leave a lane in the order of their stamps, one at a time, so a process never refuses itself;
//   - while a flight's outcome is unknown the lane takes no stamps: they would hold up every reader of the meta cluster.
//
// The alternative, one member transaction per write with many in flight, was measured at a sixth of the throughput; a
// single batch in flight leaves the member idle while the next stamps are fetched.
package commit
