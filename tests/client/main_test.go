// Package client shows on real etcds that a metaetcd.Client keeps what its documentation promises beside the requests
// themselves: how a meta cluster is created, checked and opened, what Install and Register hand out, how a client is
// observed and closed, and how it lives through compaction and failures. Requests against one etcd's are package
// conformance's.
package client

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// parallel is how many tests run at once: more than there may be processors, for they wait most of the time.
const parallel = "4"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
