package task

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Source selects tasks by whether they run.
type Source string

const (
	Active  Source = "active"
	Archive Source = "archive"
	All     Source = "all"
)

// Filter selects tasks for a list. Zero fields select everything.
type Filter struct {
	Source       Source // "" is Archive
	Type         string
	VMID         string // the id field
	User         string // part of the user's name
	Errors       bool   // only those that failed
	Since, Until time.Time
	Statuses     []string // ok, error, warning, unknown
	Start        int
	Limit        int // 0 is no limit
	// Visible tells whose tasks the caller sees; nil sees all.
	Visible func(UPID) bool
}

// List returns the tasks that f selects, newest first, and how many there are
// without Start and Limit.
func (m *Manager) List(f Filter) ([]Info, int) {
	m.mu.Lock()
	var all []Info
	if f.Source == Active || f.Source == All {
		for _, w := range m.running {
			all = append(all, Info{UPID: w.upid, Running: true})
		}
	}
	if f.Source != Active {
		all = append(all, m.ended...)
	}
	m.mu.Unlock()
	all = slices.DeleteFunc(all, func(t Info) bool { return !f.match(t) })
	slices.SortStableFunc(all, func(a, b Info) int {
		return cmp.Or(b.UPID.Time.Compare(a.UPID.Time), cmp.Compare(b.UPID.Num, a.UPID.Num))
	})
	total := len(all)
	all = all[min(max(f.Start, 0), total):]
	if f.Limit > 0 {
		all = all[:min(f.Limit, len(all))]
	}
	return all, total
}

func (f Filter) match(t Info) bool {
	u := t.UPID
	switch {
	case f.Type != "" && u.Type != f.Type,
		f.VMID != "" && u.ID != f.VMID,
		f.User != "" && !strings.Contains(u.User, f.User),
		f.Errors && (t.Running || !failed(t.Status)),
		!f.Since.IsZero() && u.Time.Before(f.Since),
		!f.Until.IsZero() && u.Time.After(f.Until),
		len(f.Statuses) > 0 && !slices.Contains(f.Statuses, kind(t)),
		f.Visible != nil && !f.Visible(u):
		return false
	}
	return true
}

func failed(status string) bool {
	return status != statusOK && !strings.HasPrefix(status, "WARNINGS")
}

// kind sorts a task into the classes of the status filter.
func kind(t Info) string {
	switch {
	case t.Running || t.Status == statusInterrupted:
		return "unknown"
	case t.Status == statusOK:
		return "ok"
	case !failed(t.Status):
		return "warning"
	}
	return "error"
}
