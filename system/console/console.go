// Package console writes to every console of the machine at once and never
// waits for one of them: a serial line held by flow control must not stop a
// boot. Messages that a console cannot take in time are dropped there.
package console

import (
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Names returns the consoles the kernel writes to, by tty name, the preferred
// one last. active is the content of /sys/class/tty/console/active; fallback
// (console= of the command line) serves when it is empty.
func Names(active string, fallback []string) []string {
	names := strings.Fields(active)
	if len(names) == 0 {
		names = fallback
	}
	if len(names) == 0 {
		names = []string{"tty0"}
	}
	var out []string
	for _, n := range names {
		// tty0 is "the terminal shown now"; programs get the first one.
		if n == "tty0" {
			n = "tty1"
		}
		if !contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Active reads the names for this machine.
func Active(fallback []string) []string {
	b, _ := os.ReadFile("/sys/class/tty/console/active")
	return Names(string(b), fallback)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// Set is a group of consoles as one writer.
type Set struct {
	mu    sync.Mutex
	muted bool
	to    []*line
}

type line struct {
	name  string
	queue chan []byte
	busy  sync.WaitGroup

	mu sync.Mutex
	f  *os.File
}

// Open opens the consoles that can be opened. With none, messages are
// dropped: a machine without any console must still boot.
func Open(names []string) *Set {
	s := &Set{}
	for _, n := range names {
		l := &line{name: n, queue: make(chan []byte, 256)}
		if l.open() != nil {
			continue
		}
		go l.run()
		s.to = append(s.to, l)
	}
	return s
}

func (l *line) open() error {
	// Without O_NOCTTY a session leader without terminal would make this its
	// controlling one and die with it.
	f, err := os.OpenFile("/dev/"+l.name, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
	}
	l.f = f
	return nil
}

func (l *line) file() *os.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f
}

// run writes what is queued. When a log-in session ends, the kernel hangs its
// terminal up for all who have it open (tty_ioctl(4), vhangup(2)): then it is
// opened anew.
func (l *line) run() {
	for b := range l.queue {
		if _, err := l.file().Write(b); err != nil && l.open() == nil {
			l.file().Write(b)
		}
		l.busy.Done()
	}
}

// Write queues p for every console.
func (s *Set) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.muted {
		return len(p), nil
	}
	b := append([]byte(nil), p...)
	for _, l := range s.to {
		l.busy.Add(1)
		select {
		case l.queue <- b:
		default:
			l.busy.Done()
		}
	}
	return len(p), nil
}

// Mute drops messages while something else owns the screens.
func (s *Set) Mute(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = on
}

// Flush waits until everything is written, at most d.
func (s *Set) Flush(d time.Duration) {
	done := make(chan struct{})
	go func() {
		for _, l := range s.to {
			l.busy.Wait()
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}

// Enter returns when somebody presses Enter on one of the consoles, and which
// one it is, or when ctx ends; true says it was a person. What was typed
// before does not count: lines echo, and people press keys while they wait.
func (s *Set) Enter(ctx context.Context) (name string, ok bool) {
	pressed := make(chan string, len(s.to))
	for _, l := range s.to {
		Discard(int(l.file().Fd()))
		go func() {
			if l.enter(ctx) {
				pressed <- l.name
			}
		}()
	}
	select {
	case name := <-pressed:
		return name, true
	case <-ctx.Done():
		return "", false
	}
}

// enter reads until there is a line's end.
func (l *line) enter(ctx context.Context) bool {
	b := make([]byte, 64)
	for ctx.Err() == nil {
		n, err := l.file().Read(b)
		if strings.ContainsAny(string(b[:n]), "\r\n") {
			return true
		}
		if err != nil && err != io.EOF {
			return false
		}
		if n == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	return false
}
