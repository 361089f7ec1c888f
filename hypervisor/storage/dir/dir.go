// Package dir is the storage type "dir": files in a folder, in the layout that
// clients of the field know (template/iso, template/cache, dump, import,
// snippets, images/<vmid>). Everything goes through an os.Root, so that no
// name and no symbolic link leads out of the folder.
package dir

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"joist/hypervisor/storage"
	"joist/hypervisor/storage/image"
	"joist/internal/run"
)

// spool is the prefix of files that are not whole yet. No volume's name can
// begin with a dot.
const spool = ".joist-upload-"

// Pool is one folder.
type Pool struct {
	cfg  storage.Config
	root *os.Root
	run  run.Runner

	images image.Importer

	mu sync.Mutex // choosing a free name and taking it is one step
}

// Open opens the folder of cfg and makes what is missing below it. The folder
// itself must be there: making it would hide a volume that is not mounted.
func Open(cfg storage.Config, r run.Runner) (*Pool, error) {
	if !filepath.IsAbs(cfg.Path) {
		return nil, fmt.Errorf("open folder %q: not an absolute path", cfg.Path)
	}
	root, err := os.OpenRoot(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	p := &Pool{cfg: cfg, root: root, run: r, images: image.Importer{Run: r}}
	for _, k := range kinds() {
		if cfg.Holds(k.content) {
			if err := root.MkdirAll(k.folder, 0o755); err != nil {
				root.Close()
				return nil, fmt.Errorf("prepare folder for %s: %w", k.content, err)
			}
		}
	}
	return p, nil
}

// ID is the storage's id.
func (p *Pool) ID() string { return p.cfg.ID }

// Status is the file system's; Avail is what is left for programs without root's reserve.
func (p *Pool) Status(context.Context) (storage.Status, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(p.cfg.Path, &s); err != nil {
		return storage.Status{}, fmt.Errorf("read status of storage '%s': %w", p.cfg.ID, err)
	}
	return storage.Status{Active: true, Total: int64(s.Blocks) * s.Bsize, Used: int64(s.Blocks-s.Bfree) * s.Bsize, Avail: int64(s.Bavail) * s.Bsize}, nil
}

// List lists every file that has a volume's name.
func (p *Pool) List(ctx context.Context) ([]storage.Volume, error) {
	var names []string
	for _, k := range kinds() {
		files, err := p.readDir(k.folder)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			names = append(names, k.prefix+"/"+f)
		}
	}
	guests, err := p.readDir("images")
	if err != nil {
		return nil, err
	}
	for _, g := range guests {
		if st, err := p.root.Lstat("images/" + g); err != nil || !st.IsDir() {
			continue // nothing of ours, or a link out of the folder
		}
		files, err := p.readDir("images/" + g)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			names = append(names, g+"/"+f)
		}
	}
	out := make([]storage.Volume, 0, len(names))
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if v, err := p.volume(n); err == nil {
			out = append(out, v)
		}
	}
	return out, nil
}

func (p *Pool) readDir(name string) ([]string, error) {
	d, err := p.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	defer d.Close()
	out, err := d.Readdirnames(-1)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	slices.Sort(out)
	return out, nil
}

// volume reads one volume. What is there but is no plain file is no volume.
func (p *Pool) volume(name string) (storage.Volume, error) {
	at, err := parse(name)
	if err != nil {
		return storage.Volume{}, err
	}
	st, err := p.root.Lstat(at.file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return storage.Volume{}, p.absent(name)
	}
	if err != nil {
		return storage.Volume{}, fmt.Errorf("look up volume '%s:%s': %w", p.cfg.ID, name, err)
	}
	v := storage.Volume{ID: p.cfg.ID + ":" + name, Size: st.Size(), Format: at.format, Content: at.content, VMID: at.vmid, CTime: st.ModTime().Unix()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		v.Used = sys.Blocks * 512
	}
	if at.content == storage.Images && at.format == "qcow2" {
		v.Size = p.virtualSize(at.file)
	}
	return v, nil
}

// virtualSize reads the size out of a qcow2 header of ours (bytes 24 to 31).
func (p *Pool) virtualSize(file string) int64 {
	f, err := p.root.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	var h [32]byte
	if _, err := f.ReadAt(h[:], 0); err != nil || string(h[:4]) != "QFI\xfb" {
		return 0
	}
	return int64(binary.BigEndian.Uint64(h[24:]) & (1<<62 - 1))
}

func (p *Pool) absent(name string) error {
	return &volumeError{fmt.Sprintf("volume '%s:%s' does not exist", p.cfg.ID, name), storage.ErrNotFound}
}

