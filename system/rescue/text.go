package rescue

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
)

const lineMax = 1 << 20

// inputs calls f with each file, or with the command's input.
func (c *command) inputs(files []string, f func(name string, r io.Reader) error) error {
	if len(files) == 0 {
		return f("", c.Stdin)
	}
	var errs []error
	for _, name := range files {
		in, err := os.Open(c.ResolvePath(name))
		if err == nil {
			err = f(name, in)
			in.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// grep prints lines that match a regular expression (Go's syntax).
func grep(_ context.Context, c *command, args []string) error {
	fold, invert := "", false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-" {
		switch args[0] {
		case "-i":
			fold = "(?i)"
		case "-v":
			invert = true
		default:
			return c.misused()
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return c.misused()
	}
	re, err := regexp.Compile(fold + args[0])
	if err != nil {
		return err
	}
	found := false
	err = c.inputs(args[1:], func(name string, r io.Reader) error {
		if len(args) > 2 {
			name += ":"
		} else {
			name = ""
		}
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, lineMax)
		for sc.Scan() {
			if re.Match(sc.Bytes()) == invert {
				continue
			}
			found = true
			if _, err := fmt.Fprintf(c.Stdout, "%s%s\n", name, sc.Bytes()); err != nil {
				return err
			}
		}
		return sc.Err()
	})
	if err == nil && !found {
		return interp.ExitStatus(1)
	}
	return err
}

// tail prints the last lines.
func tail(_ context.Context, c *command, args []string) error {
	n := 10
	if len(args) > 1 && args[0] == "-n" {
		var err error
		if n, err = strconv.Atoi(args[1]); err != nil || n < 0 {
			return c.misused()
		}
		args = args[2:]
	}
	if len(args) > 1 {
		return c.misused()
	}
	return c.inputs(args, func(_ string, r io.Reader) error {
		var last []string
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, lineMax)
		for sc.Scan() {
			last = append(last, sc.Text())
			last = last[max(0, len(last)-n):]
		}
		for _, l := range last {
			if _, err := fmt.Fprintln(c.Stdout, l); err != nil {
				return err
			}
		}
		return sc.Err()
	})
}

// gzipFiles is gzip(1): each file becomes FILE.gz, or with -d loses ".gz";
// without a file it is a filter.
func gzipFiles(ctx context.Context, c *command, args []string) error {
	if len(args) > 0 && args[0] == "-d" {
		return gunzip(ctx, c, args[1:])
	}
	if len(args) == 0 {
		return compress(c.Stdout, c.Stdin)
	}
	var errs []error
	for _, name := range args {
		errs = append(errs, c.replace(name, name+".gz", compress))
	}
	return errors.Join(errs...)
}

func gunzip(_ context.Context, c *command, args []string) error {
	if len(args) == 0 {
		return decompress(c.Stdout, c.Stdin)
	}
	var errs []error
	for _, name := range args {
		to, ok := strings.CutSuffix(name, ".gz")
		if !ok {
			errs = append(errs, fmt.Errorf("%s does not end in .gz", name))
			continue
		}
		errs = append(errs, c.replace(name, to, decompress))
	}
	return errors.Join(errs...)
}

func compress(w io.Writer, r io.Reader) error {
	z := gzip.NewWriter(w)
	if _, err := io.Copy(z, r); err != nil {
		return err
	}
	return z.Close()
}

func decompress(w io.Writer, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, z)
	return err
}

// replace turns a file into another one and removes it when that is whole.
func (c *command) replace(from, to string, turn func(io.Writer, io.Reader) error) error {
	in, err := os.Open(c.ResolvePath(from))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(c.ResolvePath(to), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = turn(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(c.ResolvePath(to))
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.Remove(c.ResolvePath(from))
}
