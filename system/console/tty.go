package console

import (
	"golang.org/x/sys/unix"
)

// Discard forgets what was typed on the terminal and not read yet.
func Discard(fd int) { unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) }

// Cooked sets a terminal to what a log-in or a shell expects, whatever its
// last user left (termios(3)): lines with editing, signals from Ctrl-C,
// newlines for carriage returns both ways. Without echo nothing that is typed
// shows. What is no terminal is left alone.
func Cooked(fd int, echo bool) {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return
	}
	cooked(t, echo)
	unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func cooked(t *unix.Termios, echo bool) {
	t.Iflag &^= unix.IGNCR | unix.INLCR | unix.IGNBRK
	t.Iflag |= unix.ICRNL | unix.IXON
	t.Oflag |= unix.OPOST | unix.ONLCR
	t.Cflag |= unix.CREAD | unix.CLOCAL
	t.Lflag &^= unix.ECHO | unix.ECHONL
	t.Lflag |= unix.ICANON | unix.ISIG | unix.IEXTEN | unix.ECHOE | unix.ECHOK
	if echo {
		t.Lflag |= unix.ECHO
	}
}
