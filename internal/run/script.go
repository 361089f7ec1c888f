package run

import (
	"context"
	"slices"
	"sync"
)

// Script is the Runner of tests: it answers calls from a list and keeps what
// was asked of it.
type Script struct {
	// Answer is called for each command. Nil answers everything with nothing.
	Answer func(c Cmd) ([]byte, error)

	mu    sync.Mutex
	calls []string
}

// Run records the call and answers it.
func (s *Script) Run(_ context.Context, c Cmd) ([]byte, error) {
	s.mu.Lock()
	s.calls = append(s.calls, c.String())
	s.mu.Unlock()
	if s.Answer == nil {
		return nil, nil
	}
	return s.Answer(c)
}

// Calls returns what was run so far, one line each.
func (s *Script) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}
