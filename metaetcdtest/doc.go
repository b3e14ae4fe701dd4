// Package metaetcdtest runs a whole meta cluster inside a test: a coordinator and any number of members, all of them real
// etcd servers embedded in the test's process, on loopback ports of their own, gone when the test ends. What fails fails the test.
//
//	func TestController(t *testing.T) {
//		cluster := metaetcdtest.New(t, 3)
//		cli := cluster.Client(t)
//
//		_, err := cli.Put(t.Context(), "/jobs/1", "queued")
//		…
//	}
//
// Failures are part of the package: every server is reached through a TCP proxy that can delay what passes, cut it off or
// reset it, and every server can be stopped, started again and, while it is stopped, have its data removed.
//
//	cluster.Members[0].Delay(5 * time.Millisecond) // a far member
//	cluster.Members[1].Cut()                       // unreachable, in silence
//	cluster.Coordinator.Stop()                     // the clock is lost …
//	cluster.Coordinator.Wipe()
//	cluster.Coordinator.Start()                    // … and comes back empty
//
// A server that is started again keeps its addresses and, wiped or not, its etcd cluster id.
//
// Servers of other versions of etcd run as processes: see [WithEtcdBinaries]. Servers that are processes can be killed and frozen, too:
// see [WithProcesses].
package metaetcdtest
