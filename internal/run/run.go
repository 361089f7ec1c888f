// Package run starts external programs. It is the one place for it outside
// the sandbox, PID 1, the guests' drivers and the test harness: arguments are
// a vector (there is no shell), the environment is fixed, output that a caller
// wants line by line is delivered while the program runs, and a failure keeps
// exit status and stderr for the log while its text stays one sentence.
package run

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Cmd is one call of one program.
type Cmd struct {
	Path   string       // absolute, or a name looked up in PATH of Env or /usr/sbin:/usr/bin:/sbin:/bin
	Args   []string     // without the program's own name
	Env    []string     // nil: PATH, LC_ALL=C.UTF-8 and HOME only
	Dir    string       //
	Stdin  io.Reader    //
	Files  []*os.File   // become descriptors 3, 4, …
	Line   func(string) // called for each line of stdout and stderr as it comes; stdout is then not returned
	Redact []int        // indexes into Args that never reach a log or an error
}

// String is the call as a person would type it, secrets hidden.
func (c Cmd) String() string {
	s := []string{filepath.Base(c.Path)}
	for i, a := range c.Args {
		for _, r := range c.Redact {
			if r == i {
				a = "***"
			}
		}
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$") {
			a = fmt.Sprintf("%q", a)
		}
		s = append(s, a)
	}
	return strings.Join(s, " ")
}

// Runner runs commands. The deadline comes from ctx.
type Runner interface {
	Run(ctx context.Context, c Cmd) (stdout []byte, err error)
}

// Error is a program that could not be started or did not end with status 0.
type Error struct {
	Cmd    Cmd
	Exit   int // -1 when it did not start or was killed
	Stderr []byte
	Err    error
}

func (e *Error) Error() string {
	msg := lastLine(e.Stderr)
	if msg == "" {
		msg = e.Err.Error()
	}
	return fmt.Sprintf("%s: %s", filepath.Base(e.Cmd.Path), msg)
}

func (e *Error) Unwrap() error { return e.Err }

// ExitCode returns the exit status kept in err, -1 when there is none.
func ExitCode(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Exit
	}
	return -1
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

const defaultPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// OS is the Runner that starts real processes.
type OS struct{}

// Run starts c, waits for it and returns its stdout.
func (OS) Run(ctx context.Context, c Cmd) ([]byte, error) {
	path := c.Path
	if !filepath.IsAbs(path) {
		p, err := lookPath(path)
		if err != nil {
			return nil, &Error{Cmd: c, Exit: -1, Err: err}
		}
		path = p
	}
	x := exec.CommandContext(ctx, path, c.Args...)
	x.Env = c.Env
	if x.Env == nil {
		x.Env = []string{"PATH=" + defaultPath, "LC_ALL=C.UTF-8", "HOME=/root"}
	}
	x.Dir, x.Stdin, x.ExtraFiles = c.Dir, c.Stdin, c.Files
	x.WaitDelay = 5 * time.Second
	out := Capture(c, x)
	err := x.Run()
	return out.Finish(ctx, x.ProcessState, err)
}

// Capture connects the outputs of x the way c asks for. Its Finish must be
// called once x has ended or could not be started. It is for runners of other
// packages; callers that want a program to run use a Runner.
func Capture(c Cmd, x *exec.Cmd) *Output {
	o := &Output{cmd: c}
	x.Stdout, x.Stderr = &o.stdout, &o.stderr
	if c.Line == nil {
		return o
	}
	r, w := io.Pipe()
	o.lines, o.done = w, make(chan struct{})
	go func() {
		defer close(o.done)
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			c.Line(sc.Text())
		}
		io.Copy(io.Discard, r)
	}()
	x.Stdout, x.Stderr = w, io.MultiWriter(w, &o.stderr)
	return o
}

// Output is what a program wrote.
type Output struct {
	cmd            Cmd
	stdout, stderr bytes.Buffer
	lines          *io.PipeWriter
	done           chan struct{}
}

// Finish waits for the last line and returns stdout, and err as an *Error.
func (o *Output) Finish(ctx context.Context, st *os.ProcessState, err error) ([]byte, error) {
	if o.lines != nil {
		o.lines.Close()
		<-o.done
	}
	if err == nil {
		return o.stdout.Bytes(), nil
	}
	e := &Error{Cmd: o.cmd, Exit: -1, Stderr: o.stderr.Bytes(), Err: err}
	if st != nil {
		e.Exit = st.ExitCode()
	}
	if ctx.Err() != nil {
		e.Err = ctx.Err()
	}
	return o.stdout.Bytes(), e
}

func lookPath(name string) (string, error) {
	for dir := range strings.SplitSeq(defaultPath, ":") {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %q is not installed", name)
}