// volumeError is a sentence with the sentinel that callers branch on.
type volumeError struct {
	text string
	is   error
}

func (e *volumeError) Error() string { return e.text }
func (e *volumeError) Unwrap() error { return e.is }

// Create makes a disk for a guest. Raw ones are sparse files.
func (p *Pool) Create(ctx context.Context, s storage.Spec) (storage.Volume, error) {
	v, err := p.create(ctx, s)
	if err != nil {
		return v, fmt.Errorf("create volume on storage '%s': %w", p.cfg.ID, fullDisk(err))
	}
	return v, nil
}

func (p *Pool) create(ctx context.Context, s storage.Spec) (_ storage.Volume, err error) {
	format := s.Format
	if format == "" {
		format = "raw"
	}
	if s.VMID < 100 || s.Size <= 0 || format != "raw" && format != "qcow2" {
		return storage.Volume{}, fmt.Errorf("disk of guest %d with %d bytes in format %q is not possible", s.VMID, s.Size, format)
	}
	size := (s.Size + 1023) &^ 1023
	folder := "images/" + strconv.Itoa(s.VMID)
	if err := p.root.MkdirAll(folder, 0o755); err != nil {
		return storage.Volume{}, err
	}
	name, f, err := p.take(s, format)
	if err != nil {
		return storage.Volume{}, err
	}
	at := path.Join("images", name)
	defer func() {
		f.Close()
		if err != nil {
			p.root.Remove(at)
			p.root.Remove(folder)
		}
	}()
	if format == "raw" {
		err = f.Truncate(size)
	} else {
		// The file is made here and handed over; qemu-img writes the header only.
		_, err = p.run.Run(ctx, run.Cmd{Path: "qemu-img", Files: []*os.File{f},
			Args: []string{"create", "-q", "-f", "qcow2", "/dev/fd/3", strconv.FormatInt(size, 10)}})
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return storage.Volume{}, err
	}
	return storage.Volume{ID: p.cfg.ID + ":" + name, Size: size, Format: format, Content: storage.Images, VMID: s.VMID}, nil
}

// take opens a new file under the asked name, or the first free one.
func (p *Pool) take(s storage.Spec, format string) (string, *os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := 0; n < 1000; n++ {
		base := s.Name
		if base == "" {
			base = fmt.Sprintf("vm-%d-disk-%d", s.VMID, n)
		}
		name := fmt.Sprintf("%d/%s.%s", s.VMID, strings.TrimSuffix(base, "."+format), format)
		at, err := parse(name)
		if err != nil {
			return "", nil, err
		}
		// A number is taken when any format has it: it names the same disk.
		if s.Name == "" && (p.exists(name, ".raw", format) || p.exists(name, ".qcow2", format)) {
			continue
		}
		f, err := p.root.OpenFile(at.file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			err = &volumeError{fmt.Sprintf("volume '%s:%s' already exists", p.cfg.ID, name), storage.ErrExists}
		}
		return name, f, err
	}
	return "", nil, fmt.Errorf("guest %d has too many disks", s.VMID)
}

func (p *Pool) exists(name, end, format string) bool {
	_, err := p.root.Lstat(path.Join("images", strings.TrimSuffix(name, "."+format)+end))
	return err == nil
}

// Resize makes a disk larger.
func (p *Pool) Resize(ctx context.Context, name string, size int64) error {
	v, err := p.volume(name)
	if err == nil && v.Content != storage.Images {
		err = errors.New("only disks have a size to change")
	}
	if err == nil && size < v.Size {
		err = fmt.Errorf("%d bytes are less than the %d that it has", size, v.Size)
	}
	if err == nil {
		err = p.grow(ctx, name, v.Format, size)
	}
	if err != nil {
		return fmt.Errorf("resize volume '%s:%s': %w", p.cfg.ID, name, fullDisk(err))
	}
	return nil
}

