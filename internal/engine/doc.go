// Package engine is one process of a meta cluster. It has no logic of transactions or reads of its own: it makes the rooms below it,
// gives each what it needs of the others, opens and closes them in order, and decides when the process cannot go on.
//
//	write ── crosstxn ── read ── feed ── member
//	  └──────── commit, clock, lease ───────┘
//
// # Invariants
//
//   - Open returns an engine that serves, or an error and nothing of what it had started.
//   - There is one feed at a time. When compaction overtakes it, the next one takes its place, and requests wait for that meanwhile.
//     Any other end of a feed ends the process: the members contradict the protocol.
//   - A process ends once, with one cause. One that was closed finishes what it has begun. One that has failed sends the members
//     nothing any more, and everybody who waits or comes later is told why.
//   - Whatever waits for the end of the process waits in its life; Close returns when that is empty. See [Engine.Close] for the order.
package engine
