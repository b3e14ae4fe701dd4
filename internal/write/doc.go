// Package write brings transactions to their members, and lands each of them at a stamp of its own.
//
// A transaction whose keys live on one member is evaluated in this process on what is known of them (the state cache, or a read),
// and sent as guarded operations: compares that pin what it was evaluated on, and the stamp. So the member decides, and what is known
// may be outdated:
//
//	lands       the pins held, so the evaluation did
//	is refused  another writer, a lock or a fence was there first; the refusal tells the keys' states, and it is built again
//	contends    after a few refusals, or where it does not fit one request, it takes locks: internal/crosstxn
//
// Transactions of several members go to internal/crosstxn at once, and those that cannot write to internal/read.
//
// Invariants:
//
//   - what changes nothing takes no stamp, as far as this process can know: it is answered from a snapshot that shows so. etcd's
//     revision would not move either, and watchers would miss an event at the revision that passed.
//   - what was evaluated is what was pinned: within an attempt a key's state is asked for once.
//   - a key of unknown state is taken for absent, and the pins refuse where it is not; so knowing wrongly costs an attempt, no more.
//   - nothing is attached to a lease that is not known to live on the key's member, and the guards compare its record.
//   - what the outcome tells of a key's native state is learnt before any other operation on the key is built.
//   - a stamp lands at most once, whatever became of the answer: internal/commit settles it, and internal/read replays the answer.
package write
