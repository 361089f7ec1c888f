package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
)

// File is what Upload sends.
type File struct {
	Content string // "iso", "vztmpl" or "import"
	Name    string // file name in the storage
	Size    int64  // bytes
	Data    io.Reader
	SHA256  string // hex; empty: not checked by the node
}

// Upload sends a file to a storage and waits for the task that takes it in.
// progress, if not nil, is told how many of Size bytes have been sent.
func (c *Client) Upload(ctx context.Context, node, storage string, f File, progress func(sent int64)) error {
	if err := c.upload(ctx, node, storage, f, progress); err != nil {
		return fmt.Errorf("upload %q to %q: %w", f.Name, storage, err)
	}
	return nil
}

func (c *Client) upload(ctx context.Context, node, storage string, f File, progress func(sent int64)) error {
	t, err := c.credentials(ctx)
	if err != nil {
		return err
	}
	head, tail, contentType, err := f.frame()
	if err != nil {
		return err
	}
	data := &counted{r: io.LimitReader(f.Data, f.Size), tell: progress}
	body := io.MultiReader(bytes.NewReader(head), data, bytes.NewReader(tail))
	u := c.url("/nodes/" + url.PathEscape(node) + "/storage/" + url.PathEscape(storage) + "/upload")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return err
	}
	req.ContentLength = int64(len(head)) + f.Size + int64(len(tail))
	req.Header.Set("Content-Type", contentType)
	c.authorise(req.Header, http.MethodPost, t)
	var upid string
	if err := c.send(req, &upid); err != nil {
		return err
	}
	return c.WaitTask(ctx, upid)
}

// frame makes the multipart text before and after the data: the length of the
// request is known without reading the file, as the node wants it.
func (f File) frame() (head, tail []byte, contentType string, err error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	fields := [][2]string{{"content", f.Content}}
	if f.SHA256 != "" {
		fields = append(fields, [2]string{"checksum-algorithm", "sha256"}, [2]string{"checksum", f.SHA256})
	}
	for _, kv := range fields {
		err = errors.Join(err, w.WriteField(kv[0], kv[1]))
	}
	_, fileErr := w.CreateFormFile("filename", f.Name)
	if err = errors.Join(err, fileErr); err != nil {
		return nil, nil, "", fmt.Errorf("frame file: %w", err)
	}
	head = bytes.Clone(buf.Bytes())
	buf.Reset()
	if err = w.Close(); err != nil {
		return nil, nil, "", fmt.Errorf("frame file: %w", err)
	}
	return head, buf.Bytes(), w.FormDataContentType(), nil
}

// counted reports how much was read.
type counted struct {
	r    io.Reader
	n    int64
	tell func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if n > 0 && c.tell != nil {
		c.tell(c.n)
	}
	return n, err
}
