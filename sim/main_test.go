package main

import (
	"strings"
	"testing"
)

// few is how often the coordinator is lost at most: more often, and processes may need longer than a run lasts to come to an end.
const few = 2

func settings() Settings { return Settings{cross: 30, loss: 1, maxLoss: few, size: 1} }

func TestProtocolHolds(t *testing.T) {
	cross, rebuilt, watched := 0, 0, 0
	for seed := int64(1); seed <= 500; seed++ {
		w := run(seed, settings())
		if w.viol != "" {
			t.Fatalf("seed %d: %s", seed, w.viol)
		}
		rebuilt += w.rebuilds
		watched += w.watched
		for _, o := range w.landed {
			if o.cross {
				cross++
			}
		}
	}
	if cross == 0 || rebuilt == 0 || watched == 0 {
		t.Fatalf("%d transactions across members, %d rebuilt clocks, %d events for watchers: these runs show less than they should",
			cross, rebuilt, watched)
	}
}

// TestRulesAreNeeded takes rules away, one at a time, which a few seeds show to be wrong.
func TestRulesAreNeeded(t *testing.T) {
	for rule, how := range map[string]string{
		"noFence":    "",
		"xStale":     "at or below W",
		"xFirstPart": "at or below W",
		"xClaimRead": "replay says",
		"xNoDecLook": "stuck",
		"xDecFirst":  "stuck",

		// Manifests.
		"mOuter":        "",
		"mOneName":      "",
		"mLower":        "for a foreign one",
		"mSweep":        "for a foreign one",
		"mClockDown":    "replay says",
		"mCarryW":       "replay says",
		"mNames":        "",
		"mSkip":         "goes on behind the foreign revision",
		"mProgressSkip": "foreign writes unnoticed: true",
		"mLearnRev":     "replay says",
		"mOwn":          "replay says",
		"mOldEntry":     "replay says",

		// Sources and watchers.
		"mHeader":   "watcher",
		"mFragment": "watcher",
		"mProgress": "watcher",
		"mEarly":    "",
		"mProof":    "watcher",
		"mCreated":  "watcher",
		"mOrder":    "watcher",
		"mCut":      "watcher",
		"mDrain":    "watcher",
		"mCover":    "watcher",
		"mJoin":     "watcher",
		"mAsk":      "watchers behind: true",
		"mFuture":   "watchers behind: true",
		"mReplay":   "watchers behind: true",
		"mGone":     "watcher",

		// Tails.
		"mTail":        "replay says",
		"mTailR":       "replay says",
		"mHi":          "replay says",
		"mStaleRecord": "replay says",
		"mOwnTail":     "replay says",
	} {
		t.Run(rule, func(t *testing.T) {
			c := takeAway(rules[rule], settings(), 1, 500)
			t.Logf("seed %d: %s", c.seeds, c.how)
			if c.how == "" || !strings.Contains(c.how, how) {
				t.Errorf("after %d seeds: %q, want what contains %q", c.seeds, c.how, how)
			}
		})
	}
}
