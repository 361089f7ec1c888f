package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"joist/api/client"
	"joist/internal/progress"
)

func (c *cli) uploadCommand(t *target) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "upload NODE STORAGE CONTENT FILE",
		Short: "Bring a file into a storage of a node",
		Long: `Uploads a file and waits until the node has checked its SHA-256 and taken it in.
CONTENT says what it is:

  iso     image of a CD, FILE.iso
  vztmpl  template of containers, FILE.tar.zst or .tar.xz or .tar.gz
  import  disk image for import-from, FILE.qcow2, .raw or .vmdk`,
		Example: "  joist api upload node1 local iso debian-13.iso\n" +
			"  joist api upload node1 local vztmpl build/debian-13-standard_0.1.0-1_amd64.tar.zst",
		Args: cobra.ExactArgs(4),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				name = filepath.Base(args[3])
			}
			return c.upload(cmd.Context(), *t, args[0], args[1], client.File{Content: args[2], Name: name}, args[3])
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` in the storage (default: the file's own)")
	return cmd
}

func (c *cli) upload(ctx context.Context, t target, node, storage string, f client.File, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("upload: %s is not a file", path)
	}
	api, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer api.Close()
	sink := progress.Lines(c.err)
	h := sha256.New()
	if err := sink.Do("read "+path, func(func(n, of int64)) error {
		_, err := io.Copy(h, file)
		return err
	}); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	f.Size, f.Data, f.SHA256 = st.Size(), file, hex.EncodeToString(h.Sum(nil))
	if err := sink.Do("upload "+f.Name, func(advance func(n, of int64)) error {
		return api.Upload(ctx, node, storage, f, func(sent int64) { advance(sent, f.Size) })
	}); err != nil {
		return errors.Unwrap(err) // names the file itself
	}
	fmt.Fprintf(c.out, "%s:%s/%s\n", storage, f.Content, f.Name)
	return nil
}

// leave is the key that ends a console: Ctrl-].
const leave = 0x1d

func (c *cli) consoleCommand(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "console PATH",
		Short: "Open the text console of a guest in this terminal (Ctrl-] leaves)",
		Long: `Connects this terminal to a guest's text console: a container's terminal, or the
serial port of a virtual machine (which must have one: serial0=socket). Ctrl-]
leaves; the guest does not notice.`,
		Example: "  joist api console /nodes/node1/qemu/100\n  joist api console /nodes/node1/lxc/200",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := apiPath(args[0])
			if err != nil {
				return usagef(cmd, "%w", err)
			}
			api, err := c.connect(cmd.Context(), *t)
			if err != nil {
				return err
			}
			defer api.Close()
			console, err := api.Term(cmd.Context(), path)
			if err != nil {
				return err
			}
			defer console.Close()
			return c.attach(cmd.Context(), console)
		},
	}
}

// attach joins terminal and console until one of them ends.
func (c *cli) attach(ctx context.Context, console *client.Terminal) error {
	if f, ok := c.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(c.err, "Connected; Ctrl-] leaves.\n")
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("prepare terminal: %w", err)
		}
		defer fmt.Fprintln(c.err)
		defer term.Restore(int(f.Fd()), old)
		defer followSize(console, int(f.Fd()))()
	}
	ended := make(chan error, 2)
	go func() {
		_, err := io.Copy(c.out, console)
		ended <- err
	}()
	go func() {
		err := typeInto(console, c.in)
		if err != nil || ctx.Err() != nil {
			ended <- err
		}
	}()
	select {
	case err := <-ended:
		if errors.Is(err, errLeft) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errLeft = errors.New("left the console")

// typeInto sends what is typed until the key that leaves. The end of the
// input alone does not end a session: its output may still come.
func typeInto(console io.Writer, in io.Reader) error {
	b := make([]byte, 4096)
	for {
		n, err := in.Read(b)
		for i, ch := range b[:n] {
			if ch == leave {
				_, err := console.Write(b[:i])
				return errors.Join(err, errLeft)
			}
		}
		if _, werr := console.Write(b[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// followSize tells the guest the terminal's size, now and whenever it changes.
func followSize(console *client.Terminal, fd int) (stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			if cols, rows, err := term.GetSize(fd); err == nil && cols > 0 {
				console.Resize(cols, rows)
			}
			select {
			case <-changed:
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(done)
	}
}
