// Package tree is the content of a file system before any disk exists: plain
// values with owners, modes, device numbers and extended attributes that no
// privilege is needed to hold. The builder fills a tree, checks it and only
// then writes it.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Source is the content of a regular file.
type Source interface {
	Open() (io.ReadCloser, error)
	Size() int64
}

// Bytes is content held in memory.
type Bytes []byte

func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
func (b Bytes) Size() int64                  { return int64(len(b)) }

// File is content that stays in a file of the building machine.
type File struct {
	Path  string
	Bytes int64
}

// FromFile makes a Source of a file.
func FromFile(name string) (File, error) {
	st, err := os.Stat(name)
	if err != nil {
		return File{}, err
	}
	return File{Path: name, Bytes: st.Size()}, nil
}

func (f File) Open() (io.ReadCloser, error) { return os.Open(f.Path) }
func (f File) Size() int64                  { return f.Bytes }

// Node is one entry. Mode holds type and permission bits as io/fs defines
// them (fs.ModeSetuid and so on). A hard link is a regular node that shares
// its Data with another and names it in LinkTo; without the other it is a file
// like any.
type Node struct {
	Name     string
	Mode     fs.FileMode
	UID, GID int
	Data     Source            // regular files
	Target   string            // symbolic links
	LinkTo   string            // hard links: absolute path of the first name
	Major    uint32            // devices
	Minor    uint32            // devices
	Xattrs   map[string]string // "security.capability" and the like
	Origin   string            // package or rule the entry came from
	Children []*Node           // directories, kept sorted by Name
}

// New returns an empty root directory.
func New() *Node { return &Node{Mode: fs.ModeDir | 0o755} }

// Child returns the entry called name, nil when there is none.
func (n *Node) Child(name string) *Node {
	i, ok := n.index(name)
	if !ok {
		return nil
	}
	return n.Children[i]
}

func (n *Node) index(name string) (int, bool) {
	return slices.BinarySearchFunc(n.Children, name, func(c *Node, s string) int { return strings.Compare(c.Name, s) })
}

// Put adds c below n or replaces the entry of the same name. A directory that
// meets a directory keeps its children and takes c's mode and owner.
func (n *Node) Put(c *Node) {
	i, ok := n.index(c.Name)
	if !ok {
		n.Children = slices.Insert(n.Children, i, c)
		return
	}
	if old := n.Children[i]; old.Mode.IsDir() && c.Mode.IsDir() && len(c.Children) == 0 {
		c.Children = old.Children
	}
	n.Children[i] = c
}

// Lookup walks an absolute path without following a symbolic link at its end;
// links in between are followed, as the kernel does.
func (n *Node) Lookup(p string) *Node { return n.walk(p, false) }

// Resolve walks an absolute path and follows a symbolic link at its end too.
func (n *Node) Resolve(p string) *Node { return n.walk(p, true) }

// maxLinks is how many symbolic links one walk follows, as in Linux
// (path_resolution(7)).
const maxLinks = 40

// walk resolves p step by step. ".." is taken where a link has led to, not
// where its name stands: /lib/../x is /usr/x when /lib is usr/lib.
func (n *Node) walk(p string, last bool) *Node {
	above := []*Node{n} // from the root to where the walk stands
	todo := parts(p)
	for links := 0; len(todo) > 0; {
		e := todo[0]
		todo = todo[1:]
		here := above[len(above)-1]
		if e == ".." {
			if !here.Mode.IsDir() {
				return nil
			}
			above = above[:max(1, len(above)-1)]
			continue
		}
		c := here.Child(e)
		if c == nil {
			return nil
		}
		if c.Mode&fs.ModeSymlink == 0 || !last && len(todo) == 0 {
			above = append(above, c)
			continue
		}
		if links++; links > maxLinks {
			return nil
		}
		if path.IsAbs(c.Target) {
			above = above[:1]
		}
		todo = append(parts(c.Target), todo...)
	}
	return above[len(above)-1]
}

// parts splits a path into names and "..".
func parts(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(e string) bool { return e == "" || e == "." })
}

func split(p string) []string {
	p = path.Clean("/" + p)
	if p == "/" {
		return nil
	}
	return strings.Split(p[1:], "/")
}

// Dir returns the directory at p, made with mode 0755 where it is missing.
// Symbolic links to directories on the way are followed (merged /usr).
func (n *Node) Dir(p string) (*Node, error) {
	cur, at := n, "/"
	for _, e := range split(p) {
		at = path.Join(at, e)
		c := cur.Child(e)
		switch {
		case c == nil:
			c = &Node{Name: e, Mode: fs.ModeDir | 0o755}
			cur.Put(c)
		case c.Mode&fs.ModeSymlink != 0:
			if c = n.Resolve(at); c == nil || !c.Mode.IsDir() {
				return nil, fmt.Errorf("%s is a link that leads to no directory", at)
			}
		case !c.Mode.IsDir():
			return nil, fmt.Errorf("%s is not a directory", at)
		}
		cur = c
	}
	return cur, nil
}

// Set places node at the absolute path p and makes the directories above.
func (n *Node) Set(p string, node *Node) error {
	p = path.Clean("/" + p)
	if p == "/" {
		return errors.New("the root directory cannot be replaced")
	}
	d, err := n.Dir(path.Dir(p))
	if err != nil {
		return err
	}
	node.Name = path.Base(p)
	d.Put(node)
	return nil
}

// AddFile places a regular file owned by root.
func (n *Node) AddFile(p string, perm fs.FileMode, data Source) error {
	return n.Set(p, &Node{Mode: perm.Perm(), Data: data, Origin: "joist"})
}

// AddLink places a symbolic link.
func (n *Node) AddLink(p, target string) error {
	return n.Set(p, &Node{Mode: fs.ModeSymlink | 0o777, Target: target, Origin: "joist"})
}

// Remove takes the entry at p away, with everything below. It reports whether
// there was one. Links in p's directory part are followed.
func (n *Node) Remove(p string) bool {
	p = path.Clean("/" + p)
	d := n.Resolve(path.Dir(p))
	if d == nil {
		return false
	}
	i, ok := d.index(path.Base(p))
	if ok {
		d.Children = slices.Delete(d.Children, i, i+1)
	}
	return ok
}

// SkipDir, returned by a Walk function, leaves a directory's content out.
var SkipDir = fs.SkipDir

// Walk calls f for every entry below n in a fixed order, parents first. Paths
// are absolute and do not include n itself.
func (n *Node) Walk(f func(p string, c *Node) error) error { return n.walkAll("/", f) }

func (n *Node) walkAll(at string, f func(string, *Node) error) error {
	for _, c := range n.Children {
		p := path.Join(at, c.Name)
		switch err := f(p, c); {
		case errors.Is(err, SkipDir):
			continue
		case err != nil:
			return err
		}
		if c.Mode.IsDir() {
			if err := c.walkAll(p, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// Read returns the whole content of the regular file at p.
func (n *Node) Read(p string) ([]byte, error) {
	c := n.Resolve(p)
	if c == nil || !c.Mode.IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: p, Err: fs.ErrNotExist}
	}
	if c.Data == nil {
		return nil, nil
	}
	r, err := c.Data.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
