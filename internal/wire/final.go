package wire

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Final is an error of the process itself, with a code that no client of a gRPC service takes for a passing fault.
type Final struct {
	Err  error
	Code codes.Code
}

func (e Final) Error() string { return e.Err.Error() }

// Unwrap returns the error.
func (e Final) Unwrap() error { return e.Err }

// GRPCStatus implements the interface that package status looks for.
func (e Final) GRPCStatus() *status.Status { return status.New(e.Code, e.Error()) }
