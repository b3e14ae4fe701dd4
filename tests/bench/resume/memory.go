package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// heap follows how much of the heap is used.
type heap struct {
	done chan struct{}
	wg   sync.WaitGroup
	most uint64
}

func startHeap() *heap {
	h := &heap{done: make(chan struct{})}
	h.wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			h.most = max(h.most, s.HeapAlloc)
			select {
			case <-tick.C:
			case <-h.done:
				return
			}
		}
	})
	return h
}

// stop returns the most that was used, in bytes.
func (h *heap) stop() uint64 {
	close(h.done)
	h.wg.Wait()
	return h.most
}

// resident is the most memory that this process had so far, in bytes; 0 where the system does not tell.
func resident() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}
