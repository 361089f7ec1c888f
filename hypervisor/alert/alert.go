// Package alert collects what is wrong with a node: each part that watches
// something sets what it sees, and API and dashboard show all of it until it is
// over.
package alert

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"joist/api/node"
)

// Levels.
const (
	Warning = "warning"
	Error   = "error"
)

// Board holds the alerts. It is safe for use by several goroutines.
type Board struct {
	File string // node.AlertFile, for the dashboard
	Now  func() time.Time

	mu      sync.Mutex
	sources map[string][]node.Alert
}

// Set replaces the alerts of one source. One that was there before keeps the
// time since which it is so. The file is written when something has changed.
func (b *Board) Set(source string, list []node.Alert) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.sources[source]
	now := make([]node.Alert, 0, len(list))
	for _, a := range list {
		a.Since = b.Now().Unix()
		for _, old := range before {
			if old.Code == a.Code && old.Path == a.Path {
				a.Since = old.Since
			}
		}
		now = append(now, a)
	}
	if b.sources != nil && slices.Equal(now, before) {
		return nil
	}
	if b.sources == nil {
		b.sources = map[string][]node.Alert{}
	}
	b.sources[source] = now
	if err := node.WriteJSON(b.File, 0o644, b.list()); err != nil {
		return fmt.Errorf("show alerts: %w", err)
	}
	return nil
}

// List returns all alerts, errors first.
func (b *Board) List() []node.Alert {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.list()
}

func (b *Board) list() []node.Alert {
	out := []node.Alert{}
	for _, source := range slices.Sorted(maps.Keys(b.sources)) {
		out = append(out, b.sources[source]...)
	}
	slices.SortStableFunc(out, func(x, y node.Alert) int { return rank(x.Level) - rank(y.Level) })
	return out
}

func rank(level string) int {
	if level == Error {
		return 0
	}
	return 1
}
