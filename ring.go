package metaetcd

import (
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Member is one etcd cluster that stores part of the keyspace.
type Member struct {
	Name   string           // its identity: recorded at creation, checked at every New
	Client *clientv3.Client // borrowed, never closed
}

// Sharding decides which member a key lives on. It is recorded when the meta cluster is created.
type Sharding struct {
	// Segments, if not 0, makes the key's first path segments decide instead of the whole key: everything up to and
	// including the Segments-th Separator. Keys that share them live on one member, so that ranges below them and
	// transactions within them do as well; but the load is spread only as well as the prefixes are.
	Segments int
	// Separator ends a path segment. Default: '/'.
	Separator byte
	// Slots is the number of units that keys are placed by, at most 65,536. Default: 4096.
	Slots int
}

const defaultSlots = 4096

func (s Sharding) withDefaults() Sharding {
	if s.Slots == 0 {
		s.Slots = defaultSlots
	}
	if s.Segments > 0 && s.Separator == 0 {
		s.Separator = '/'
	}
	return s
}
