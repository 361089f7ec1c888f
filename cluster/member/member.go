// Package member runs this node's part of the cluster store: an etcd member
// inside the daemon. As long as the node is alone nothing of it is reachable
// from outside: no socket is opened, the client calls the server directly.
package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// Options say where the member lives.
type Options struct {
	Name string // the node's name
	Dir  string // node.EtcdDir
	Log  *slog.Logger
	// NoSync leaves writes in the page cache. Tests only: a power cut then
	// loses what was acknowledged.
	NoSync bool
}

// Member is a running etcd member.
type Member struct {
	etcd   *embed.Etcd
	client *clientv3.Client
}

const (
	// A single member elects itself when the first election timeout ends, so
	// that the timeout is what starting takes. Nobody else's latency counts;
	// membership changes will restart the member with the timeouts of a
	// network.
	tickMs, electionMs = 50, 250

	// The whole state of a cluster is a few megabytes; the quota keeps a
	// mistake from filling the state volume.
	quota = 256 << 20
	// History is kept for this many revisions, for watchers that fell behind.
	history = "1000"
	// Entries between two snapshots, and those kept in memory for members
	// that lag; the defaults are for clusters that write all the time.
	snapshotEvery, catchUp = 2000, 500
)

// Start opens the data folder, or makes a cluster of one, and returns when the
// member runs; Ready waits for it to lead.
func Start(o Options) (*Member, error) {
	cfg, err := config(o)
	if err != nil {
		return nil, err
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start cluster store: %w", err)
	}
	return &Member{etcd: e, client: v3client.New(e.Server)}, nil
}

func config(o Options) (*embed.Config, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create folder of cluster store: %w", err)
	}
	// The address names the member to itself; nobody listens there.
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg := embed.NewConfig()
	cfg.Name = o.Name
	cfg.Dir = o.Dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls = []url.URL{peer}
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(o.Dir, "in-process")}}
	cfg.InitialCluster = o.Name + "=" + peer.String()
	cfg.InitialClusterToken = "joist"
	cfg.TickMs, cfg.ElectionMs = tickMs, electionMs
	cfg.QuotaBackendBytes = quota
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModeRevision, history
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = snapshotEvery, catchUp
	cfg.MaxSnapFiles, cfg.MaxWalFiles = 2, 2
	cfg.EnableGRPCGateway = false
	cfg.UnsafeNoFsync = o.NoSync
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(o.Log))
	return cfg, nil
}

// Ready waits until the store takes reads and writes.
func (m *Member) Ready(ctx context.Context) error {
	select {
	case <-m.etcd.Server.ReadyNotify():
		return nil
	case err := <-m.etcd.Err():
		return fmt.Errorf("start cluster store: %w", err)
	case <-m.etcd.Server.StopNotify():
		return errors.New("start cluster store: it stopped")
	case <-ctx.Done():
		return fmt.Errorf("start cluster store: %w", ctx.Err())
	}
}

// Client returns the in-process client. It lives as long as the member.
func (m *Member) Client() *clientv3.Client { return m.client }

// Failed is closed when the member ends by itself, its disk failing for
// example. The daemon then has to restart.
func (m *Member) Failed() <-chan struct{} { return m.etcd.Server.StopNotify() }

// Close stops the member.
func (m *Member) Close() error {
	err := m.client.Close()
	m.etcd.Close()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("stop cluster store: %w", err)
	}
	return nil
}
