// Package faults breaks what a meta cluster stands on, under load from several processes, and shows that nobody is told
// anything but what one etcd could have said: processes die between the stamp and the landing of their writes, and at every step
// of transactions across members, the coordinator is lost with its data, members restart or are cut off, answers get lost.
//
// Every test ends with the check of the whole history (package workload). With METAETCD_LONG set there are more rounds.
package faults
