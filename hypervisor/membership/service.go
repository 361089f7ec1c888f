// Package membership makes a node one of a cluster and keeps it so: it drives
// joins, leaves and recoveries over cuts and restarts, runs the node's member
// of the store, decides who votes, and looks after certificates, addresses and
// the names of peers. A node that never had to do with others is a cluster of
// one without a socket, a key or a certificate.
package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"joist/api/node"
	"joist/cluster/join"
	"joist/cluster/member"
	"joist/cluster/peer"
	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/hypervisor/storage"
	"joist/internal/finding"
)

// Options say who the node is and where its things lie.
type Options struct {
	Name           string
	InstallationID string
	Version        string // of Joist
	Dir            string // node.ClusterDir
	StoreDir       string // node.EtcdDir
	Hosts          string // /etc/hosts
	PeerListen     string // host:port of the store's member, ":2380"
	APIPort        int    // of every node
	// Heartbeat and Election are what this machine needs of the store's
	// timeouts; a cluster that it founds gets them. 0: those of a data centre.
	Heartbeat, Election time.Duration
	Addresses           func() []string // of this node, the best first
	Interface           func() string   // the link that nodes announce themselves on
	// Storages opens storages on this node, before there is a store to read
	// them from.
	Storages func([]storage.Config) *storage.Set
	NoSync   bool // tests only, see member.Options
	Now      func() time.Time
	Log      *slog.Logger
}

// Guests is what the rest of the node knows and a join must.
type Guests interface {
	Volumes(ctx context.Context) ([]string, error) // ids of all on its storages
	Running() []int                                // VMIDs
}

// Service is the node's part in a cluster.
type Service struct {
	o       Options
	files   folder
	journal join.File
	runner  *join.Runner
	guests  Guests

	member *member.Member
	store  *store.Etcd
	id     *peer.Identity // nil outside of a cluster
	book   *peer.Book
	client *peer.Client
	feed   *peer.Feed
	watch  *peer.Watcher
	voter  *join.Voter

	attached chan struct{}   // closed when an operation has opened the store
	driven   *driving        // the Run at start, if it goes on beside the daemon
	life     context.Context // ends with the daemon; of Start
	// placeless: the store has no place for this node's member yet; what is
	// open is the old copy.
	placeless bool
	isCopy    bool          // the store is a copy of what the node knew last
	restart   chan struct{} // the daemon is to begin anew
	once      sync.Once

	founding  sync.Mutex // held while the node becomes a cluster
	beginning sync.Mutex // held while an operation is noted

	mu    sync.Mutex
	under under
	last  Last
	lost  map[string]time.Time // since when nodes are away
}

// driving is a Run in a goroutine of its own.
type driving struct {
	stop  context.CancelFunc
	ended chan struct{} // closed at its end, when the rest is set
	next  join.Place
	err   error
}

// Last is how the last operation ended, or how the one under way stands.
type Last struct {
	Kind     join.Kind    `json:"kind,omitempty"`
	State    join.State   `json:"state,omitempty"`
	At       time.Time    `json:"at,omitzero"`
	Reason   string       `json:"reason,omitempty"`   // why it came to nothing
	Error    string       `json:"error,omitempty"`    // what it waits for
	Findings finding.List `json:"findings,omitempty"` // what stood against it
}

// readyAlone is how long a single member may take to elect itself.
const readyAlone = time.Minute

