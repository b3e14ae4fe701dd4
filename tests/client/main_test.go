// Package client shows on real etcds that a metaetcd.Client keeps what its documentation promises beside the requests
// themselves: how a meta cluster is created, checked and opened, what Install and Register hand out, how a client is
// observed and closed, and how it lives through compaction and failures. Requests against one etcd's are package
// conformance's.
package client

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
