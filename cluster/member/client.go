package member

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// newClient returns the client that calls the server directly.
func newClient(s *etcdserver.EtcdServer) *clientv3.Client {
	c := v3client.New(s)
	c.KV = attached{c.KV, s}
	return c
}

// attached keeps the database open while it is read. On a socket etcd stops
// taking requests before it closes its database; a call that comes afterwards
// would run into a nil pointer and take the daemon with it. A removed member
// closes it at any time.
type attached struct {
	clientv3.KV
	server *etcdserver.EtcdServer
}

// Get implements clientv3.KV. What is attached to the server is waited for
// before the database is closed, and not started any more after that.
func (a attached) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		r   *clientv3.GetResponse
		err error
	}
	ch := make(chan answer, 1)
	a.server.GoAttach(func() {
		r, err := a.KV.Get(ctx, key, opts...)
		ch <- answer{r, err}
	})
	select {
	case got := <-ch:
		return got.r, got.err
	case <-a.server.StoppingNotify():
		return nil, rpctypes.ErrStopped
	}
}
