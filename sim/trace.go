package main

import (
	"fmt"
	"strings"
)

// describe is a batch in the trace.
func (w *World) describe(p *Process, member int, ops []*Guarded) string {
	if !w.trace {
		return ""
	}
	var s strings.Builder
	fmt.Fprintf(&s, "batch p%d->M%d", p.id, member)
	for _, o := range ops {
		fmt.Fprintf(&s, " [op%d T=%d pins=%v mark=%v]", o.op.id, o.T, o.pins, o.mark)
	}
	return s.String()
}
