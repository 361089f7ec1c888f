package rescue

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/core"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Shell runs lines with a Box's commands.
type Shell struct {
	Box Box
	Env []string // "NAME=value"
	Dir string   // to start in, "" for the current one
}

// Input gives the shell its lines.
type Input interface {
	// Line returns the next line without its end, io.EOF after the last one.
	Line(prompt string) (string, error)
	// Interrupts cancels the context when a person wants a command to end.
	Interrupts(context.Context) (context.Context, context.CancelFunc)
}

const (
	prompt = "rescue# "
	more   = "> "
)

// Run reads and runs lines until "exit", the end of the input or an error of
// it. Programs that are no commands of the Box are looked for as files.
func (s *Shell) Run(ctx context.Context, in Input, stdin *os.File, stdout, stderr io.Writer) error {
	r, err := s.runner(stdin, stdout, stderr)
	if err != nil {
		return fmt.Errorf("start rescue shell: %w", err)
	}
	for {
		program, err := read(in, stderr)
		if err != nil {
			return err
		}
		if program == nil {
			continue
		}
		for _, stmt := range program.Stmts {
			run, cancel := in.Interrupts(ctx)
			err := r.Run(run, stmt)
			interrupted := run.Err() != nil
			cancel()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if interrupted {
				fmt.Fprintln(stderr)
				break
			}
			if r.Exited() {
				return nil
			}
			if _, status := interp.IsExitStatus(err); err != nil && !status {
				fmt.Fprintf(stderr, "rescue: %v\n", err)
			}
		}
	}
}

// read takes lines until they make whole commands; nil says that there is
// nothing to run.
func read(in Input, stderr io.Writer) (*syntax.File, error) {
	text, show := "", prompt
	for {
		line, err := in.Line(show)
		if err != nil {
			return nil, err
		}
		text += line + "\n"
		program, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
		switch {
		case err == nil:
			return program, nil
		case syntax.IsIncomplete(err):
			show = more
		default:
			fmt.Fprintf(stderr, "rescue: %v\n", err)
			return nil, nil
		}
	}
}

func (s *Shell) runner(stdin *os.File, stdout, stderr io.Writer) (*interp.Runner, error) {
	return interp.New(
		interp.StdIO(stdin, stdout, stderr),
		interp.Env(expand.ListEnviron(s.Env...)),
		interp.Dir(s.Dir),
		interp.CallHandler(s.call),
		interp.ExecHandlers(s.exec))
}

// call keeps "help" from the interpreter's own list of what it knows.
func (s *Shell) call(_ context.Context, args []string) ([]string, error) {
	if args[0] == "help" {
		return append([]string{helpCommand}, args[1:]...), nil
	}
	return args, nil
}

// exec runs a command of the Box, and leaves everything else to next.
func (s *Shell) exec(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		name := args[0]
		if name == helpCommand {
			name = "help"
		}
		cmd, ok := s.Box.Command(name)
		if !ok {
			return next(ctx, args)
		}
		h := interp.HandlerCtx(ctx)
		stdin := gate(ctx, h.Stdin, nil)
		stdout, stderr := gate(ctx, nil, h.Stdout), gate(ctx, nil, h.Stderr)
		cmd.SetIO(stdin, stdout, stderr)
		cmd.SetWorkingDir(h.Dir)
		cmd.SetLookupEnv(func(name string) (string, bool) {
			v := h.Env.Get(name)
			return v.String(), v.IsSet()
		})
		done := make(chan error, 1)
		go func() { done <- cmd.RunContext(ctx, args[1:]...) }()
		select {
		case err := <-done:
			return status(name, err, h.Stderr)
		case <-ctx.Done():
		}
		// Few of the commands look at the context: most end with their next
		// byte, and one that hangs in the kernel is left behind.
		select {
		case <-done:
		case <-time.After(time.Second):
		}
		return interp.ExitStatus(130)
	}
}

// status says what went wrong and turns it into an exit status.
func status(name string, err error, stderr io.Writer) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, flag.ErrHelp): // said already
		return interp.ExitStatus(2)
	}
	if _, ok := interp.IsExitStatus(err); ok {
		return err
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return interp.ExitStatus(1)
}

// gated passes bytes until its context ends.
type gated struct {
	ctx context.Context
	r   io.Reader
	w   io.Writer
}

func gate(ctx context.Context, r io.Reader, w io.Writer) gated { return gated{ctx, r, w} }

func (g gated) Read(b []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	return g.r.Read(b)
}

func (g gated) Write(b []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	return g.w.Write(b)
}

// Once runs one command with the process' own descriptors, as "joist-init
// rescue NAME" does.
func Once(ctx context.Context, b Box, args []string) error {
	cmd, ok := b.Command(args[0])
	if !ok {
		return fmt.Errorf("rescue: unknown command %q; \"help\" lists them", args[0])
	}
	cmd.SetIO(os.Stdin, os.Stdout, os.Stderr)
	cmd.SetLookupEnv(os.LookupEnv)
	if err := cmd.RunContext(ctx, args[1:]...); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

var _ core.Command = (*command)(nil)
