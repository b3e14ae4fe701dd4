package metaetcd

import (
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Member is one etcd cluster that stores part of the keyspace.
type Member struct {
	// Name is the member's identity. It is recorded when the meta cluster is created, and checked whenever one is opened. Errors and
	// metrics have it.
	Name string
	// Client is a client of the cluster. It is borrowed: it is never closed.
	Client *clientv3.Client
}

// Sharding decides which member a key lives on. It is recorded when the meta cluster is created, and cannot be changed later.
type Sharding struct {
	// Segments makes the key's first path segments decide instead of the whole key: everything up to and including the
	// Segments-th Separator. Keys that share them live on one member, so that ranges below them and transactions within them need no
	// other; but the load is spread only as well as the prefixes are. The default is 0: the whole key decides.
	Segments int
	// Separator ends a path segment. The default is '/'.
	Separator byte
	// Slots is the number of units that keys are placed by, at most 65,536. The default is 4096.
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
