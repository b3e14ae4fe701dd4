// Package metaetcd makes several etcd clusters behave as one etcd, in the process that uses it.
//
// A [Client] satisfies [clientv3.KV], [clientv3.Watcher] and [clientv3.Lease]. It spreads one keyspace over member clusters,
// keeps one revision over all of them with the help of a coordinator cluster, and merges the members' watches. There is no
// proxy and no server of metaetcd's own: whoever imports the package talks to the etcd clusters directly.
//
// # Model
//
// A meta cluster consists of
//
//   - members: etcd clusters that store the keys. A key lives on exactly one member, which [Sharding] decides from the key
//     alone. Members decide about durability, as any etcd does.
//   - a coordinator: one more etcd cluster, which hands out revisions and keeps the timers of leases. Nothing on it is
//     worth a backup: any process rebuilds it from the members.
//   - processes: programs that hold a [Client]. Each one is a full citizen; none is a leader, and any number of them may
//     come, go or die at any time.
//
// A write takes its revision from the coordinator before it lands on its member. Writes therefore land out of order, and the
// revision of a writer that died never lands. Each process watches the members and knows up to which revision everything
// has landed or never will: the closed revision, [Client.ClosedRevision]. Nothing above it is shown to anybody.
//
// # Promises
//
// They are etcd's, over all members:
//
//   - Strict serializability. Reads, writes and transactions take effect one at a time, in the order of their revisions, each
//     between its call and its answer. Only reads with [clientv3.WithSerializable] may be behind.
//   - A list is complete at the revision of its header, and a watch from the next revision misses nothing, repeats nothing and
//     keeps the order. All changes of one revision come together.
//   - A transaction takes effect as a whole or not at all, wherever its keys lie, whoever dies in the middle of it.
//   - A write takes effect once or never, whatever is lost on the way. Its caller learns which, unless its context ends first.
//   - What was acknowledged stays, as long as its member keeps it. Losing the coordinator loses nothing.
//   - Answers, errors, validation and options are etcd's. Errors are those of package rpctypes where etcd has one.
//
// What differs from one etcd is listed in docs/compatibility.md, and how the promises are kept in docs/architecture.
//
// # Using it
//
// Open one etcd client per cluster, and a Client over them. The first [New] creates the meta cluster, all later ones check
// that it is the same:
//
//	c, err := metaetcd.New(ctx, metaetcd.Config{
//		Coordinator: coordinator, // *clientv3.Client
//		Members: []metaetcd.Member{
//			{Name: "ash", Client: ash},
//			{Name: "birch", Client: birch},
//		},
//	})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//
// Then use it as any etcd:
//
//	put, err := c.Put(ctx, "/jobs/1", "new")
//	list, err := c.Get(ctx, "/jobs/", clientv3.WithPrefix())
//	for resp := range c.Watch(ctx, "/jobs/", clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1)) {
//		…
//	}
//
// Code that takes a *clientv3.Client, like etcd's concurrency package or the storage of k8s.io/apiserver, gets one through
// [Client.Install]. Take a real client for that, with endpoints, rather than one of clientv3.NewCtxClient: some of this code
// asks the client's endpoints which features they have. Other languages are served by a gRPC server with [Client.Register].
//
// # Errors
//
// They are etcd's, with metaetcd's own where etcd has none. [errors.Is] and [errors.As] find
//
//   - a [*TopologyError] when [New] refuses the configuration, or what it finds on the clusters. Its kind says why: [ErrSameCluster],
//     [ErrVersion] for a server that is too old, [ErrNotEmpty] for data of somebody else, and so on.
//   - a [*MemberError] when one cluster is at fault: it has no space left, permits no writing, or does not answer. It names the cluster
//     and holds etcd's error. Clients that got the services through [Client.Install] or [Client.Register] see etcd's error alone.
//   - a [*ForeignKeyError] when a read meets a key that metaetcd did not write.
//   - a [*WrongCoordinatorError] or a [*ForeignCoordinatorError] when the coordinator is not the one that the meta cluster was created
//     with, or serves another one.
//   - [ErrUnknownOutcome] when nobody can say whether a write happened; a caller whose context ended does not know either.
//   - [ErrClosed] when the Client is closed.
//
// # Duties of the caller
//
// In the order in which they come up:
//
//  1. Give every etcd cluster an initial cluster token of its own. Clusters are told apart by the id that etcd makes of it.
//  2. Keep the members for metaetcd alone. A write that anybody else makes on a member stops every client, because nobody
//     could say what its revision is. etcd's auth can keep others out; docs/operations.md shows how.
//  3. Give the borrowed clients DialKeepAliveTime and DialKeepAliveTimeout, so that a cluster which is cut off in silence is
//     noticed. TLS and credentials are theirs as well.
//  4. Give requests a deadline. What needs a cluster that does not answer waits until its context ends, or the Client is closed.
//  5. Call [Client.Compact] now and then, from any process: nothing is compacted by itself, and history takes space.
//  6. Read the channels of watches and keep-alives, as with any clientv3 client.
//  7. Never restore the coordinator from a backup; start it empty. Restore members only all together.
//  8. Call [Client.Close], and only then close the borrowed clients.
package metaetcd
