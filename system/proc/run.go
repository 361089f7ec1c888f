package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"joist/internal/run"
)

const path = "/usr/sbin:/usr/bin:/sbin:/bin"

// Env is the environment of everything that PID 1 starts.
func Env() []string { return []string{"PATH=" + path, "LC_ALL=C.UTF-8", "HOME=/root"} }

// Look finds a program by name.
func Look(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for dir := range strings.SplitSeq(path, ":") {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", &os.PathError{Op: "find program", Path: name, Err: os.ErrNotExist}
}

// Runner is run.Runner on a Table: PID 1's way to run a program to its end.
type Runner struct{ Table *Table }

// Run starts c and returns its stdout. When ctx ends first the program's
// process group is killed.
func (r Runner) Run(ctx context.Context, c run.Cmd) ([]byte, error) {
	file, err := Look(c.Path)
	if err != nil {
		return nil, &run.Error{Cmd: c, Exit: -1, Err: err}
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, &run.Error{Cmd: c, Exit: -1, Err: err}
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		outR.Close()
		outW.Close()
		return nil, &run.Error{Cmd: c, Exit: -1, Err: err}
	}
	env := c.Env
	if env == nil {
		env = Env()
	}
	a := Attr{Path: file, Argv: append([]string{c.Path}, c.Args...), Env: env, Dir: c.Dir,
		Files: append([]*os.File{nil, outW, errW}, c.Files...)}
	pid, exit, err := r.Table.Start(a)
	outW.Close()
	errW.Close()
	if err != nil {
		outR.Close()
		errR.Close()
		return nil, &run.Error{Cmd: c, Exit: -1, Err: err}
	}
	var stdout, stderr bytes.Buffer
	var read sync.WaitGroup
	read.Go(func() { collect(outR, &stdout, c.Line) })
	read.Go(func() { collect(errR, &stderr, c.Line) })
	var end Exit
	select {
	case end = <-exit:
	case <-ctx.Done():
		r.Table.SignalGroup(pid, unix.SIGKILL)
		end = <-exit
	}
	// A daemon left behind may hold the pipes open for ever.
	unblock := time.AfterFunc(time.Second, func() { outR.Close(); errR.Close() })
	read.Wait()
	unblock.Stop()
	outR.Close()
	errR.Close()
	if end.OK() {
		return stdout.Bytes(), nil
	}
	e := &run.Error{Cmd: c, Exit: -1, Stderr: stderr.Bytes(), Err: errors.New(end.String())}
	if end.Status.Exited() {
		e.Exit = end.Status.ExitStatus()
	}
	if ctx.Err() != nil {
		e.Err = ctx.Err()
	}
	return stdout.Bytes(), e
}

func collect(r io.Reader, to *bytes.Buffer, line func(string)) {
	if line == nil {
		io.Copy(to, r)
		return
	}
	sc := bufio.NewScanner(io.TeeReader(r, to))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line(sc.Text())
	}
	io.Copy(to, r)
}
