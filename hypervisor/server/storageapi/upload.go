package storageapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"joist/hypervisor/server"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

const (
	maxField = 4 << 10  // bytes of one form field
	maxParts = 16       // of one form
	reserve  = 64 << 20 // left free on the storage
	drain    = 64 << 20 // read of a refused upload, so that the client sees why
)

// form is what an upload brings.
type form struct {
	fields map[string]string
	name   string   // the file's, "" until it came
	file   *os.File // spooled
	size   int64
	sum    checksum
}

func (a *API) upload(ctx context.Context, r *server.Request) (any, error) {
	c, p, err := a.pool(r)
	if err != nil {
		return nil, err
	}
	u, ok := p.(storage.Uploader)
	if !ok {
		return nil, server.Errorf("can't upload to storage type '%s'", c.Type)
	}
	f, err := a.receive(ctx, r.HTTP, p, u)
	if err == nil {
		err = f.check(u)
	}
	if err != nil {
		if f.file != nil {
			f.discard(u)
		}
		io.CopyN(io.Discard, r.HTTP.Body, drain)
		return nil, err
	}
	upid, err := a.start(r, "imgcopy", "", func(_ context.Context, log task.Log) error {
		return f.keep(u, c.ID, log)
	})
	if err != nil {
		f.discard(u)
	}
	return upid, err
}

// receive reads the form, in whatever order its parts come; the file goes
// straight to the storage.
func (a *API) receive(ctx context.Context, req *http.Request, p storage.Pool, u storage.Uploader) (*form, error) {
	f := &form{fields: map[string]string{}}
	mr, err := req.MultipartReader()
	if err != nil {
		return f, &server.Error{Status: http.StatusBadRequest, Text: fmt.Sprintf("read upload: %s", err)}
	}
	for range maxParts {
		part, err := mr.NextPart()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return f, &server.Error{Status: http.StatusBadRequest, Text: fmt.Sprintf("read upload: %s", err)}
		}
		if err := a.part(ctx, f, part, req.ContentLength, p, u); err != nil {
			return f, err
		}
	}
	return f, &server.Error{Status: http.StatusBadRequest, Text: "upload has too many parts"}
}

func (a *API) part(ctx context.Context, f *form, part *multipart.Part, length int64, p storage.Pool, u storage.Uploader) error {
	key := part.FormName()
	if key == "filename" && part.FileName() != "" {
		if f.file != nil {
			return server.ParamErrorf("filename", "more than one file")
		}
		f.name = part.FileName() // without folders: mime/multipart
		return a.spool(ctx, f, part, length, p, u)
	}
	switch key {
	case "content", "checksum", "checksum-algorithm", "filename", "tmpfilename":
	default:
		return server.ParamErrorf(key, "property is not defined in schema and the schema does not allow additional properties")
	}
	b, err := io.ReadAll(io.LimitReader(part, maxField+1))
	if err != nil {
		return &server.Error{Status: http.StatusBadRequest, Text: fmt.Sprintf("read upload: %s", err)}
	}
	if len(b) > maxField {
		return server.ParamErrorf(key, "value is too long")
	}
	f.fields[key] = strings.TrimSpace(string(b))
	return nil
}

// spool writes the file. What does not fit is refused before the first byte
// where the length is known, and at the limit where it is not.
func (a *API) spool(ctx context.Context, f *form, body io.Reader, length int64, p storage.Pool, u storage.Uploader) error {
	if f.fields["content"] != "" {
		if err := u.Check(f.fields["content"], f.name); err != nil {
			return refused(err)
		}
	}
	room, err := a.room(ctx, p)
	if err != nil {
		return err
	}
	if length > room {
		return full(p, length, room)
	}
	if f.file, err = u.Spool(); err != nil {
		return refused(err)
	}
	var w io.Writer = f.file
	if h, ok := newHash(f.fields["checksum-algorithm"]); ok {
		f.sum.h = h
		w = io.MultiWriter(f.file, h)
	}
	f.size, err = io.CopyBuffer(w, io.LimitReader(body, room+1), make([]byte, 1<<20))
	switch {
	case errors.Is(err, unix.ENOSPC) || err == nil && f.size > room:
		return full(p, f.size, room)
	case err != nil:
		return server.Errorf("upload to storage '%s' was interrupted: %s", p.ID(), err)
	}
	return nil
}

// room is how much may still be written.
func (a *API) room(ctx context.Context, p storage.Pool) (int64, error) {
	s, err := p.Status(ctx)
	if err != nil {
		return 0, err
	}
	keep := a.Reserve
	if keep == 0 {
		keep = reserve
	}
	return max(0, s.Avail-keep), nil
}

func full(p storage.Pool, need, room int64) error {
	return server.Errorf("storage '%s' is full: the file needs %d bytes, %d can be used; delete files that are not needed", p.ID(), need, room)
}

// refused turns what a pool says into an answer.
func refused(err error) error {
	if errors.Is(err, storage.ErrExists) {
		return server.ParamErrorf("filename", "%s", err)
	}
	if errors.Is(err, storage.ErrNoSpace) {
		return server.Errorf("%s; delete files that are not needed", err)
	}
	return server.ParamErrorf("filename", "%s", err)
}

// check looks at the whole form once it is there.
func (f *form) check(u storage.Uploader) error {
	bad := map[string]string{}
	if f.file == nil {
		bad["filename"] = "property is missing and it is not optional"
	}
	switch f.fields["content"] {
	case storage.ISO, storage.Template, storage.Import:
	case "":
		bad["content"] = "property is missing and it is not optional"
	default:
		bad["content"] = fmt.Sprintf("value '%s' does not have a value in the enumeration 'iso, vztmpl, import'", f.fields["content"])
	}
	f.sum.algorithm, f.sum.want = f.fields["checksum-algorithm"], f.fields["checksum"]
	if err := f.sum.need(); err != nil {
		bad["checksum"] = err.Error()
	}
	if len(bad) > 0 {
		return &server.Error{Status: http.StatusBadRequest, Text: "Parameter verification failed.", Params: bad}
	}
	if err := u.Check(f.fields["content"], f.name); err != nil {
		return refused(err)
	}
	return nil
}

// keep is the task: the file becomes a volume, or is gone.
func (f *form) keep(u storage.Uploader, pool string, log task.Log) error {
	defer f.file.Close()
	log.Printf("target node stores file '%s' of %d bytes", f.name, f.size)
	err := f.sum.verify(f.file)
	var name string
	if err == nil {
		if f.sum.want != "" {
			log.Printf("OK, checksum verified")
		}
		name, err = u.Keep(f.file, f.fields["content"], f.name)
	}
	if err != nil {
		return errors.Join(err, u.Drop(f.file))
	}
	log.Printf("finished file import: %s:%s", pool, name)
	return nil
}

func (f *form) discard(u storage.Uploader) {
	u.Drop(f.file) // what stays in the spool goes at the next start
	f.file.Close()
}
