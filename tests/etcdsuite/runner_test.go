package main

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/tests/etcdsuite/suite"
)

// bounded are packages and tests that touch every service, and take some minutes at most.
var (
	boundedPackages = []string{"integration", "integration/clientv3", "integration/clientv3/lease", "integration/clientv3/watch"}
	bounded         = regexp.MustCompile(`^integration TestV3(Put|Txn|DeleteRange|Range|LeaseGrant|LeaseExists)` +
		`|^integration/clientv3 Test(KV|Txn|Namespace)` +
		`|^integration/clientv3/lease TestLease(Grant|Revoke|KeepAliveOnce|TimeToLive|Leases|NotFound)` +
		`|^integration/clientv3/watch TestWatch(Range|Reconn|Event|With|Compact|CancelRunning|ErrConnClosed|RequestProgress)`)
)

// TestSome runs some of etcd's tests on a meta cluster; make etcdsuite runs all.
func TestSome(t *testing.T) {
	expected, err := suite.Expected()
	require.NoError(t, err)
	r := &runner{
		out: os.Stderr, packages: boundedPackages, only: bounded, count: 1, parallel: 2, verbose: testing.Verbose(), expected: expected,
	}
	require.NoError(t, r.run(t.Context(), true))
}
