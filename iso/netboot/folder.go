package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// Folder is what `joist build netboot` made, as a server offers it: script and
// menu say where the server is.
type Folder struct {
	root   *os.Root
	web    string // without a slash at the end
	answer string // joist.answer, "" for none
}

// OpenFolder checks that dir is a netboot folder. web is the server's web
// address, answer what the installer is told of an answer ("auto", or where it
// is), "" to let it ask a person.
func OpenFolder(dir, web, answer string) (*Folder, error) {
	for _, s := range []string{web, answer} {
		if s != "" && !argForm.MatchString(s) {
			return nil, fmt.Errorf("%q cannot be put on a kernel command line", s)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the netboot folder: %w", err)
	}
	for _, name := range []string{InitrdFile, IPXEFile, GrubFile, UEFIFile, BIOSFile, "system.sqfs"} {
		if _, err := root.Stat(name); err != nil {
			root.Close()
			return nil, fmt.Errorf("open the netboot folder %s: %w; make it with: joist build netboot", dir, err)
		}
	}
	return &Folder{root, strings.TrimSuffix(web, "/"), answer}, nil
}

// Close lets go of the folder.
func (f *Folder) Close() error { return f.root.Close() }

// file is one file of the folder.
type file interface {
	io.ReadSeeker
	io.Closer
}

type text struct{ *bytes.Reader }

func (text) Close() error { return nil }

// open opens a file by its path from the folder's top, in the spelling of URLs,
// of TFTP clients (with or without a slash before it) and of old firmware
// (backslashes). Nothing outside the folder can be reached.
func (f *Folder) open(name string) (file, time.Time, error) {
	name = strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(name, `\`, "/")), "/")
	r, err := f.root.Open(name)
	if err != nil {
		return nil, time.Time{}, err
	}
	st, err := r.Stat()
	if err != nil || !st.Mode().IsRegular() {
		r.Close()
		return nil, time.Time{}, errors.Join(err, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist})
	}
	if path.Base(name) != path.Base(GrubFile) && name != IPXEFile {
		return r, st.ModTime(), nil
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, time.Time{}, err
	}
	return text{bytes.NewReader(f.address(name, b))}, st.ModTime(), nil
}

// address puts the server's address, and where an answer is, before what script
// or menu do.
func (f *Folder) address(name string, b []byte) []byte {
	first, set, sep := "", "set joist_", "="
	if name == IPXEFile {
		first, set, sep = "#!ipxe\n", "set joist-", " "
	}
	head := first + set + "url" + sep + f.web + "\n"
	if f.answer != "" {
		head += set + "answer" + sep + f.answer + "\n"
	}
	return append([]byte(head), bytes.TrimPrefix(b, []byte(first))...)
}
