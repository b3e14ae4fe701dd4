// Package metrics counts and times what one process does, for Prometheus. It is where the names, labels and help of the counters and
// histograms are; the gauges of the process's state are read where the state is, and only registered here.
//
// Invariants:
//
//   - Without a registry everything is counted as well, and nobody sees it: callers need not ask.
//   - New registers all collectors or none, and Unregister takes all of them back, so that the next client of a process can register.
//   - Labels are bounded: members, methods, gRPC codes. There is no key, and nothing of a user, in any of them.
package metrics
