package member

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"joist/cluster/roster"
)

// Options say where the member lives and with whom it talks.
type Options struct {
	Name string // the node's name
	Dir  string // node.EtcdDir
	Log  *slog.Logger
	// Heartbeat and Election are raft's timeouts, the same on all members; 0
	// is 50 and 250 ms alone, 100 ms and 1 s with peers. Election is at least
	// five times Heartbeat.
	Heartbeat, Election time.Duration
	// Peers is nil for a node that is alone: no socket is opened then.
	Peers *Peers
	// NoSync leaves writes in the page cache. Tests only: a power cut then
	// loses what was acknowledged.
	NoSync bool
}

// Peers is the side towards other members. Both ends of a connection show a
// certificate of the cluster's CA; the end that dials also compares the name
// in the URL with the names in the certificate. The address a connection comes
// from says nothing: it may change at any time.
type Peers struct {
	Listen string // host:port; an empty host is all addresses
	URL    string // of this member, https://name:port
	// Initial is name → URL of all members, this one among them. It counts
	// only for an empty Dir; with Existing it is where to ask, and who is a
	// member is what the first of them answers.
	Initial map[string]string
	// Existing says that an empty Dir is to be filled from a cluster that
	// has added this member already; else it becomes a new cluster of
	// Initial.
	Existing bool
	// PEM files. Certificate and key are read again for each connection, so
	// that a renewal needs no restart; the CA's is read at the start.
	CertFile, KeyFile, CAFile string
}

const (
	// A single member elects itself when the first election timeout ends, so
	// that the timeout is what starting takes, and nobody else's latency
	// counts. With peers these are etcd's own, made for one data centre.
	aloneHeartbeat, aloneElection = 50 * time.Millisecond, 250 * time.Millisecond
	peersHeartbeat, peersElection = 100 * time.Millisecond, time.Second

	// placeholder names a member to itself while it is alone; nobody listens
	// there.
	placeholder = "http://127.0.0.1:2380"

	// The whole state of a cluster is a few megabytes; the quota keeps a
	// mistake from filling the state volume.
	quota = 256 << 20
	// History is kept for this many revisions, for watchers that fell behind.
	history = "1000"
	// Entries between two snapshots, and those kept in memory for members
	// that lag; the defaults are for clusters that write all the time.
	snapshotEvery, catchUp = 2000, 500
	// Every node that does not vote is a learner. The limit must be the same
	// on all members: each checks it when it applies the change.
	maxLearners = 1000
)

// withDefaults fills in the timeouts.
func (o Options) withDefaults() Options {
	h, e := aloneHeartbeat, aloneElection
	if o.Peers != nil {
		h, e = peersHeartbeat, peersElection
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = h
	}
	if o.Election == 0 {
		o.Election = e
	}
	return o
}

func config(o Options, f *fate) (*embed.Config, error) {
	if o.Name == "" || strings.ContainsAny(o.Name, "=, \t\n") {
		return nil, fmt.Errorf("bad member name %q", o.Name)
	}
	cfg := embed.NewConfig()
	cfg.Name = o.Name
	cfg.Dir = o.Dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(o.Dir, "in-process")}}
	// Members' ids are made of this and their URLs. Alone all nodes have the
	// same URL, but none may carry another one's id when clusters meet.
	cfg.InitialClusterToken = rand.Text()
	cfg.TickMs, cfg.ElectionMs = uint(o.Heartbeat.Milliseconds()), uint(o.Election.Milliseconds())
	cfg.QuotaBackendBytes = quota
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModeRevision, history
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = snapshotEvery, catchUp
	cfg.MaxSnapFiles, cfg.MaxWalFiles = 2, 2
	cfg.MaxLearners = maxLearners
	cfg.MaxTxnOps = roster.MaxTxnOps
	// etcd's own check asks for five seconds of connection to more than a
	// quorum of voters before it adds so much as a learner, so that nobody
	// could join while one of three voters is down. survives checks instead.
	cfg.StrictReconfigCheck = false
	cfg.EnableGRPCGateway = false
	cfg.UnsafeNoFsync = o.NoSync
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(o.Log, f))
	if o.Peers == nil {
		u, err := url.Parse(placeholder)
		if err != nil {
			return nil, err
		}
		cfg.AdvertisePeerUrls = []url.URL{*u}
		cfg.InitialCluster = o.Name + "=" + placeholder
		return cfg, nil
	}
	return cfg, configurePeers(cfg, o)
}

