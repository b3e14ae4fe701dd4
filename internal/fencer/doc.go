// Package fencer closes the gaps that writers leave behind: stamps that were handed out and do not land, while somebody waits for
// them. It raises the fence on every member; the fence travels through each member's own log, and when it shows up there,
// the missing write was seen before it, or never will be. So the fencer decides nothing, and a fence is never wrong. But one
// that comes too early refuses a write that was merely slow, and each is a raft proposal on every member. Hence:
//
//   - What is fenced has been known for longer than the grace, which follows what landings take at present (see grace).
//   - Of all processes that see the gap, hopefully one raises: each waits for a random time, spread over as many
//     as there seem to be (see election). A fence that another process has raised counts.
//   - It looks before it raises: it reads the fences, linearizably, and waits until the streams have come as far as the
//     members were then. A gap that is gone by that time was only this process's own delay.
//   - It raises where a caller in this process waits for the gap, or a watcher for an event above it. For what nobody here waits
//     for it leaves the others more time, and raises only because memory is finite.
package fencer
