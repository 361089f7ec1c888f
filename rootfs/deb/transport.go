package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	tries      = 5                      // for one file
	firstPause = 500 * time.Millisecond // before the first retry, then doubled each time
	stallTime  = 30 * time.Second       // without a byte, then the connection is given up
)

// errHTML is what log-in portals and filtering proxies answer.
var errHTML = errors.New("the answer is a web page (a log-in portal or a filtering proxy?)")

// errStalled ends a connection on which nothing comes any more.
var errStalled = fmt.Errorf("no data for %s", stallTime)

// statusError is an HTTP answer that is not the file.
type statusError struct {
	code int
	url  string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("fetch %s: %d %s", e.url, e.code, http.StatusText(e.code))
}

func (e *statusError) gone() bool { return e.code == http.StatusNotFound || e.code == http.StatusGone }

func isGone(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.gone()
}

// transport is an HTTP transport with the given proxy, else apt's proxy
// settings, else those of the environment, and file URLs.
func transport(o aptOptions, proxy *url.URL) http.RoundTripper {
	t := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if proxy != nil {
				return proxy, nil
			}
			if p, known, err := o.proxy(r.URL); known || err != nil {
				return p, err
			}
			return http.ProxyFromEnvironment(r)
		},
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: stallTime,
		IdleConnTimeout:       60 * time.Second,
		MaxIdleConnsPerHost:   parallel,
		DisableCompression:    true, // hashes are those of the bytes as stored
		ForceAttemptHTTP2:     true,
	}
	t.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	return t
}

// CheckMirror says what is wrong with a mirror, "" being none.
func CheckMirror(s string) error {
	_, err := mirrorURL(s)
	return err
}

// CheckProxy says what is wrong with a proxy, "" being none. What it is made of
// is not in the error: it may hold a password.
func CheckProxy(s string) error {
	u, err := url.Parse(s)
	if s != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" || u.RawQuery != "" || u.Fragment != "") {
		return errors.New("it is no http, https or socks5 URL of a proxy")
	}
	return nil
}

// mirrorURL makes a URL of a mirror. An absolute folder becomes a file URL.
func mirrorURL(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if filepath.IsAbs(s) {
		return (&url.URL{Scheme: "file", Path: filepath.Clean(s)}).String(), nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "file" && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("it is neither an http(s) or file URL nor an absolute folder")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// redact hides the password a URL may hold.
func redact(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "the mirror"
	}
	return u.Redacted()
}

// get asks for a file from an offset on.
func (c *Client) get(ctx context.Context, address string, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: bad URL", redact(address))
	}
	req.Header.Set("User-Agent", "joist")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	if req.URL.User == nil {
		for _, l := range c.apt.logins {
			if l.matches(req.URL) {
				req.SetBasicAuth(l.user, l.password) // net/http drops it on a redirect to another host
				break
			}
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err // a *url.Error, which names the URL without its password
	}
	ok := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && offset > 0
	if !ok {
		resp.Body.Close()
		return nil, &statusError{code: resp.StatusCode, url: redact(address)}
	}
	if t := resp.Header.Get("Content-Type"); strings.HasPrefix(t, "text/html") {
		resp.Body.Close()
		return nil, fmt.Errorf("fetch %s: %w", redact(address), errHTML)
	}
	return resp, nil
}

func looksLikeHTML(text []byte) bool {
	head := bytes.ToLower(bytes.TrimSpace(text[:min(len(text), 512)]))
	return bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html"))
}

// getSmall fetches a file into memory.
func (c *Client) getSmall(ctx context.Context, address string, limit int64) (text []byte, err error) {
	err = c.retry(ctx, func() error {
		rctx, watched, stop := watch(ctx)
		defer stop()
		resp, err := c.get(rctx, address, 0)
		if err != nil {
			return cause(rctx, err)
		}
		defer resp.Body.Close()
		text, err = io.ReadAll(io.LimitReader(watched(resp.Body), limit+1))
		if err != nil {
			return fmt.Errorf("fetch %s: %w", redact(address), cause(rctx, err))
		}
		if int64(len(text)) > limit {
			return fmt.Errorf("fetch %s: more than %d bytes", redact(address), limit)
		}
		return nil
	})
	return text, err
}

// watch derives a context that ends when the reader wrapped by watched
// delivers nothing for stallTime.
func watch(ctx context.Context) (rctx context.Context, watched func(io.Reader) io.Reader, stop func()) {
	rctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stallTime, func() { cancel(errStalled) })
	watched = func(r io.Reader) io.Reader {
		return readFunc(func(p []byte) (int, error) {
			n, err := r.Read(p)
			timer.Reset(stallTime)
			return n, err
		})
	}
	return rctx, watched, func() { timer.Stop(); cancel(nil) }
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// cause says "stalled" where the library only says "cancelled".
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); errors.Is(c, errStalled) {
		return c
	}
	return err
}

// retry repeats f with growing pauses while its error may pass. Damaged
// content is asked for once more only: a mirror or proxy that is wrong twice
// is wrong for good, and files are large.
func (c *Client) retry(ctx context.Context, f func() error) error {
	wait := c.cfg.Pause
	damaged := 0
	for try := 1; ; try++ {
		err := f()
		if errors.Is(err, errDamaged) {
			damaged++
		}
		if err == nil || ctx.Err() != nil || try == tries || damaged == 2 || !passing(err) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait *= 2
	}
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	var status *statusError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &status):
		return status.code >= 500 || status.code == http.StatusTooManyRequests || status.code == http.StatusRequestTimeout
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.Is(err, errStalled), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, errDamaged):
		return true
	case errors.Is(err, syscall.ECONNREFUSED):
		return false
	}
	var timeout net.Error
	return errors.As(err, &op) || errors.As(err, &timeout) && timeout.Timeout()
}
