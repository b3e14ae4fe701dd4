package wire

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Passing reports whether an error says nothing of the request itself: the cluster, or the one server that was asked, did not answer
// it, or not in time. The same request may be answered a moment later, or by another server. What writes may have been carried out
// nevertheless.
func Passing(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests)
}
