package metaetcdtest_test

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

// A test of one's own: the code under test gets an ordinary etcd client.
func ExampleNew() {
	var t *testing.T // the test's own

	cluster := metaetcdtest.New(t, 3, metaetcdtest.WithUnsafeNoFsync())
	cli := cluster.Client(t)

	watch := cli.Watch(t.Context(), "/jobs/", clientv3.WithPrefix())
	if _, err := cli.Put(t.Context(), "/jobs/1", "queued"); err != nil {
		t.Fatal(err)
	}
	for _, ev := range (<-watch).Events {
		t.Logf("%s %s at revision %d", ev.Type, ev.Kv.Key, ev.Kv.ModRevision)
	}
}

// What happens to the code under test when the clock of the meta cluster is lost with all its data?
func ExampleNode_Wipe() {
	var t *testing.T // the test's own

	cluster := metaetcdtest.New(t, 3)
	cli := cluster.Client(t)

	cluster.Coordinator.Stop()
	cluster.Coordinator.Wipe()
	cluster.Coordinator.Start()

	if _, err := cli.Put(t.Context(), "/jobs/1", "queued"); err != nil {
		t.Fatal(err)
	}
}
