// Package conformance shows that the meta cluster cannot be told from one etcd: every request has the same answer, and every
// watch the same events.
package conformance

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Defaults of TestModel's flags: about 8,000 requests, or, with METAETCD_LONG set, 200,000.
var defaults = map[string]string{"rapid.checks": "12", "rapid.steps": "250", "rapid.nofailfile": "true", "rapid.shrinktime": "15s"}

func TestMain(m *testing.M) {
	if os.Getenv("METAETCD_LONG") != "" {
		defaults["rapid.checks"] = "300"
	}
	for name, value := range defaults {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
