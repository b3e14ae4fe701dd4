package mergedlog

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/metaetcd/metaetcd/internal/record"
)

// TestSettled: a member is settled where its fence is, whatever the others do, unless locks were held there.
func TestSettled(t *testing.T) {
	ctx, cancel := bounded()
	defer cancel()
	l := testLog(t, 2)
	settled := func(member int, r int64) <-chan error {
		done := make(chan error, 1)
		go func() { done <- l.WaitSettled(ctx, member, r) }()
		return done
	}
	require.NoError(t, l.WaitSettled(ctx, 0, 5), "it is closed")
	early, other := settled(0, 7), settled(1, 7)
	require.NoError(t, l.Append(0, at(11, fenceRec(1, 7))))
	require.NoError(t, <-early)
	require.EqualValues(t, 5, l.Closed())
	_, err := l.SettledSnapshot(7, []int{0, 1}, []byte{0}, []byte{0})
	require.ErrorIs(t, err, ErrNotClosed)
	_, err = l.SettledSnapshot(7, []int{0}, []byte{0}, []byte{0})
	require.NoError(t, err)
	_, err = l.SettledSnapshot(4, []int{0}, []byte{0}, []byte{0})
	require.ErrorIs(t, err, ErrEvicted, "below the log's start")

	// The part of the transaction that holds the lock may have a stamp below the fence; that of a later lock has not.
	holder := func(n byte) []byte { return record.Holder{ID: record.TxnID{n}}.Value() }
	require.NoError(t, l.Append(0, at(12, rec(record.SlotKey(0), holder(1)))))
	require.NoError(t, l.Append(0, at(13, fenceRec(1, 9))))
	locked := settled(0, 9)
	_, err = l.SettledSnapshot(9, []int{0}, []byte{0}, []byte{0})
	require.ErrorIs(t, err, ErrNotClosed)
	require.NoError(t, l.Append(0, at(14, slotRec(8), rec(record.SlotKey(1), holder(2)))))
	require.NoError(t, <-locked)

	require.NoError(t, l.Append(1, at(11, fenceRec(1, 7))))
	require.NoError(t, <-other)
	gone, leave := context.WithCancel(ctx)
	leave()
	require.ErrorIs(t, l.WaitSettled(gone, 0, 10), context.Canceled)
	last := settled(0, 10)
	end := errors.New("over")
	l.Fail(end)
	require.ErrorIs(t, <-last, end)
}
