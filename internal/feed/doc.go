// Package feed keeps one process's view of the whole: the streams of all members fill a merged log, gaps in it are fenced off, and
// watchers, reads and those who wait are served from it. A Feed is one unbroken run of that; Current is the feed that serves now, and
// what outlives feeds.
//
// Its invariants:
//
//   - A feed misses nothing: each member's stream delivers every revision after the one at which its records were read, in order. A
//     stream that breaks off goes on behind what the log has. Where compaction is faster the feed ends, with mergedlog.ErrOverrun:
//     there is no feed with a hole.
//   - A member is opened in this order: records, leases, log, stream, and what was committed before it while nobody looked. Only when
//     all streams run is the clock read, every member fenced at its reading, and the log started there; so the first closed revision
//     covers everything that was acknowledged before Open began.
//   - A feed ends once, with a cause. Its log has failed with the cause, or with one that the cause wraps, before anybody is told.
//   - When Close returns, no goroutine of the feed is left. Its log can still be read.
//   - What clients were told never goes back: Current.Known does not decrease, between feeds neither, and Current.Closed neither.
//   - The state cache is refreshed before the log shows an event. A key that the cache does not know stays unknown.
package feed
