package storage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Factory opens the pool of one storage type.
type Factory func(Config) (Pool, error)

// Set is the storages of this node by id. A storage that cannot be opened (its
// volume group is missing, its type unknown) stays in the set and says why
// when it is asked for; the others are not concerned.
type Set struct {
	makers map[string]Factory

	mu    sync.RWMutex
	order []Config
	pools map[string]opened
}

type opened struct {
	cfg  Config
	pool Pool
	err  error
}

// NewSet opens the storages with the factory of their type.
func NewSet(configs []Config, makers map[string]Factory) *Set {
	s := &Set{makers: makers}
	s.Update(configs)
	return s
}

// Update replaces the definitions. Pools whose definition did not change are
// kept as they are; one that could not be opened is tried again.
func (s *Set) Update(configs []Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.pools
	s.pools = make(map[string]opened, len(configs))
	s.order = slices.Clone(configs)
	slices.SortFunc(s.order, func(a, b Config) int { return strings.Compare(a.ID, b.ID) })
	for _, c := range configs {
		if o, ok := old[c.ID]; ok && o.err == nil && equal(o.cfg, c) {
			s.pools[c.ID] = o
			continue
		}
		s.pools[c.ID] = s.open(c)
	}
}

func (s *Set) open(c Config) opened {
	o := opened{cfg: c}
	build, ok := s.makers[c.Type]
	switch {
	case c.Disable:
		o.err = ErrDisabled
	case !ok:
		o.err = fmt.Errorf("storage type %q is not known", c.Type)
	default:
		o.pool, o.err = build(c)
	}
	if o.err != nil {
		o.err = fmt.Errorf("open storage '%s': %w", c.ID, o.err)
	}
	return o
}

func equal(a, b Config) bool {
	if !slices.Equal(a.Content, b.Content) {
		return false
	}
	a.Content, b.Content = nil, nil
	return fmt.Sprint(a) == fmt.Sprint(b)
}

// Configs returns the definitions, ordered by id.
func (s *Set) Configs() []Config {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.order)
}

// Config returns one definition.
func (s *Set) Config(id string) (Config, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.pools[id]
	return o.cfg, ok
}

// ErrNoStorage is the error for an id that names no storage.
var ErrNoStorage = errors.New("storage does not exist")

// missing has the wording that clients know and Is that callers need.
type missing string

func (m missing) Error() string      { return fmt.Sprintf("storage '%s' does not exist", string(m)) }
func (missing) Is(target error) bool { return target == ErrNoStorage }

// Pool returns a storage's pool, or why there is none.
func (s *Set) Pool(id string) (Pool, error) {
	s.mu.RLock()
	o, ok := s.pools[id]
	s.mu.RUnlock()
	if !ok {
		return nil, missing(id)
	}
	if o.err == nil {
		return o.pool, nil
	}
	if errors.Is(o.err, ErrDisabled) {
		return nil, o.err
	}
	// What was missing may have come since (a disk, a volume group).
	o = s.open(o.cfg)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.pools[id]; ok && now.err == nil {
		return now.pool, nil
	}
	s.pools[id] = o
	return o.pool, o.err
}

// Resolve finds the pool and the name of a volume id.
func (s *Set) Resolve(volid string) (Pool, string, error) {
	id, name, err := SplitID(volid)
	if err != nil {
		return nil, "", err
	}
	p, err := s.Pool(id)
	return p, name, err
}

// Clean removes from every pool what interrupted uploads left; called once,
// before the first request.
func (s *Set) Clean() error {
	var all []error
	for _, c := range s.Configs() {
		if c.Disable {
			continue
		}
		p, err := s.Pool(c.ID)
		if err != nil {
			all = append(all, err)
		} else if u, ok := p.(Uploader); ok {
			all = append(all, u.Clean())
		}
	}
	return errors.Join(all...)
}
