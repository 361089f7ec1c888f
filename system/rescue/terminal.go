package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"joist/system/console"
)

// ErrIdle is how a shell ends at which nobody types any more.
var ErrIdle = errors.New("nobody typed anything")

// terminal reads lines from a terminal, with editing and history.
type terminal struct {
	tty  *os.File
	edit *term.Terminal
	idle time.Duration
}

// OnTerminal runs a shell on a terminal until a person leaves it, or types
// nothing for idle (0: no matter how long). What is no terminal is read line
// by line.
func OnTerminal(ctx context.Context, s *Shell, tty *os.File, idle time.Duration) error {
	t := &terminal{tty: tty, idle: idle}
	t.edit = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys{tty}, tty}, "")
	console.Cooked(int(tty.Fd()), true)
	defer console.Cooked(int(tty.Fd()), true)
	err := s.Run(ctx, t, tty, tty, tty)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Line reads one line in raw mode; commands run in the terminal's own.
func (t *terminal) Line(prompt string) (string, error) {
	fd := int(t.tty.Fd())
	cols, rows, err := term.GetSize(fd)
	if err != nil || cols == 0 || rows == 0 { // a serial line says 0 x 0
		cols, rows = 80, 24
	}
	if err := t.edit.SetSize(cols, rows); err != nil {
		return "", err
	}
	if old, err := term.MakeRaw(fd); err == nil {
		defer term.Restore(fd, old)
	}
	t.edit.SetPrompt(prompt)
	type result struct {
		line string
		err  error
	}
	typed := make(chan result, 1)
	go func() {
		line, err := t.edit.ReadLine()
		typed <- result{line, err}
	}()
	var over <-chan time.Time
	if t.idle > 0 {
		timer := time.NewTimer(t.idle)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case r := <-typed:
		return r.line, r.err
	case <-over:
		return "", ErrIdle
	}
}

// Interrupts ends a command at Ctrl-C, which the terminal turns into SIGINT
// for the process whose controlling terminal it is.
func (t *terminal) Interrupts(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt)
}

// keys makes Ctrl-C at the prompt what it is in other shells: it drops the
// line (Ctrl-U), where the editor would take it for the end of input.
type keys struct{ r io.Reader }

func (k keys) Read(b []byte) (int, error) {
	n, err := k.r.Read(b)
	for i, c := range b[:n] {
		if c == 0x03 {
			b[i] = 0x15
		}
	}
	return n, err
}

// TakeTerminal opens a terminal and makes it the controlling one of this
// process, which becomes the leader of a session if it is none.
func TakeTerminal(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("take terminal: %w", err)
	}
	unix.Setsid()                                    // fails for who leads one already
	unix.IoctlSetInt(int(f.Fd()), unix.TIOCSCTTY, 1) // without it Ctrl-C does nothing, the rest works
	unix.IoctlSetPointerInt(int(f.Fd()), unix.TIOCSPGRP, unix.Getpgrp())
	return f, nil
}
