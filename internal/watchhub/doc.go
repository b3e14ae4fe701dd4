// Package watchhub is etcd's Watch service over one merged log.
//
// # How events travel
//
//	Source ── dispatcher ──┬── queue ── sender (stream 1) ── client
//	                       ├── queue ── sender (stream 2) ── client
//	                       └── …            ▲
//	          Source / Replay ──────────────┘ catching up
//
// One dispatcher per hub reads the log forward from its position. It matches each event against an index of the synced
// watchers, by the ranges they watch and not by watcher, and appends what a range saw to the queues of its watchers'
// streams; queued events are shared with the log. One sender per stream turns queued events into responses: every
// watcher gets structs of its own, because clients change keys in place, around shared bytes. Nothing polls.
//
// A watcher is in one of three states:
//
//   - synced: in the hub's index. The dispatcher gives it everything above its position.
//   - behind: in its stream's index, with a cursor. It was created at a past revision, or its stream's queue was full.
//     The sender reads the log for it, in pieces, once the queue is drained, until it can join the synced ones again.
//   - replaying: behind, with a cursor that has left the log's memory. A goroutine reads the members' history for it, and for all
//     others of its stream that lack about the same; or, for all that watch the same single key, that key's history alone.
//
// So a slow consumer costs a bounded queue and, per watcher, one cursor, and holds back nobody. The hub tells the source which revision
// the slowest is at: what was released at once, after an outage, stays in memory until watchers have got it, within the source's bounds.
//
// # Invariants
//
//   - Hub.position only grows, and never passes the closed revision. When it is p, everything up to p that synced
//     watchers are to see is in their streams' queues or was sent.
//   - A watcher joins the index, under Hub.mu, only with everything up to the position sent or queued; it leaves the
//     index together with the note in its stream's queue that says from where it is behind. So no event is lost or doubled.
//   - Whatever a stream sends goes through one goroutine in the order of its queue. All events of one revision are in
//     one response, or in its fragments, which nothing interrupts.
//   - What Source.Needs was told lies at or below everything that a watcher which was there then is still to be given from the log.
//   - A progress notification at r is sent only when everything up to r was sent to every watcher that it speaks for,
//     and r is not below what such a watcher was created at or has seen: clients resume above r.
//   - The header of a response with events never promises more than that watcher has been sent.
package watchhub
