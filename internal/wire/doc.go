// Package wire is how requests reach one etcd cluster: below clientv3's own types, and through a client that somebody else has
// configured, whose interceptors and service configuration may repeat, bound or replace what is sent.
//
// Invariant: a transaction that writes reaches the cluster at most once for each call. If the call fails, its error is that of the
// attempt that may have reached it, whatever else was tried behind it.
package wire
