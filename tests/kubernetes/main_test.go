package kubernetes

import (
	"flag"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"github.com/metaetcd/metaetcd/tests/kubernetes/testserver"
)

// parallel is how many tests run at once: more than there may be processors, for they wait most of the time.
const parallel = "4"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err)
	}
	klog.SetLogger(logr.Discard())
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(devNull{}, devNull{}, devNull{}))
	os.Exit(m.Run())
}

type devNull struct{}

func (devNull) Write(p []byte) (int, error) { return len(p), nil }

// side is what a list of tests runs on.
type side struct {
	name string
	run  func(t testing.TB, cfg *embed.Config) *kubernetes.Client
}

var sides = []side{{"plain", testserver.RunPlain}, {"meta", testserver.RunEtcd}}

// lasting is a server whose leases live for three seconds at least. Upstream's test of Get reads, in parallel subtests, what it has
// given a TTL of one second.
func lasting(t *testing.T) *embed.Config {
	cfg := testserver.NewTestConfig(t)
	cfg.ElectionMs = 2000
	return cfg
}

// testCase is one test of upstream's, under upstream's name.
type testCase struct {
	name  string
	alone bool
	run   func(t *testing.T, s side)
}

// alone is a test that sets what others of the process see, a feature gate, or one that cannot wait for others.
func alone(name string, run func(t *testing.T, s side)) testCase { return testCase{name, true, run} }

// runCases runs tests on one side after the other.
func runCases(t *testing.T, cases []testCase) {
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) { runOn(t, s, cases) })
	}
}

// runOn runs those that are alone, and then the others at once.
func runOn(t *testing.T, s side, cases []testCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !c.alone {
				t.Parallel()
			}
			c.run(t, s)
		})
	}
}
