package kubernetes

import (
	"os"
	"testing"

	"github.com/go-logr/logr"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"github.com/metaetcd/metaetcd/tests/kubernetes/testserver"
)

func TestMain(m *testing.M) {
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

// testCase is one test of upstream's, under upstream's name.
type testCase struct {
	name string
	run  func(t *testing.T, s side)
}

func runCases(t *testing.T, cases []testCase) {
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) { c.run(t, s) })
			}
		})
	}
}
