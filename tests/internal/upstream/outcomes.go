// Package upstream runs other projects' tests, in a workspace of a changed copy of their module and this repository's modules.
package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// How a test ended, as go test has it.
const (
	Pass = "pass"
	Fail = "fail"
	Skip = "skip"
)

// Outcomes are a run's tests, subtests included, by name: how each ended, and what it wrote.
type Outcomes struct {
	Verdict map[string]string
	Output  map[string]string
}

// NewOutcomes returns the outcomes of no test.
func NewOutcomes() *Outcomes {
	return &Outcomes{Verdict: map[string]string{}, Output: map[string]string{}}
}

// event is a line of go test -json.
type event struct {
	Action string
	Test   string
	Output string
}

// GoTest runs a package's tests in dir, in the given workspace or in this repository's. Failing tests are no error; a package
// that cannot be tested is.
func GoTest(ctx context.Context, dir, workspace, run, pkg string) (*Outcomes, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-timeout=30m", "-run="+run, pkg)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	if workspace != "" {
		cmd.Env = append(os.Environ(), "GOWORK="+workspace)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	o := NewOutcomes()
	o.Read(stdout)
	err = cmd.Wait()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && (!failed || len(o.Verdict) == 0 || ctx.Err() != nil) {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, o.Output[""])
	}
	return o, nil
}

// Read adds what go test -json says, to its end.
func (o *Outcomes) Read(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		o.take(line)
		if err != nil {
			return
		}
	}
}

// take records a line; lines that are not go test's are what a test wrote around it.
func (o *Outcomes) take(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		return
	}
	switch e.Action {
	case "output", "build-output":
		o.Output[e.Test] += e.Output
	case Pass, Fail, Skip:
		if e.Test != "" {
			o.Verdict[e.Test] = e.Action
		}
	}
}

// Count says how many tests ended so.
func (o *Outcomes) Count(verdict string) (n int) {
	for _, v := range o.Verdict {
		if v == verdict {
			n++
		}
	}
	return n
}
