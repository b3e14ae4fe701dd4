package load

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of /proc/stat on every Linux that Go runs on.
const userHZ = 100

// CPU measures how many processors the whole machine keeps busy: clients, servers and whoever else is there.
type CPU struct {
	start time.Time
	busy  float64 // seconds
	known bool
}

// StartCPU starts a measurement.
func StartCPU() CPU {
	busy, ok := busySeconds()
	return CPU{start: time.Now(), busy: busy, known: ok}
}

// Busy is the average number of busy processors since the start; 0 if the system does not tell.
func (c CPU) Busy() float64 {
	busy, ok := busySeconds()
	elapsed := time.Since(c.start).Seconds()
	if !c.known || !ok || elapsed <= 0 {
		return 0
	}
	return (busy - c.busy) / elapsed
}

// busySeconds sums the first line of /proc/stat without its idle and iowait columns. Guest time is part of user time.
func busySeconds() (float64, bool) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, false
	}
	var ticks float64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return 0, false
		}
		ticks += n
	}
	return ticks / userHZ, true
}
