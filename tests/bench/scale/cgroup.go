//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// blkio is where cgroup v1's controller of block devices is mounted.
const blkio = "/sys/fs/cgroup/blkio"

const (
	bpsFile     = "blkio.throttle.write_bps_device"
	iopsFile    = "blkio.throttle.write_iops_device"
	servedFile  = "blkio.throttle.io_service_bytes"
	groupPrefix = "metaetcd-bench-"
)

// errUnavailable says why disks cannot be throttled here.
var errUnavailable = errors.New("disks cannot be throttled here")

// limits are what each etcd's disk may write per second; 0: without limit.
type limits struct{ bytes, operations int64 }

// throttle makes control groups that limit writes to one device.
type throttle struct {
	device string // major:minor
	limits limits
	groups map[string]string // directories by etcd
}

// newThrottle prepares control groups for etcds that write below dir. It fails with errUnavailable where there are none.
func newThrottle(dir string, l limits) (*throttle, error) {
	for _, file := range []string{bpsFile, iopsFile, servedFile} {
		if _, err := os.Stat(filepath.Join(blkio, file)); err != nil {
			return nil, fmt.Errorf("%w: no cgroup v1 blkio controller: %w", errUnavailable, err)
		}
	}
	sweep()
	device, err := deviceOf(dir)
	if err != nil {
		return nil, err
	}
	t := &throttle{device: device, limits: l, groups: map[string]string{}}
	if _, err := t.group("probe"); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errUnavailable, err), t.remove())
	}
	return t, t.remove()
}

// deviceOf is the disk that dir is on: limits belong to whole disks, not to partitions.
func deviceOf(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	path, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", device))
	if err != nil {
		return "", fmt.Errorf("%w: %s is not on a disk: %w", errUnavailable, dir, err)
	}
	if _, err := os.Stat(filepath.Join(path, "partition")); errors.Is(err, fs.ErrNotExist) {
		return device, nil
	}
	whole, err := os.ReadFile(filepath.Join(filepath.Dir(path), "dev"))
	return strings.TrimSpace(string(whole)), err
}

// sweep removes the groups of runs that were killed. Groups in use cannot be removed.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(blkio, groupPrefix+"*"))
	for _, dir := range left {
		_ = os.Remove(dir)
	}
}

// group makes the control group of one etcd and returns its directory.
func (t *throttle) group(name string) (string, error) {
	dir := filepath.Join(blkio, fmt.Sprintf("%s%d-%s", groupPrefix, os.Getpid(), name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	t.groups[name] = dir
	return dir, t.set(dir, t.limits)
}

func (t *throttle) set(dir string, l limits) error {
	for file, limit := range map[string]int64{bpsFile: l.bytes, iopsFile: l.operations} {
		line := fmt.Sprintf("%s %d", t.device, limit)
		if err := os.WriteFile(filepath.Join(dir, file), []byte(line), 0); err != nil {
			return err
		}
	}
	return nil
}

// written is how many bytes each etcd has written to the device so far.
func (t *throttle) written() (map[string]int64, error) {
	bytes := map[string]int64{}
	for name, dir := range t.groups {
		stat, err := os.ReadFile(filepath.Join(dir, servedFile))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(stat)) {
			count, ok := strings.CutPrefix(strings.TrimSpace(line), t.device+" Write ")
			if !ok {
				continue
			}
			if bytes[name], err = strconv.ParseInt(count, 10, 64); err != nil {
				return nil, err
			}
		}
	}
	return bytes, nil
}

// lift ends the limits, so that etcds stop quickly.
func (t *throttle) lift() error {
	var errs []error
	for _, dir := range t.groups {
		errs = append(errs, t.set(dir, limits{}))
	}
	return errors.Join(errs...)
}

// remove removes the groups, whose processes have ended; the kernel may need a moment to see that.
func (t *throttle) remove() error {
	var errs []error
	for name, dir := range t.groups {
		err := os.Remove(dir)
		for deadline := time.Now().Add(5 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = os.Remove(dir) {
			time.Sleep(10 * time.Millisecond)
		}
		errs = append(errs, err)
		delete(t.groups, name)
	}
	return errors.Join(errs...)
}
