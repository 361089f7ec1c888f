// Package fetch gets files over HTTP for stage 1: it goes on where a cut
// connection ended, tries again with growing pauses, says what it waits for,
// and leaves nothing whose hash is not the one asked for.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// File is what is wanted and where it goes.
type File struct {
	Name   string // for people
	URL    string
	To     string
	Size   int64
	SHA256 string // lower-case hexadecimal digits
}

// Getter fetches files.
type Getter struct {
	Client *http.Client
	Say    func(format string, args ...any) // a line for the console
	Tries  int                              // that may fail without a byte before Get gives up
	Pause  time.Duration                    // after the first failure; it doubles up to maxPause
	Stall  time.Duration                    // without a byte: the connection counts as cut
}

const maxPause = 15 * time.Second

// New is a Getter for a machine that starts: a server that is not there yet is
// waited for, for some minutes.
func New(say func(format string, args ...any)) *Getter {
	d := net.Dialer{Timeout: 10 * time.Second}
	return &Getter{Say: say, Tries: 20, Pause: time.Second, Stall: 30 * time.Second, Client: &http.Client{Transport: &http.Transport{
		DialContext: d.DialContext, TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true,
	}}}
}

// ErrOther means that the server has a file of that name, but another one.
var ErrOther = errors.New("the server's file is not of this build")

// Get fetches one file.
func (g *Getter) Get(ctx context.Context, f File) error {
	if err := os.MkdirAll(filepath.Dir(f.To), 0o755); err != nil {
		return fmt.Errorf("fetch %s: %w", f.Name, err)
	}
	w, err := os.Create(f.To)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", f.Name, err)
	}
	t := &transfer{g: g, f: f, w: w, sum: sha256.New(), begun: time.Now(), said: time.Now()}
	err = t.run(ctx)
	if err = errors.Join(err, w.Close()); err != nil {
		return errors.Join(fmt.Errorf("fetch %s: %w", f.Name, err), os.Remove(f.To))
	}
	return nil
}

// transfer is one file under way.
type transfer struct {
	g     *Getter
	f     File
	w     *os.File
	sum   hash.Hash // of what is there
	n     int64     // bytes that are there
	begun time.Time
	said  time.Time
}

func (t *transfer) run(ctx context.Context) error {
	pause, failed := t.g.Pause, 0
	for {
		before := t.n
		err := t.once(ctx)
		switch {
		case err == nil:
			took := time.Since(t.begun)
			t.g.Say("          %s: %s in %.1f s", t.f.Name, mega(t.n), took.Seconds())
			return nil
		case ctx.Err() != nil || errors.Is(err, ErrOther):
			return err
		}
		if t.n > before {
			pause, failed = t.g.Pause, 0
		}
		if failed++; failed >= t.g.Tries {
			return fmt.Errorf("given up after %d attempts: %w", failed, err)
		}
		t.g.Say("waiting   %s: %v; again in %v", t.f.Name, err, pause)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// once asks for what is missing and reads until the end or a failure.
func (t *transfer) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(t.g.Stall, func() { cancel(fmt.Errorf("nothing came for %v", t.g.Stall)) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.f.URL, nil)
	if err != nil {
		return err
	}
	if t.n > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", t.n))
	}
	resp, err := t.g.Client.Do(req)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer resp.Body.Close()
	if err := t.accept(resp); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			stall.Reset(t.g.Stall)
			if werr := t.add(buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return t.check()
		}
		if err != nil {
			return causeOf(ctx, err)
		}
	}
}

// accept looks at the answer's head; a server that cannot go on in the middle
// begins again.
func (t *transfer) accept(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != t.f.Size {
			return fmt.Errorf("%w: it has %d bytes, not %d", ErrOther, resp.ContentLength, t.f.Size)
		}
		return t.again()
	case http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != t.n || t.n == 0 {
			return fmt.Errorf("the server sent another part than was asked for")
		}
		return nil
	}
	return fmt.Errorf("the server says %q", resp.Status)
}

// again starts from the beginning.
func (t *transfer) again() error {
	t.n = 0
	t.sum.Reset()
	if _, err := t.w.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return t.w.Truncate(0)
}

func (t *transfer) add(b []byte) error {
	if t.n+int64(len(b)) > t.f.Size {
		return fmt.Errorf("%w: it has more than %d bytes", ErrOther, t.f.Size)
	}
	if _, err := t.w.Write(b); err != nil {
		return err
	}
	t.sum.Write(b)
	t.n += int64(len(b))
	if now := time.Now(); now.Sub(t.said) >= 2*time.Second {
		t.said = now
		t.g.Say("          %s: %s of %s, %.1f MB/s", t.f.Name, mega(t.n), mega(t.f.Size), float64(t.n)/1e6/now.Sub(t.begun).Seconds())
	}
	return nil
}

// check is done when the answer has ended.
func (t *transfer) check() error {
	if t.n < t.f.Size {
		return fmt.Errorf("the connection ended after %s of %s", mega(t.n), mega(t.f.Size))
	}
	if got := hex.EncodeToString(t.sum.Sum(nil)); got != t.f.SHA256 {
		return fmt.Errorf("%w: its SHA-256 sum is %s, not %s", ErrOther, got, t.f.SHA256)
	}
	return nil
}

func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); ctx.Err() != nil && cause != nil {
		return cause
	}
	return err
}

func mega(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