// Open does what an operation under way has to do before the store is open,
// and opens the store: the node's own, or its part of the cluster's. Without a
// quorum it returns all the same, with what this node knew last.
func Open(ctx context.Context, o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Service{o: o, files: folder{o.Dir, o.StoreDir}, feed: peer.NewFeed(),
		attached: make(chan struct{}), restart: make(chan struct{}), lost: map[string]time.Time{}}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open membership: %w", err)
	}
	s.journal = join.File(s.files.path(opFile))
	s.runner = &join.Runner{Journal: s.journal, Machine: machine{s}, Peers: peers{s}, Door: join.NewDoor(s.self, o.Now), Log: o.Log, Now: o.Now, Changed: s.changed}
	s.readLast()
	if err := s.finishFounding(); err != nil {
		return nil, err
	}
	if err := s.takeRequest(); err != nil {
		return nil, err
	}
	if err := s.identify(); err != nil {
		return nil, err
	}
	if err := s.drive(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// placeWait is how long the start of the daemon waits for a place that only
// others can give. The API must not be away because they are.
const placeWait = 15 * time.Second

// drive runs the operation under way up to where it needs the whole daemon.
func (s *Service) drive(ctx context.Context) error {
	run, stop := context.WithCancel(ctx)
	d := &driving{stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(d.ended)
		d.next, d.err = s.runner.Run(run, join.Closed)
	}()
	patience := time.NewTimer(placeWait)
	defer patience.Stop()
	for {
		select {
		case <-s.attached:
			s.driven = d // it goes on beside the daemon
			return nil
		case <-d.ended:
			return s.driveOn(ctx, d)
		case <-patience.C:
		}
		// Of all that is done before the store is open only this waits for
		// others; the old copy is in place, or lies aside.
		if o, err := s.journal.Load(); err == nil && o != nil && o.Kind == join.Demote {
			stop()
			<-d.ended
			select {
			case <-s.attached: // at the last moment
				s.driven = d
				return nil
			default:
			}
			s.placeless = true
			s.o.Log.Warn("nobody is there to take this node back: going on with what it knew last")
			return s.openCopy(ctx)
		}
	}
}

// driveOn opens the store after an operation, or what of it comes before.
func (s *Service) driveOn(ctx context.Context, d *driving) error {
	select {
	case <-s.attached: // both at once
		s.driven = d
		return nil
	default:
	}
	d.stop()
	if d.err != nil {
		return fmt.Errorf("go on with an operation of the cluster: %w", d.err)
	}
	return s.openStore(ctx)
}

// openStore starts the member as it was last.
func (s *Service) openStore(ctx context.Context) error {
	if s.isRemoved() {
		return s.openCopy(ctx)
	}
	o := s.memberOptions(nil, false)
	err := s.openMember(ctx, o)
	if !errors.Is(err, member.ErrRemoved) {
		return err
	}
	// It was removed while it was away: either this node comes back with a new
	// place, or what it knew last is all it has.
	if under, err := s.journal.Load(); err != nil {
		return err
	} else if under == nil {
		if err := join.Begin(s.journal, join.Op{Kind: join.Demote}, s.o.Now()); err != nil {
			return err
		}
		return s.drive(ctx)
	}
	return s.openCopy(ctx)
}

// copySuffix makes the name of a store that is a copy to read from.
const copySuffix = ".copy"

// openCopy opens what the node knew last, from the files of its member that
// cannot run any more. What is written to it is lost at the next start: the API
// refuses changes meanwhile.
func (s *Service) openCopy(ctx context.Context) error {
	from := s.o.StoreDir
	if aside := from + asideSuffix; exists(aside) { // what is in its place is a try that has nothing yet
		from = aside
	}
	items, err := member.Salvage(from, prefix)
	if err != nil {
		return err
	}
	o := s.memberOptions(nil, false)
	o.Dir, o.Peers, o.NoSync, o.Heartbeat, o.Election = s.o.StoreDir+copySuffix, nil, true, 0, 0
	if err := os.RemoveAll(o.Dir); err != nil {
		return err
	}
	if err := s.openMember(ctx, o); err != nil {
		return err
	}
	s.isCopy = true
	return store.Restore(ctx, s.store, items)
}

func (s *Service) openMember(ctx context.Context, o member.Options) error {
	m, err := member.Start(o)
	if err != nil {
		return err
	}
	wait := readyAlone
	if s.id != nil {
		// An election takes one timeout or two, on top of the connections.
		wait = 4*o.Election + 2*time.Second
	}
	ready, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err = m.Ready(ready)
	switch {
	case err == nil:
	case s.id == nil || ctx.Err() != nil || errors.Is(err, member.ErrRemoved):
		return errors.Join(err, m.Close())
	default:
		s.o.Log.Warn("the cluster cannot be reached: going on with what this node knew last", "err", err)
	}
	s.member = m
	s.useStore()
	return nil
}

func (s *Service) useStore() {
	s.store = store.NewEtcd(s.member.Client(), store.WithQuorum(s.member)).OrLocal()
}

// memberOptions describe this node's member; initial and existing count for an
// empty folder only.
func (s *Service) memberOptions(initial map[string]string, existing bool) member.Options {
	o := member.Options{Name: s.o.Name, Dir: s.o.StoreDir, Log: s.o.Log, NoSync: s.o.NoSync}
	if s.id == nil {
		return o
	}
	if set, err := s.files.settings(); err == nil {
		o.Heartbeat, o.Election = time.Duration(set.HeartbeatMs)*time.Millisecond, time.Duration(set.ElectionMs)*time.Millisecond
	}
	if initial == nil {
		initial = map[string]string{s.o.Name: roster.PeerURL(s.o.Name)}
	}
	o.Peers = &member.Peers{Listen: s.o.PeerListen, URL: roster.PeerURL(s.o.Name), Initial: initial, Existing: existing,
		CertFile: s.id.Path(peer.CertFile), KeyFile: s.id.Path(peer.KeyFile), CAFile: s.id.Path(peer.CAFile)}
	return o
}

// identify opens the node's certificates and what it knows of its peers; a
// node in no cluster has none.
func (s *Service) identify() (err error) {
	s.id, s.client, s.watch = nil, nil, nil
	file := s.files.path(idDir, peersFile)
	if !s.files.member() {
		file = s.files.path(peersFile)
	} else if s.id, err = peer.OpenIdentity(s.files.path(idDir)); err != nil {
		return fmt.Errorf("open membership: %w", err)
	}
	if s.book, err = peer.OpenBook(s.o.Name, file, s.o.Log); err != nil {
		return fmt.Errorf("open membership: %w", err)
	}
	if s.id != nil {
		s.client = peer.NewClient(s.book, s.id, s.o.APIPort)
		s.watch = peer.NewWatcher(s.book, s.client, s.o.Log)
	}
	return s.writeHosts()
}

func (s *Service) writeHosts() error {
	lines := ""
	if s.id != nil {
		lines = s.book.Hosts()
	}
	return peer.WriteHosts(s.o.Hosts, lines)
}

// takeRequest makes the join that the installer asked for an operation, and
// erases the request: the token is in the journal then, and nowhere else.
func (s *Service) takeRequest() error {
	name := s.files.path("request.json")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var r node.JoinRequest
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return fmt.Errorf("read request to join: %w", err)
	}
	err = join.Begin(s.journal, join.Op{Kind: join.Join, Ask: &join.Ask{Address: r.Address, Token: r.Token, Fingerprint: r.Fingerprint, Patient: true}}, s.o.Now())
	if err != nil { // a bad answer must not keep the node from starting
		s.o.Log.Error("join as the installation asked", "err", err)
		s.setLast(Last{Kind: join.Join, State: join.Gone, At: s.o.Now(), Reason: err.Error()})
	}
	return os.Remove(name)
}

