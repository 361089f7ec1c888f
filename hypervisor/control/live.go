package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"joist/hypervisor/guest"
)

// live is one guest that runs, or did until a moment ago.
type live struct {
	kind   guest.Kind
	g      guest.Guest
	config map[string]string // what it was started with
	tidy   chan struct{}     // closed when nothing of it is left

	mu     sync.Mutex
	status guest.Status
}

func (l *live) done() bool {
	select {
	case <-l.g.Done():
		return true
	default:
		return false
	}
}

// statusWait bounds one reading; a guest that does not answer keeps its last.
const statusWait = 2 * time.Second

func (l *live) read(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	st, err := l.g.Status(ctx)
	if err != nil {
		log.Debug("read status of guest", "vmid", l.g.VMID(), "err", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status = st
}

// liveSet is the guests that run here.
type liveSet struct {
	mu    sync.RWMutex
	set   map[int]*live
	exits map[int]string
}

func newLiveSet() *liveSet { return &liveSet{set: map[int]*live{}, exits: map[int]string{}} }

func (s *liveSet) add(kind guest.Kind, g guest.Guest, config map[string]string) *live {
	l := &live{kind: kind, g: g, config: config, tidy: make(chan struct{}),
		status: guest.Status{VMID: g.VMID(), Kind: kind, State: guest.Running}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[g.VMID()] = l
	delete(s.exits, g.VMID())
	return l
}

// gone notes how a guest ended, unless it was started again.
func (s *liveSet) gone(l *live, exit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set[l.g.VMID()] == l {
		delete(s.set, l.g.VMID())
		s.exits[l.g.VMID()] = exit
	}
}

// note enters how a guest ended that was never seen running.
func (s *liveSet) note(vmid int, exit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exits[vmid] = exit
}

func (s *liveSet) forget(vmid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exits, vmid)
}

func (s *liveSet) get(vmid int) *live {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.set[vmid]; l != nil && !l.done() {
		return l
	}
	return nil
}

func (s *liveSet) running(vmid int) bool { return s.get(vmid) != nil }

func (s *liveSet) handle(vmid int) guest.Guest {
	if l := s.get(vmid); l != nil {
		return l.g
	}
	return nil
}

// status is the last reading; it never waits for the guest.
func (s *liveSet) status(vmid int) (st guest.Status, config map[string]string, exit string) {
	l := s.get(vmid)
	if l == nil {
		s.mu.RLock()
		defer s.mu.RUnlock()
		exit = s.exits[vmid]
		if l := s.set[vmid]; l != nil { // ended this moment
			exit = l.g.Exit()
		}
		return guest.Status{State: guest.Stopped, Exit: exit}, nil, exit
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	st = l.status
	if st.State == guest.Stopped { // the reading saw the end, Done comes after it
		st.State = guest.Stopping
	}
	return st, l.config, ""
}

// opened returns the handle of a running guest that has the volume open under
// that key, nil when none has: a key may name another volume by now.
func (s *liveSet) opened(vmid int, key, volid string) guest.Guest {
	if l := s.get(vmid); l != nil && volumeOf(l.kind, key, l.config[key]) == volid {
		return l.g
	}
	return nil
}

// volumes are those that a running guest has open.
func (s *liveSet) volumes(vmid int) []string {
	var out []string
	if l := s.get(vmid); l != nil {
		for _, id := range volumesOf(l.kind, l.config) {
			out = append(out, id)
		}
	}
	return out
}

func (s *liveSet) all() []*live {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*live, 0, len(s.set))
	for _, l := range s.set {
		if !l.done() {
			out = append(out, l)
		}
	}
	return out
}

// readers is how many guests are asked for their status at once.
const readers = 8

func (s *liveSet) refresh(ctx context.Context, log *slog.Logger) {
	slots := make(chan struct{}, readers)
	var wg sync.WaitGroup
	for _, l := range s.all() {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer func() { <-slots; wg.Done() }()
			l.read(ctx, log)
		}()
	}
	wg.Wait()
}

// What a guest was started with is kept in /run beside the drivers' own
// folders, so that a daemon that starts again knows what is pending.

func (c *Controller) runningFile(vmid int) string {
	return filepath.Join(c.o.RunDir, "guest-configs", strconv.Itoa(vmid)+".json")
}

func (c *Controller) writeRunning(vmid int, config map[string]string) error {
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	name := c.runningFile(vmid)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("note configuration of guest %d: %w", vmid, err)
	}
	// /run is memory: what a crash cuts short is read as absent.
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return fmt.Errorf("note configuration of guest %d: %w", vmid, err)
	}
	return nil
}

func (c *Controller) readRunning(vmid int) (map[string]string, error) {
	b, err := os.ReadFile(c.runningFile(vmid))
	if err != nil {
		return nil, err
	}
	var config map[string]string
	return config, json.Unmarshal(b, &config)
}

func (c *Controller) forgetRunning(vmid int) {
	if err := os.Remove(c.runningFile(vmid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.o.Log.Warn("remove noted configuration", "vmid", vmid, "err", err)
	}
}
