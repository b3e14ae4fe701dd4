// Package suite runs etcd's integration tests on a plain etcd or on a meta cluster, each test in a process of its own: a test
// that hangs or leaks tells on nobody else, and as many run at once as the machine has processors.
package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/metaetcd/metaetcd/tests/etcdsuite/tree"
	"github.com/metaetcd/metaetcd/tests/internal/upstream"
)

// Packages whose tests are run, those that Expectations leaves out excepted.
var Packages = []string{
	"common",
	"integration",
	"integration/clientv3",
	"integration/clientv3/concurrency",
	"integration/clientv3/connectivity",
	"integration/clientv3/examples",
	"integration/clientv3/experimental/recipes",
	"integration/clientv3/lease",
	"integration/clientv3/naming",
	"integration/clientv3/watch",
	"integration/proxy/grpcproxy",
}

// testTimeout ends a test that hangs. The longest takes half a minute on an idle machine.
const testTimeout = "5m"

// Test is a test function, by its package and name, or one of its subtests.
type Test struct{ Package, Name string }

func (t Test) String() string { return t.Package + " " + t.Name }

// Side is etcd's tests, built for a plain etcd or for the meta cluster.
type Side struct {
	tree     *tree.Tree
	binaries string
	toJSON   string // the command that reads what a test binary writes
	Tests    []Test // all of them
}

// Build makes the packages' test binaries. Close removes them.
func Build(ctx context.Context, packages []string, meta, race bool) (_ *Side, err error) {
	t, err := tree.New(ctx, meta)
	if err != nil {
		return nil, err
	}
	s := &Side{tree: t}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.binaries, err = os.MkdirTemp("", "metaetcd-etcdsuite-bin-"); err != nil {
		return nil, err
	}
	if s.toJSON, err = upstream.Go(ctx, "", nil, "tool", "-n", "test2json"); err != nil {
		return nil, err
	}
	for _, pkg := range packages {
		args := []string{"test", "-c", "-tags=integration", "-o", s.binary(pkg), "./" + pkg}
		if race {
			args = slices.Insert(args, 1, "-race")
		}
		if _, err := upstream.Go(ctx, t.Dir, []string{"GOWORK=" + t.Workspace}, args...); err != nil {
			return nil, err
		}
		names, err := s.list(ctx, pkg)
		if err != nil {
			return nil, err
		}
		s.Tests = append(s.Tests, names...)
	}
	return s, nil
}

// Close removes what Build made.
func (s *Side) Close() {
	_ = os.RemoveAll(s.binaries)
	s.tree.Remove()
}

func (s *Side) binary(pkg string) string {
	return filepath.Join(s.binaries, strings.ReplaceAll(pkg, "/", "_"))
}

func (s *Side) list(ctx context.Context, pkg string) ([]Test, error) {
	out, err := s.command(ctx, pkg, "-test.list=^(Test|Example)").Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests of %s: %w", pkg, err)
	}
	var tests []Test
	for name := range strings.FieldsSeq(string(out)) {
		tests = append(tests, Test{pkg, name})
	}
	return tests, nil
}

func (s *Side) command(ctx context.Context, pkg string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary(pkg), args...)
	cmd.Dir = filepath.Join(s.tree.Dir, pkg)
	return cmd
}

// Run runs a test. A process that fails although its test passed, because something leaked or it broke off, is a test that fails.
func (s *Side) Run(ctx context.Context, test Test) (*upstream.Outcomes, error) {
	cmd := s.command(ctx, test.Package, "-test.v=test2json", "-test.run=^"+test.Name+"$", "-test.timeout="+testTimeout)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	failed := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](failed); ctx.Err() != nil || failed != nil && !exited {
		return nil, errors.Join(fmt.Errorf("%s: %w", test, failed), ctx.Err())
	}
	text := out.String()
	o := upstream.NewOutcomes()
	if err := s.read(ctx, o, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", test, err)
	}
	if failed != nil || o.Verdict[test.Name] == "" {
		o.Verdict[test.Name] = upstream.Fail
	}
	o.Output[""] = text
	return o, nil
}

func (s *Side) read(ctx context.Context, o *upstream.Outcomes, out io.Reader) error {
	var events bytes.Buffer
	cmd := exec.CommandContext(ctx, s.toJSON)
	cmd.Stdin, cmd.Stdout = out, &events
	err := cmd.Run()
	o.Read(&events)
	return err
}

// RunAll runs the tests, so many at a time, and hands each one's outcomes to done, which need not be safe for concurrent use.
func (s *Side) RunAll(ctx context.Context, tests []Test, parallel int, done func(Test, *upstream.Outcomes)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		next = make(chan Test)
	)
	for range parallel {
		wg.Go(func() {
			for test := range next {
				o, err := s.Run(ctx, test)
				if err != nil {
					cancel(err)
					continue
				}
				mu.Lock()
				done(test, o)
				mu.Unlock()
			}
		})
	}
	for _, test := range tests {
		next <- test
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
