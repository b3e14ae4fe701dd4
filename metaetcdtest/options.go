package metaetcdtest

import (
	"os"
	"path/filepath"

	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/metaetcd/metaetcd"
)

// Option configures New and Plain.
type Option func(*options)

type options struct {
	sharding     metaetcd.Sharding
	servers      int
	coordinators int
	noFsync      bool
	adjust       []func(*embed.Config)
	clients      []func(*clientv3.Config)
	logger       *zap.Logger
	binaries     []string
	nodes        int // those that have got their binary
}

func newOptions(opts []Option) *options {
	o := &options{servers: 1, coordinators: 1, logger: zap.NewNop()}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// WithSharding sets the sharding of the meta cluster. The default is metaetcd's: each key by itself.
func WithSharding(s metaetcd.Sharding) Option {
	return func(o *options) { o.sharding = s }
}

// WithServers makes every member, and the etcd of [Plain], a cluster of n servers. The default is 1.
func WithServers(n int) Option {
	return func(o *options) { o.servers = max(n, 1) }
}

// WithCoordinatorServers makes the coordinator a cluster of n servers. The default is 1.
func WithCoordinatorServers(n int) Option {
	return func(o *options) { o.coordinators = max(n, 1) }
}

// WithUnsafeNoFsync lets the members acknowledge writes that are not on disk yet: faster, and safe where only processes and
// not machines die, as in most tests. The coordinator never waits for its disk.
func WithUnsafeNoFsync() Option {
	return func(o *options) { o.noFsync = true }
}

// WithEtcdConfig changes the configuration of every etcd server just before it is started, the coordinator's included, each time and
// concurrently. Addresses, names and directories are the package's own and must stay as they are.
func WithEtcdConfig(adjust func(*embed.Config)) Option {
	return func(o *options) { o.adjust = append(o.adjust, adjust) }
}

// WithClientConfig changes the configuration of every etcd client of a node just before it is opened. By default such a client
// reconnects within half a second: tests restart servers far more often than the world does. Without these DialOptions it
// does as clients do by default.
func WithClientConfig(adjust func(*clientv3.Config)) Option {
	return func(o *options) { o.clients = append(o.clients, adjust) }
}

// WithEtcdBinaries makes every server a process of its own: those of the coordinator run the first binary, those of the first
// member the next, and so on in turn, so that a meta cluster may have etcd clusters of several versions. By default servers run in
// the test's process, unless the environment variable METAETCDTEST_ETCD lists binaries for [New], as PATH lists folders.
//
// Of what [WithEtcdConfig] changes, such servers get ticks, elections, the quota, limits of requests, the snapshot count and automatic
// compaction. A file that is replaced while a node is stopped is what Start runs.
func WithEtcdBinaries(paths ...string) Option {
	return func(o *options) { o.binaries = paths }
}

// WithProcesses makes every server a process of its own, so that it can be killed and frozen: the test's own binary, started again,
// whose TestMain begins with ServeProcess. What WithEtcdBinaries says of configurations goes for them, too.
func WithProcesses() Option {
	return func(o *options) {
		self, err := os.Executable()
		if err != nil {
			self = os.Args[0]
		}
		o.binaries = []string{self}
	}
}

// binariesFromEnv is the default of New.
func binariesFromEnv(o *options) { o.binaries = filepath.SplitList(os.Getenv("METAETCDTEST_ETCD")) }

// nextBinary is the binary of the next node, empty for embedded servers.
func (o *options) nextBinary() string {
	if len(o.binaries) == 0 {
		return ""
	}
	o.nodes++
	return o.binaries[(o.nodes-1)%len(o.binaries)]
}

// WithLogger makes the etcd servers that run in the test's process, the etcd clients and the meta clients log to lg. By default they are
// silent.
func WithLogger(lg *zap.Logger) Option {
	return func(o *options) { o.logger = lg }
}
