package task

import "context"

// Log is what a running task writes to. Lines appear to readers at once.
type Log interface {
	Printf(format string, args ...any)
	// Warnf also makes the task end as "WARNINGS: n" instead of "OK".
	Warnf(format string, args ...any)
}

// Spec describes a task before it starts.
type Spec struct {
	Type string // qmstart, vzcreate, imgcopy …
	ID   string // VMID, volume or ""
	User string
}

// Func is a task's work. Its error's text becomes the exit status.
type Func func(ctx context.Context, log Log) error

// Starter starts tasks. The task can be looked up by its UPID before Start
// returns; ctx of the Func ends when the task is stopped, not with the
// request that started it.
type Starter interface {
	Start(s Spec, f Func) (UPID, error)
}
