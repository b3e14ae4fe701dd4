package metaetcdtest_test

import (
	"context"
	"log"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/metaetcd/metaetcd/metaetcdtest"
)

func TestMain(m *testing.M) {
	metaetcdtest.ServeProcess()
	goleak.VerifyTestMain(m)
}

var ctx = context.Background()

// example stands in for the *testing.T of a test, which examples do not have.
type example struct {
	testing.TB
	cleanups []func()
}

func newExample() *example { return &example{} }

func (e *example) Helper() {}

func (e *example) Errorf(format string, args ...any) { log.Fatalf(format, args...) }

func (e *example) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }

func (e *example) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }

func (e *example) TempDir() string {
	dir, err := os.MkdirTemp("", "metaetcdtest-")
	e.check(err)
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (e *example) check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// end does what is done at the end of a test.
func (e *example) end() {
	for _, f := range slices.Backward(e.cleanups) {
		f()
	}
}
