package guesttest

import (
	"context"
	"slices"
	"strings"
	"sync"

	"joist/hypervisor/storage"
)

// Pool is a storage pool whose volumes are names, /dev/<pool>/<name> when they
// are active.
type Pool struct {
	// Fail is asked before "create", "delete" and "activate" of a volume.
	Fail func(op, name string) error
	Used int64 // of its 1 TiB

	id string

	mu     sync.Mutex
	vols   map[string]storage.Volume
	active map[string]bool
}

// NewPool makes a pool that holds volumes, each with its id.
func NewPool(id string, volumes ...storage.Volume) *Pool {
	p := &Pool{id: id, vols: map[string]storage.Volume{}, active: map[string]bool{}}
	for _, v := range volumes {
		p.Put(v)
	}
	return p
}

// Put adds a volume behind everybody's back.
func (p *Pool) Put(v storage.Volume) {
	_, name, _ := strings.Cut(v.ID, ":")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.vols[name] = v
}

// Drop takes one away likewise.
func (p *Pool) Drop(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.vols, name)
}

// Get returns a volume.
func (p *Pool) Get(name string) (v storage.Volume, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok = p.vols[name]
	return v, ok
}

// IDs lists the volumes.
func (p *Pool) IDs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, v := range p.vols {
		out = append(out, v.ID)
	}
	slices.Sort(out)
	return out
}

// Active counts the active volumes.
func (p *Pool) Active() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.active)
}

// ID is the pool's id.
func (p *Pool) ID() string { return p.id }

// Status says how much of 1 TiB is free.
func (p *Pool) Status(context.Context) (storage.Status, error) {
	return storage.Status{Active: true, Total: 1 << 40, Avail: 1<<40 - p.Used}, nil
}

// List returns all volumes.
func (p *Pool) List(context.Context) ([]storage.Volume, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []storage.Volume
	for _, v := range p.vols {
		out = append(out, v)
	}
	return out, nil
}

func (p *Pool) failure(op, name string) error {
	if p.Fail == nil {
		return nil
	}
	return p.Fail(op, name)
}

// Create makes a volume; see storage.Pool.
func (p *Pool) Create(_ context.Context, s storage.Spec) (storage.Volume, error) {
	if err := p.failure("create", s.Name); err != nil {
		return storage.Volume{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.vols[s.Name]; ok {
		return storage.Volume{}, storage.ErrExists
	}
	v := storage.Volume{ID: p.id + ":" + s.Name, Size: s.Size, Format: "raw", Content: storage.Images, VMID: s.VMID}
	p.vols[s.Name] = v
	return v, nil
}

// Resize gives a volume another size.
func (p *Pool) Resize(_ context.Context, name string, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.vols[name]
	if !ok {
		return storage.ErrNotFound
	}
	v.Size = size
	p.vols[name] = v
	return nil
}

// Delete removes a volume that is not active; see storage.Pool.
func (p *Pool) Delete(_ context.Context, name string) error {
	if err := p.failure("delete", name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active[name] {
		return storage.ErrInUse
	}
	if _, ok := p.vols[name]; !ok {
		return storage.ErrNotFound
	}
	delete(p.vols, name)
	return nil
}

// Activate marks a volume; see storage.Pool.
func (p *Pool) Activate(_ context.Context, name string) (string, error) {
	if err := p.failure("activate", name); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.vols[name]; !ok {
		return "", storage.ErrNotFound
	}
	p.active[name] = true
	return "/dev/" + p.id + "/" + name, nil
}

// Deactivate takes the mark away.
func (p *Pool) Deactivate(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.active, name)
	return nil
}

var _ storage.Pool = (*Pool)(nil)
