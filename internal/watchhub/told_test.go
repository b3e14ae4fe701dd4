package watchhub

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestWatchFromNowBeginsAboveItsHeader: what follows the revision of Created comes, all of it and nothing else, though writes that
// were told of are not closed yet.
func TestWatchFromNowBeginsAboveItsHeader(t *testing.T) {
	f := setup(t, Options{})
	f.src.set(func(f *fakeSource) { f.held = true })
	c := f.open()
	f.src.commit(put("k", "2"))
	f.src.set(func(f *fakeSource) { f.told = f.highest })
	now := c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 1})
	require.EqualValues(t, 2, now.Header.Revision)
	f.src.commit(put("k", "3"))
	past := c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2, WatchId: 2})
	require.EqualValues(t, 2, past.Header.Revision, "the present revision, as far as anybody was told")
	future := c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 99, WatchId: 3})
	require.EqualValues(t, 2, future.Header.Revision)
	f.src.release()
	got := map[int64][]string{}
	for len(got[1]) < 1 || len(got[2]) < 2 {
		r := c.recv()
		got[r.WatchId] = append(got[r.WatchId], show(r)...)
	}
	require.Equal(t, map[int64][]string{1: {"PUT k=3"}, 2: {"PUT k=2", "PUT k=3"}}, got)
}

// TestWatchFromNowIsNotCompacted: another process has compacted at a revision that this one has not closed yet.
func TestWatchFromNowIsNotCompacted(t *testing.T) {
	f := setup(t, Options{})
	f.src.set(func(f *fakeSource) { f.held = true })
	f.src.commit(put("k", "2"))
	f.src.commit(put("k", "3"))
	f.src.set(func(f *fakeSource) { f.compacted = 3 })
	c := f.open()
	created := c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	require.EqualValues(t, 3, created.Header.Revision, "clients resume from there: it must not be compacted")
	c.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 3, WatchId: 5})
	f.src.commit(put("k", "4"))
	f.src.release()
	seen := map[int64][]string{}
	for len(seen[0]) < 1 || len(seen[5]) < 2 {
		r := c.recv()
		require.False(t, r.Canceled, "%v", r)
		seen[r.WatchId] = append(seen[r.WatchId], show(r)...)
	}
	require.Equal(t, []string{"PUT k=4"}, seen[0])
	require.Equal(t, []string{"PUT k=3", "PUT k=4"}, seen[5])
}

// TestProgressCoversWhatWasTold: no notification says less than what the client was told before it asked, or before the interval had
// passed; and somebody is told to close what it waits for.
func TestProgressCoversWhatWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		c := f.openFor(3 * time.Hour)
		c.watch(&pb.WatchCreateRequest{Key: []byte("k"), ProgressNotify: true, WatchId: 1})
		got := c.background()
		f.src.set(func(f *fakeSource) { f.held = true })
		told := f.src.commit(put("other", "2"))
		f.src.set(func(f *fakeSource) { f.told = told })
		c.send(progressReq())
		synctest.Wait()
		require.Empty(t, got)
		require.EqualValues(t, told, f.src.count(func(f *fakeSource) int { return int(f.awaited) }))
		f.src.release()
		require.Equal(t, told, (<-got).Header.Revision)

		f.src.set(func(f *fakeSource) { f.held, f.told = true, told+1 })
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		require.Empty(t, got)
		require.EqualValues(t, told+1, f.src.count(func(f *fakeSource) int { return int(f.awaited) }))
		f.src.set(func(f *fakeSource) { f.held = false })
		f.src.commit(put("other", "3"))
		r := <-got
		require.True(t, isProgress(r))
		require.EqualValues(t, 1, r.WatchId)
		require.Equal(t, told+1, r.Header.Revision)
	})
}

// TestAnswersCoverWhatWasTold: so do the headers of cancellations and refusals.
func TestAnswersCoverWhatWasTold(t *testing.T) {
	f := setup(t, Options{})
	f.src.set(func(f *fakeSource) { f.told = 7 })
	c := f.open()
	require.EqualValues(t, 7, c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 1}).Header.Revision)
	require.EqualValues(t, 7, c.watch(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 1}).Header.Revision, "refused")
	c.send(cancelReq(1))
	require.EqualValues(t, 7, c.recv().Header.Revision)
}

// TestPassed: the log may forget what was queued for the watchers that keep up, and nothing above.
func TestPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, Options{})
		c := f.open()
		c.watch(&pb.WatchCreateRequest{Key: []byte("k")})
		synctest.Wait()
		f.src.set(func(f *fakeSource) { f.silent = true }) // the dispatcher is a moment behind
		f.src.commit(put("k", "2"))
		synctest.Wait()
		passed := func(f *fakeSource) int { return int(f.passed) }
		require.EqualValues(t, 1, f.src.count(passed))
		f.src.release()
		synctest.Wait()
		require.EqualValues(t, 2, f.src.count(passed))
		require.Equal(t, []string{"PUT k=2"}, c.events(1))
	})
}
