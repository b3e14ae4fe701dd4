package clock

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/metaetcd/metaetcd/internal/request"
)

func put(key string, value []byte) *pb.RequestOp {
	return request.Put(&pb.PutRequest{Key: []byte(key), Value: value})
}

func valueIs(key string, value []byte) *pb.Compare { return request.ValueIs([]byte(key), value) }

func absent(key string) *pb.Compare { return request.Absent([]byte(key), nil) }

// readDigits and readRecords end the clock's transactions. They are shared by all requests.
var (
	readDigits = request.Range(&pb.RangeRequest{
		Key: []byte(digitPrefix), RangeEnd: []byte(digitEnd), KeysOnly: true,
	})
	readRecords = request.Range(&pb.RangeRequest{Key: []byte(clockPrefix), RangeEnd: []byte(clockEnd)})
)
