package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watch returns a channel that is closed as soon as the process has ended,
// also when it is not our child, and a function that stops watching. It takes
// no thread: a pidfd becomes readable when its process ends, pidfd_open(2),
// and the runtime polls it with everything else.
func Watch(p Process) (<-chan struct{}, func(), error) {
	done := make(chan struct{})
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		close(done)
		return done, func() {}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("watch process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", p.PID))
	// Only now is the pid pinned; it may have been given away before.
	if !p.Alive() {
		f.Close()
		close(done)
		return done, func() {}, nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("watch process %d: %w", p.PID, err)
	}
	go func() {
		defer f.Close()
		err := raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 && err == nil
		})
		if err == nil { // otherwise the watch was stopped
			close(done)
		}
	}()
	return done, func() { f.Close() }, nil
}
