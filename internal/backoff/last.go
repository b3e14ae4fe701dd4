package backoff

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Last is the error to report of attempts under ctx that failed with err, the last of them, and with earlier ones, of which last is
// what Last returned. It is the last that was not ctx's own: an attempt that the end of ctx cut off says nothing of what it asked.
func Last(ctx context.Context, last, err error) error {
	if last == nil || ctx.Err() == nil || !ofContext(err) {
		return err
	}
	return last
}

func ofContext(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
