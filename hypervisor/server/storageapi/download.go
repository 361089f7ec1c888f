package storageapi

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/server"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// client fetches. There is no deadline for the whole: images are large; a
// server that sends nothing for a while is given up.
func (a *API) client(verify bool) *http.Client {
	if a.Client != nil {
		return a.Client
	}
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: !verify, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		DisableKeepAlives:     true,
		DisableCompression:    true, // the file as it is: its checksum is of that
	}}
}

// stall is how long a download may deliver nothing.
const stall = time.Minute

func checkURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, server.ParamErrorf("url", "'%s' is not an http or https URL", s)
	}
	return u, nil
}

func (a *API) download(ctx context.Context, r *server.Request) (any, error) {
	c, p, err := a.pool(r)
	if err != nil {
		return nil, err
	}
	u, ok := p.(storage.Uploader)
	if !ok {
		return nil, server.Errorf("can't upload to storage type '%s'", c.Type)
	}
	from, err := checkURL(r.Params.String("url"))
	if err != nil {
		return nil, err
	}
	sum := checksum{algorithm: r.Params.String("checksum-algorithm"), want: r.Params.String("checksum")}
	if err := sum.need(); err != nil {
		return nil, server.ParamErrorf("checksum", "%s", err)
	}
	content, file := r.Params.String("content"), r.Params.String("filename")
	if err := u.Check(content, file); errors.Is(err, storage.ErrExists) {
		return nil, server.Errorf("%s", err)
	} else if err != nil {
		return nil, refused(err)
	}
	verify, unzip := r.Params.Bool("verify-certificates", true), r.Params.String("compression") == "gz"
	return a.start(r, "download", taskID(c.ID+":"+file), func(ctx context.Context, log task.Log) error {
		log.Printf("downloading %s to %s:%s", from.Redacted(), c.ID, file)
		f := &form{fields: map[string]string{"content": content}, name: file, sum: sum}
		if err := a.fetch(ctx, f, from, verify, unzip, p, u); err != nil {
			if f.file != nil {
				f.discard(u)
			}
			return err
		}
		return f.keep(u, c.ID, log)
	})
}

func get(ctx context.Context, c *http.Client, verb string, u *url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, verb, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("download failed: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("download failed: server answers %s", resp.Status)
	}
	return resp, nil
}

// fetch spools the body. The checksum is of what the server sends; with
// decompression the file on disk is another.
func (a *API) fetch(ctx context.Context, f *form, from *url.URL, verify, unzip bool, p storage.Pool, u storage.Uploader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := get(ctx, a.client(verify), http.MethodGet, from)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	room, err := a.room(ctx, p)
	if err != nil {
		return err
	}
	if resp.ContentLength > room {
		return full(p, resp.ContentLength, room)
	}
	if f.file, err = u.Spool(); err != nil {
		return err
	}
	watch := time.AfterFunc(stall, cancel)
	defer watch.Stop()
	var body io.Reader = &fed{resp.Body, watch}
	if h, ok := newHash(f.sum.algorithm); ok {
		f.sum.h = h
		body = io.TeeReader(body, h)
	}
	sent := body
	if unzip {
		if body, err = gzip.NewReader(body); err != nil {
			return fmt.Errorf("decompress: %w", err)
		}
	}
	f.size, err = io.CopyBuffer(f.file, io.LimitReader(body, room+1), make([]byte, 1<<20))
	if errors.Is(err, unix.ENOSPC) || err == nil && f.size > room {
		return full(p, f.size, room)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, sent) // bytes after the compressed data belong to the checksum
	}
	if err != nil {
		return fmt.Errorf("download failed: %w", err)
	}
	return nil
}

// fed puts off the end of a download whenever something comes.
type fed struct {
	r     io.Reader
	watch *time.Timer
}

func (f *fed) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if n > 0 {
		f.watch.Reset(stall)
	}
	return n, err
}

func (a *API) metadata(ctx context.Context, r *server.Request) (any, error) {
	u, err := checkURL(r.Params.String("url"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	resp, err := get(ctx, a.client(r.Params.Bool("verify-certificates", true)), http.MethodHead, u)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	out := map[string]any{"filename": path.Base(resp.Request.URL.Path)}
	if _, p, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition")); err == nil && p["filename"] != "" {
		out["filename"] = path.Base(p["filename"])
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil {
		out["mimetype"] = t
	}
	if resp.ContentLength >= 0 {
		out["size"] = resp.ContentLength
	}
	return out, nil
}