func (s *Service) self() (join.Self, error) {
	return join.Self{Name: s.o.Name, InstallationID: s.o.InstallationID, Version: s.o.Version, StoreProg: member.Version(), Addresses: s.o.Addresses()}, nil
}

// changed notes how an operation goes.
func (s *Service) changed(o join.Op, err error) {
	l := Last{Kind: o.Kind, State: o.State, At: s.o.Now().UTC(), Reason: o.Reason, Findings: o.Findings}
	if err != nil {
		l.Error = err.Error()
	}
	s.setLast(l)
}

func (s *Service) setLast(l Last) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = l
	if l.State.End() {
		if err := node.WriteJSON(s.files.path(lastFile), 0o600, l); err != nil {
			s.o.Log.Warn("keep the end of an operation", "err", err)
		}
	}
}

func (s *Service) readLast() {
	b, err := os.ReadFile(s.files.path(lastFile))
	if err == nil {
		err = json.Unmarshal(b, &s.last)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.o.Log.Warn("read the end of the last operation", "err", err)
	}
}

// Last returns how the last operation ended or the one under way stands.
func (s *Service) Last() Last {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Store is the node's or the cluster's store.
func (s *Service) Store() *store.Etcd { return s.store }

// Failed is closed when the store has ended by itself.
func (s *Service) Failed() <-chan struct{} { return s.member.Failed() }

// Restart is closed when the daemon has to begin anew, on another store. The
// guests have nothing to do with it.
func (s *Service) Restart() <-chan struct{} { return s.restart }

// isRemoved reports whether the cluster has no place for this node any more.
func (s *Service) isRemoved() bool { return exists(s.files.path(idDir, removedFile)) }

// busy says why nothing of this node can be changed right now: what a join or
// leave takes along must stay what it was told.
func (s *Service) busy() error {
	o, err := s.journal.Load()
	if err != nil || o == nil {
		return err
	}
	switch o.State {
	case join.Asked, join.Settled, join.Restored:
		return nil
	}
	return fmt.Errorf("a %s of this node is under way (%s): changes wait until it is done", o.Kind, o.State)
}

func (s *Service) askRestart() { s.once.Do(func() { close(s.restart) }) }

// Close ends the store.
func (s *Service) Close() error {
	if s.driven != nil {
		s.driven.stop()
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.member == nil {
		return nil
	}
	return s.member.Close()
}
