// Package linearizability lets several processes use a meta cluster at once, records when each request was made and answered, and
// has porcupine look for an order in which one etcd could have served them all. There are two models: a register for each key,
// which knows values only, and the whole store with its revisions.
package linearizability
