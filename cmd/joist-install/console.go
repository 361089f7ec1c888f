package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"joist/internal/progress"
)

// console is one terminal. Reading and echo go through it, so that the same
// wizard works on a screen and on a serial line.
type console struct {
	name string
	in   *bufio.Reader
	out  io.Writer
	file *os.File // for echo and size
}

// openConsoles opens the named terminals; those that are not there are left
// out, as a kernel argument may name a port that the machine lacks. Without
// names it is the terminal we run on.
func openConsoles(names string) ([]*console, error) {
	if names == "" {
		return []*console{{name: "this terminal", in: bufio.NewReader(os.Stdin), out: os.Stdout, file: os.Stdin}}, nil
	}
	var out []*console
	var errs []error
	for n := range strings.SplitSeq(names, ",") {
		if strings.Contains(n, "..") || n == "" || n[0] == '/' {
			errs = append(errs, fmt.Errorf("open console %q: not a name below /dev", n))
			continue
		}
		f, err := os.OpenFile("/dev/"+n, os.O_RDWR, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("open console: %w", err))
			continue
		}
		out = append(out, &console{name: n, in: bufio.NewReader(f), out: f, file: f})
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// Print writes text; terminals want a carriage return only when raw, which
// they never are here.
func (c *console) Print(s string) { fmt.Fprint(c.out, s) }

// Line reads one line without its end.
func (c *console) Line() (string, error) {
	s, err := c.in.ReadString('\n')
	if err != nil && s == "" {
		return "", err
	}
	return strings.TrimRight(s, "\r\n"), nil
}

// Secret reads a line with echo switched off where the terminal can.
func (c *console) Secret() (string, error) {
	if c.file == nil || !term.IsTerminal(int(c.file.Fd())) {
		return c.Line()
	}
	b, err := term.ReadPassword(int(c.file.Fd()))
	c.Print("\n")
	return string(b), err
}

// sink shows progress: lines on any terminal, and on the first virtual
// terminal a bar that moves in place.
func (c *console) sink() progress.Sink {
	if !strings.HasPrefix(c.name, "tty") || strings.HasPrefix(c.name, "ttyS") || c.file == nil || !term.IsTerminal(int(c.file.Fd())) {
		return progress.Lines(c.out)
	}
	lines := progress.Lines(c.out)
	const width = 40
	last := int64(-1)
	return func(e progress.Event) {
		if e.State != progress.Running {
			if last >= 0 {
				fmt.Fprint(c.out, "\r\x1b[K")
			}
			last = -1
			lines(e)
			return
		}
		if e.Of <= 0 || e.N*100/e.Of == last {
			return
		}
		last = e.N * 100 / e.Of
		n := int(min(e.N*width/e.Of, width))
		fmt.Fprintf(c.out, "\r[%s%s] %3d %%  %s", strings.Repeat("#", n), strings.Repeat(".", width-n), last, e.Step)
	}
}

// consoles are all terminals at once.
type consoles []*console

func (cs consoles) Write(b []byte) (int, error) {
	for _, c := range cs {
		// one that went away does not keep the others from hearing
		_, _ = c.out.Write(b)
	}
	return len(b), nil
}

func (cs consoles) sink() progress.Sink {
	var all []progress.Sink
	for _, c := range cs {
		all = append(all, c.sink())
	}
	return progress.Tee(all...)
}

// claim waits for a person: the first console on which Enter is pressed.
func (cs consoles) claim() (*console, error) {
	if len(cs) == 1 {
		return cs[0], nil
	}
	fmt.Fprint(cs, "\nPress Enter on the console on which you want to install.\n")
	type reply struct {
		c   *console
		err error
	}
	got := make(chan reply, len(cs))
	for _, c := range cs {
		go func() {
			_, err := c.Line()
			got <- reply{c, err}
		}()
	}
	var errs []error
	for range cs {
		r := <-got
		if r.err == nil {
			return r.c, nil
		}
		errs = append(errs, fmt.Errorf("read %s: %w", r.c.name, r.err))
	}
	return nil, errors.Join(errs...)
}
