package member

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge hands etcd's log to slog, from warnings on: etcd says at "info" what
// it does all day. What etcd tells about its own end nowhere else goes to fate.
type bridge struct {
	log    *slog.Logger
	fate   *fate
	fields []zapcore.Field
}

// fate is how a member came to its end.
type fate struct {
	removed atomic.Bool
	closing atomic.Bool   // it was asked to end
	broken  chan struct{} // closed at the first fatal error
	once    sync.Once
}

func newFate() *fate { return &fate{broken: make(chan struct{})} }

// OnWrite ends the goroutine that met a fatal error (a log that cannot be
// written). The rest of etcd then waits for it for ever, so that somebody has
// to be told.
func (f *fate) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) {
	f.once.Do(func() { close(f.broken) })
	runtime.Goexit()
}

func zapLogger(log *slog.Logger, f *fate) *zap.Logger {
	return zap.New(bridge{log: log.With("part", "etcd"), fate: f}, zap.WithFatalHook(f))
}

// removedMessage is the line after which etcd ends because other members said
// that this one was removed (etcdserver/server.go, run). It has no other sign
// for a member that was away when it happened.
const removedMessage = "data-dir used by this member must be removed"

// closedMessage is an error, except when the sockets are closed on purpose.
const closedMessage = "setting up serving from embedded etcd failed."

func (b bridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (b bridge) With(f []zapcore.Field) zapcore.Core {
	b.fields = append(b.fields[:len(b.fields):len(b.fields)], f...)
	return b
}

// usual is what etcd warns of although it is as it should be.
func usual(msg string) bool {
	switch msg {
	// No client socket is opened, no password is kept, and a new store has no
	// schema version before its first snapshot.
	case "Running http and grpc server on single port. This is not recommended for production.",
		"simple token is not cryptographically signed",
		"Failed to detect schema version",
		"failed to update storage version",
		"skipped attributes update of removed member": // its log is read again
		return true
	// A read after the end, which has its error.
	case "server has stopped; skipping GoAttach":
		return true
	// Said again and again while another node or the quorum is away; the
	// daemon says it once.
	// What stays is "peer became inactive".
	case "prober detected unhealthy status",
		"lost TCP streaming connection with remote peer",
		"closed TCP streaming connection with remote peer",
		"rejected stream from remote peer because it was removed",
		"failed to publish local member to cluster through raft",
		"stopped publish because server is stopping",
		"waiting for ReadIndex response took too long, retrying",
		"timed out waiting for read index response (local node might have slow network)",
		"ignored out-of-date read index response; local node read indexes queueing up and waiting to be in sync with leader",
		"failed to get version",
		"failed to reach the peer URL":
		return true
	// An answer to Promote, which its caller passes on.
	case "rejecting promote learner: learner is not ready":
		return true
	}
	return false
}

func (b bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Message == removedMessage {
		b.fate.removed.Store(true)
	}
	if e.Message == closedMessage && b.fate.closing.Load() {
		return c
	}
	if b.Enabled(e.Level) && !usual(e.Message) {
		return c.AddCore(e, b)
	}
	return c
}

func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range append(b.fields[:len(b.fields):len(b.fields)], fields...) {
		f.AddTo(m)
	}
	args := make([]any, 0, 2*len(m.Fields))
	for k, v := range m.Fields {
		args = append(args, k, v)
	}
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	b.log.Log(context.Background(), level, e.Message, args...)
	return nil
}

func (bridge) Sync() error { return nil }
