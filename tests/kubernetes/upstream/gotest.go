package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// outcomes are a run's tests, by name, with what go test says of each: pass, fail or skip.
type outcomes struct {
	verdict map[string]string
	output  map[string]string
}

func newOutcomes() *outcomes {
	return &outcomes{verdict: map[string]string{}, output: map[string]string{}}
}

// event is a line of go test -json.
type event struct {
	Action string
	Test   string
	Output string
}

// goTest runs a package's tests in dir, in the given workspace or in this repository's. Failing tests are no error; a package
// that cannot be tested is.
func goTest(ctx context.Context, dir, workspace, run, pkg string) (*outcomes, error) {
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
	o := newOutcomes()
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		o.take(line)
	}
	err = cmd.Wait()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && (!failed || len(o.verdict) == 0 || ctx.Err() != nil) {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, o.output[""])
	}
	return o, nil
}

// take records a line; lines that are not go test's are what a test wrote around it.
func (o *outcomes) take(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		return
	}
	switch e.Action {
	case "output", "build-output":
		o.output[e.Test] += e.Output
	case "pass", "fail", "skip":
		if e.Test != "" {
			o.verdict[e.Test] = e.Action
		}
	}
}

// split separates this module's tests, each of which runs on both sides, by the part of the name that says on which. Tests that
// contain the sides, and those that have none, are left out.
func (o *outcomes) split() (plain, meta *outcomes) {
	sides := map[string]*outcomes{"plain": newOutcomes(), "meta": newOutcomes()}
	for name, verdict := range o.verdict {
		parts := strings.SplitN(name, "/", 3)
		if len(parts) < 2 || sides[parts[1]] == nil {
			continue
		}
		to := sides[parts[1]]
		short := strings.Join(append(parts[:1:1], parts[2:]...), "/")
		to.verdict[short], to.output[short] = verdict, o.output[name]
	}
	return sides["plain"], sides["meta"]
}

// count says how many tests ended with a verdict.
func (o *outcomes) count(verdict string) (n int) {
	for _, v := range o.verdict {
		if v == verdict {
			n++
		}
	}
	return n
}
