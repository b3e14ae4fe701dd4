package main

import (
	"strings"
	"testing"
)

// few is how often the coordinator is lost at most: more often, and processes may need longer than a run lasts to come to an end.
const few = 2

// violation runs seeds until one breaks a promise, with rules taken away, and says how. Empty: none did.
func violation(t *testing.T, seeds int64, flags ...string) string {
	t.Helper()
	taken, err := without(flags...)
	if err != nil {
		t.Fatal(err)
	}
	s := Settings{Without: taken, cross: 30, loss: 1, maxLoss: few, size: 1}
	cross, rebuilt := 0, 0
	for seed := int64(1); seed <= seeds; seed++ {
		w := run(seed, s)
		if w.viol != "" {
			t.Logf("seed %d: %s", seed, w.viol)
			return w.viol
		}
		rebuilt += w.rebuilds
		for _, o := range w.landed {
			if o.cross {
				cross++
			}
		}
	}
	if cross == 0 || rebuilt == 0 {
		t.Fatalf("%d transactions across members, %d rebuilt clocks: these runs show less than they should", cross, rebuilt)
	}
	return ""
}

func TestProtocolHolds(t *testing.T) {
	if v := violation(t, 500); v != "" {
		t.Error(v)
	}
}

// TestRulesAreNeeded takes rules away, one at a time, which a few seeds show to be wrong.
func TestRulesAreNeeded(t *testing.T) {
	for rule, how := range map[string]string{
		"noFence":    "lands", // below the closed revision
		"xStale":     "at or below W",
		"xFirstPart": "at or below W",
		"awSettle":   "lost", // though it was acknowledged
		"xClaimRead": "replay says",
		"xNoDecLook": "stuck",
		"xDecFirst":  "stuck",
	} {
		t.Run(rule, func(t *testing.T) {
			if v := violation(t, 500, rule); !strings.Contains(v, how) {
				t.Errorf("got %q, want what contains %q", v, how)
			}
		})
	}
}
