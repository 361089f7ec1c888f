package rescue

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/u-root/u-root/pkg/tarutil"
)

// tarCall is a call of tar(1): "-czf a.tgz -C /etc ." and its like.
type tarCall struct {
	mode    byte // c, x or t
	zip     bool
	archive string
	dir     string
	files   []string
}

// parseTar reads the arguments. As in tar(1), letters may share a dash, and
// the first need none.
func parseTar(args []string) (t tarCall, ok bool) {
	for i := 0; i < len(args); i++ {
		letters, dashed := strings.CutPrefix(args[i], "-")
		if !dashed && i > 0 || letters == "" {
			t.files = append(t.files, args[i])
			continue
		}
		for _, l := range letters {
			switch l {
			case 'c', 'x', 't':
				if t.mode != 0 {
					return t, false
				}
				t.mode = byte(l)
			case 'z':
				t.zip = true
			case 'f', 'C':
				if i++; i >= len(args) {
					return t, false
				}
				if l == 'f' {
					t.archive = args[i]
				} else {
					t.dir = args[i]
				}
			default:
				return t, false
			}
		}
	}
	return t, t.mode != 0 && t.archive != "" && (t.mode != 'c') == (len(t.files) == 0)
}

// archive is tar(1). u-root's command of that name cannot make archives when
// it is told a working directory; the library below it can.
func archive(_ context.Context, c *command, args []string) error {
	t, ok := parseTar(args)
	if !ok {
		return c.misused()
	}
	t.archive, t.dir = c.ResolvePath(t.archive), c.ResolvePath(t.dir)
	if t.dir == "" {
		t.dir = "."
	}
	if t.mode == 'c' {
		return t.create()
	}
	f, err := os.Open(t.archive)
	if err != nil {
		return err
	}
	defer f.Close()
	var in io.Reader = f
	if t.zip {
		if in, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("read %s: %w", t.archive, err)
		}
	}
	if t.mode == 'x' {
		return tarutil.ExtractDir(in, t.dir, nil)
	}
	return list(c.Stdout, in)
}

func (t tarCall) create() error {
	f, err := os.OpenFile(t.archive, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	var out io.WriteCloser = f
	if t.zip {
		out = gzip.NewWriter(f)
	}
	err = tarutil.CreateTar(out, t.files, &tarutil.Opts{ChangeDirectory: t.dir})
	if t.zip {
		err = errors.Join(err, out.Close())
	}
	return errors.Join(err, f.Close())
}

// list prints the names in an archive.
func list(w io.Writer, in io.Reader) error {
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, h.Name); err != nil {
			return err
		}
	}
}
