package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/metaetcd/metaetcd/tests/internal/workload"
)

// mortalEnv makes the test binary a mortal: a process of the meta cluster of which only the writes that it reports are known,
// and which dies by SIGKILL in the middle of one. It carries the orders, in JSON.
const mortalEnv = "METAETCD_FAULTS_MORTAL"

type orders struct {
	Name    string
	Servers servers
	Keys    []string
	DieAt   moment
	After   int32 // requests that come to the moment and are survived
}

// What a mortal reports, a line each, before and after a write.
const (
	tryLine = "try %s %s\n" // key, value
	ackLine = "ack %s %d\n" // value, revision
)

// liveAndDie is the main function of a mortal. It also ends with its parent, when standard input does.
func liveAndDie() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	var o orders
	if err := json.Unmarshal([]byte(os.Getenv(mortalEnv)), &o); err != nil {
		panic(err)
	}
	w := &wire{onDeath: func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }}
	cli, err := w.open(context.Background(), o.Servers, nil, nil)
	if err != nil {
		panic(err)
	}
	w.survives.Store(o.After)
	w.armed.Store(int32(o.DieAt))
	for i, key := range o.Keys {
		go func() {
			for n := 0; ; n++ {
				value := fmt.Sprintf("%s-%d-%d", o.Name, i, n)
				_, _ = fmt.Fprintf(os.Stdout, tryLine, key, value)
				resp, err := cli.Put(context.Background(), key, value)
				if err != nil {
					panic(err)
				}
				_, _ = fmt.Fprintf(os.Stdout, ackLine, value, resp.Header.Revision)
			}
		}()
	}
	select {}
}

// TestKilledProcesses: real processes are killed in the middle of their writes, two at a time, one after the other, while others
// write the same keys. What they were told stays, and of the rest each write took effect once or never.
func TestKilledProcesses(t *testing.T) {
	b := newBench(t, 2)
	machine := b.readDirectly()
	for _, p := range b.processes {
		p.Work(b.load())
	}
	var keys []string
	for _, g := range b.all() {
		keys = append(keys, g+"k0", g+"k1")
	}
	var deaths struct {
		sync.Mutex
		at map[moment][]time.Time
	}
	deaths.at = map[moment][]time.Time{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rounds(5))*time.Minute)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i := range rounds(24) {
		o := orders{Name: fmt.Sprintf("mortal%d", i), Servers: serversOf(b.cluster), Keys: keys, DieAt: moment(i%3) + beforeStamp, After: rand.Int32N(30)}
		g.Go(func() error {
			at, err := b.watchDie(ctx, o)
			deaths.Lock()
			defer deaths.Unlock()
			deaths.at[o.DieAt] = append(deaths.at[o.DieAt], at)
			return err
		})
	}
	require.NoError(t, g.Wait())
	h := b.finish()
	spans := machine()
	for m := range deaths.at {
		report(t, h, deaths.at, m).requireShort(t, spans)
	}
}

// watchDie runs a mortal, records its writes, and returns when it died.
func (b *bench) watchDie(ctx context.Context, o orders) (time.Time, error) {
	env, err := json.Marshal(o)
	if err != nil {
		return time.Time{}, err
	}
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), mortalEnv+"="+string(env))
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // ends with this process
		return time.Time{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return time.Time{}, err
	}
	if err := cmd.Start(); err != nil {
		return time.Time{}, err
	}
	writes := map[string]*workload.Write{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var key, value string
		var rev int64
		switch line := lines.Text() + "\n"; {
		case strings.HasPrefix(line, "try"):
			_, err = fmt.Sscanf(line, tryLine, &key, &value)
			writes[value] = &workload.Write{Client: o.Name, Effects: []workload.Effect{{Key: key, Value: value}}}
		default:
			if _, err = fmt.Sscanf(line, ackLine, &value, &rev); err == nil {
				writes[value].Rev = rev
			}
		}
		if err != nil {
			break
		}
	}
	at := time.Now()
	_ = cmd.Wait()
	for _, w := range writes {
		b.run.Record(w)
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL || ctx.Err() != nil {
		return at, fmt.Errorf("%s did not die of its own hand: %s", o.Name, cmd.ProcessState)
	}
	return at, err
}