func configurePeers(cfg *embed.Config, o Options) error {
	p := o.Peers
	self, err := parsePeerURL(p.URL)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(p.Listen)
	if err != nil {
		return fmt.Errorf("bad listen address %q: %w", p.Listen, err)
	}
	if host == "" {
		host = "0.0.0.0" // Go opens one socket for both families then
	}
	cfg.ListenPeerUrls = []url.URL{{Scheme: "https", Host: net.JoinHostPort(host, port)}}
	cfg.AdvertisePeerUrls = []url.URL{*self}
	cfg.TlsMinVersion = "TLS1.3" // all members are ours
	t := &cfg.PeerTLSInfo
	t.CertFile, t.KeyFile, t.TrustedCAFile = p.CertFile, p.KeyFile, p.CAFile
	t.ClientCertAuth = true
	// Else etcd compares the address a connection comes from with the names
	// in its certificate.
	t.SkipClientSANVerify = true
	if p.CertFile == "" || p.KeyFile == "" || p.CAFile == "" {
		return errors.New("peers need a certificate, its key and the CA's certificate")
	}
	initial := p.Initial
	if hasData(o.Dir) {
		initial = map[string]string{o.Name: p.URL} // read by nobody
	} else if p.Existing {
		cfg.ClusterState = embed.ClusterStateFlagExisting
		if initial, err = ask(cfg, o); err != nil {
			return err
		}
	}
	cfg.InitialCluster, err = initialCluster(initial, o.Name, p.URL)
	return err
}

// hasData tells whether the folder holds a member (embed's own test).
func hasData(dir string) bool {
	names, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	return err == nil && len(names) > 0
}

func parsePeerURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("bad peer URL: %w", err)
	}
	if u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || strings.ContainsAny(s, ",= ") {
		return nil, fmt.Errorf("bad peer URL %q: want https://name:port", s)
	}
	return u, nil
}

func initialCluster(members map[string]string, name, own string) (string, error) {
	if members[name] != own {
		return "", fmt.Errorf("this member, %s at %s, is not among the initial ones", name, own)
	}
	list := make([]string, 0, len(members))
	for _, n := range slices.Sorted(maps.Keys(members)) {
		if _, err := parsePeerURL(members[n]); err != nil {
			return "", err
		}
		if strings.ContainsAny(n, "=, ") {
			return "", fmt.Errorf("bad member name %q", n)
		}
		list = append(list, n+"="+members[n])
	}
	return strings.Join(list, ","), nil
}

// ask returns the members there are now, by a name for each. etcd wants to be
// started with all of them, and another node may have been added since ours
// was told.
func ask(cfg *embed.Config, o Options) (map[string]string, error) {
	rt, err := roundTripper(cfg)
	if err != nil {
		return nil, err
	}
	defer closeIdle(rt)
	var urls []string
	for n, u := range o.Peers.Initial {
		if n != o.Name && u != o.Peers.URL {
			urls = append(urls, u)
		}
	}
	slices.Sort(urls)
	cl, err := etcdserver.GetClusterFromRemotePeers(zapLogger(o.Log, newFate()), urls, rt)
	if err != nil {
		return nil, fmt.Errorf("ask members of the cluster: %w", err)
	}
	members := map[string]string{}
	for _, m := range cl.Members() {
		switch {
		case len(m.PeerURLs) != 1:
			return nil, fmt.Errorf("member %s has %d URLs", m.ID, len(m.PeerURLs))
		case m.PeerURLs[0] == o.Peers.URL:
			members[o.Name] = o.Peers.URL
		default: // one that was not started yet has no name
			members["member-"+m.ID.String()] = m.PeerURLs[0]
		}
	}
	if members[o.Name] == "" {
		return nil, fmt.Errorf("%s is not a member of the cluster", o.Peers.URL)
	}
	return members, nil
}

func roundTripper(cfg *embed.Config) (http.RoundTripper, error) {
	rt, err := rafthttp.NewRoundTripper(cfg.PeerTLSInfo, time.Second+time.Duration(cfg.ElectionMs)*time.Millisecond)
	if err != nil {
		return nil, fmt.Errorf("read certificates for peers: %w", err)
	}
	return rt, nil
}

func closeIdle(rt http.RoundTripper) {
	if t, ok := rt.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create folder of cluster store: %w", err)
	}
	return nil
}
