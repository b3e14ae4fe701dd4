package load

import (
	"errors"
	"flag"
	"os"
	"runtime"
	"runtime/pprof"
)

// Profiles are the files to write profiles of a whole run to; empty: none.
type Profiles struct {
	cpu, mem, block, mutex string
}

// Flags are the command line's.
func (p *Profiles) Flags(fs *flag.FlagSet) {
	fs.StringVar(&p.cpu, "cpuprofile", "", "write a CPU profile to this file")
	fs.StringVar(&p.mem, "memprofile", "", "write a profile of all allocations to this file")
	fs.StringVar(&p.block, "blockprofile", "", "write a profile of blocking to this file")
	fs.StringVar(&p.mutex, "mutexprofile", "", "write a profile of lock contention to this file")
}

// Start begins profiling and returns what ends it and writes the files.
func (p *Profiles) Start() (stop func() error, err error) {
	var cpu *os.File
	if p.cpu != "" {
		if cpu, err = os.Create(p.cpu); err != nil {
			return nil, err
		}
		if err := pprof.StartCPUProfile(cpu); err != nil {
			return nil, errors.Join(err, cpu.Close())
		}
	}
	if p.block != "" {
		runtime.SetBlockProfileRate(10_000) // one sample per 10 µs blocked
	}
	if p.mutex != "" {
		runtime.SetMutexProfileFraction(10)
	}
	return func() error {
		var errs []error
		if cpu != nil {
			pprof.StopCPUProfile()
			errs = append(errs, cpu.Close())
		}
		errs = append(errs, writeProfile("allocs", p.mem), writeProfile("block", p.block), writeProfile("mutex", p.mutex))
		return errors.Join(errs...)
	}, nil
}

func writeProfile(profile, path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(profile).WriteTo(f, 0), f.Close())
}