func (p *Pool) grow(ctx context.Context, name, format string, size int64) error {
	f, err := p.root.OpenFile(path.Join("images", name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if format == "raw" {
		return f.Truncate(size)
	}
	return p.images.Grow(ctx, f, size)
}

// Delete removes a volume's file, and a guest's folder with its last disk.
func (p *Pool) Delete(_ context.Context, name string) error {
	v, err := p.volume(name)
	if err != nil {
		return err
	}
	at, err := parse(name)
	if err == nil {
		err = p.root.Remove(at.file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return p.absent(name)
	}
	if err != nil {
		return fmt.Errorf("delete volume '%s': %w", v.ID, err)
	}
	if v.Content == storage.Images {
		p.root.Remove(path.Dir(at.file)) // refused while it holds another disk
	}
	return nil
}

// Rename gives a disk another name, in its new guest's folder.
func (p *Pool) Rename(_ context.Context, from, to string) error {
	old, err := parse(from)
	if err != nil {
		return err
	}
	next, err := parse(to)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, there := p.root.Lstat(next.file)
	if _, err := p.root.Lstat(old.file); errors.Is(err, fs.ErrNotExist) {
		if there == nil {
			return nil // renamed before
		}
		return p.absent(from)
	}
	if there == nil {
		return &volumeError{fmt.Sprintf("volume '%s:%s' already exists", p.cfg.ID, to), storage.ErrExists}
	}
	if err := p.root.MkdirAll(path.Dir(next.file), 0o755); err != nil {
		return fmt.Errorf("rename volume '%s:%s': %w", p.cfg.ID, from, fullDisk(err))
	}
	if err := p.root.Rename(old.file, next.file); err != nil {
		return fmt.Errorf("rename volume '%s:%s': %w", p.cfg.ID, from, err)
	}
	p.root.Remove(path.Dir(old.file)) // refused while it holds another disk
	return errors.Join(p.syncDir(path.Dir(next.file)), p.syncDir(path.Dir(path.Dir(next.file))))
}

// Path is where the volume's file is.
func (p *Pool) Path(_ context.Context, name string) (string, error) {
	at, err := parse(name)
	if err != nil {
		return "", err
	}
	return filepath.Join(p.cfg.Path, at.file), nil
}

// Activate returns the path of a volume that is there; files need no more.
func (p *Pool) Activate(ctx context.Context, name string) (string, error) {
	if _, err := p.volume(name); err != nil {
		return "", err
	}
	return p.Path(ctx, name)
}

// Deactivate does nothing: files are always usable.
func (p *Pool) Deactivate(context.Context, string) error { return nil }

// Close lets go of the folder.
func (p *Pool) Close() error { return p.root.Close() }

// Check says whether a file of that content and name could be kept.
func (p *Pool) Check(content, filename string) error {
	_, _, err := p.target(content, filename)
	return err
}

func (p *Pool) target(content, filename string) (name, file string, err error) {
	k, ok := kindOf(content)
	if !ok || !p.cfg.Holds(content) {
		return "", "", fmt.Errorf("storage '%s' does not support content type '%s'", p.cfg.ID, content)
	}
	name = k.prefix + "/" + filename
	at, err := parse(name)
	if err != nil || at.content != content {
		return "", "", fmt.Errorf("wrong file extension or name '%s' for content type '%s'", filename, content)
	}
	if _, err := p.root.Lstat(at.file); err == nil {
		return "", "", &volumeError{fmt.Sprintf("refusing to override existing file '%s'", filename), storage.ErrExists}
	}
	return name, at.file, nil
}

// Spool makes a file for what is being received.
func (p *Pool) Spool() (*os.File, error) {
	f, err := p.root.OpenFile(spool+rand.Text(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spool on storage '%s': %w", p.cfg.ID, fullDisk(err))
	}
	return f, nil
}

// Keep names a spooled file. The link fails where the name is taken, so that
// of two uploads that race one is refused; a rename would replace.
func (p *Pool) Keep(f *os.File, content, filename string) (string, error) {
	name, file, err := p.target(content, filename)
	if err != nil {
		return "", err
	}
	from := filepath.Base(f.Name())
	err = f.Chmod(0o644)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = p.root.Link(from, file)
	}
	if errors.Is(err, fs.ErrExist) {
		return "", &volumeError{fmt.Sprintf("refusing to override existing file '%s'", filename), storage.ErrExists}
	}
	if err == nil {
		err = p.root.Remove(from)
	}
	if err == nil {
		err = p.syncDir(path.Dir(file))
	}
	if err != nil {
		return "", fmt.Errorf("keep file '%s' on storage '%s': %w", filename, p.cfg.ID, fullDisk(err))
	}
	return name, nil
}

func (p *Pool) syncDir(name string) error {
	d, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Drop removes a spooled file.
func (p *Pool) Drop(f *os.File) error {
	err := p.root.Remove(filepath.Base(f.Name()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Clean removes what interrupted uploads left.
func (p *Pool) Clean() error {
	names, err := p.readDir(".")
	if err != nil {
		return err
	}
	var all []error
	for _, n := range names {
		if strings.HasPrefix(n, spool) {
			all = append(all, p.root.Remove(n))
		}
	}
	return errors.Join(all...)
}

// fullDisk turns the kernel's "no space" into ours.
func fullDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	}
	return err
}

var (
	_ storage.Pool     = (*Pool)(nil)
	_ storage.Uploader = (*Pool)(nil)
	_ storage.Locator  = (*Pool)(nil)
)
