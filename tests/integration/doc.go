// Package integration puts a meta cluster of three members under mixed load from several processes, and checks that all of
// what they were told fits one history: see package workload for what that means.
package integration
