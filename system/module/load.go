package module

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Loader loads each module at most once. It is safe for concurrent use:
// whoever needs a module that another goroutine is loading waits for it.
type Loader struct {
	Index     *Index
	Params    map[string][]string // module name → "param=value"
	Blacklist []string            // never loaded by modalias
	Insert    func(file, params string) error

	mu   sync.Mutex
	done map[string]func() error
	seen map[string]bool // modaliases looked at
}

// Insert gives the file to the kernel, compressed or not. A module that is
// already there is no error.
func Insert(file, params string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		// While somebody else loads the same module the kernel waits for that,
		// and any signal ends the wait; Go's scheduler sends them.
		if err = unix.FinitModule(int(f.Fd()), params, flags(file)); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// flags tells the kernel to decompress the file; it knows the one method it
// was built for (CONFIG_MODULE_COMPRESS_*) and refuses others, and it takes a
// plain module for a damaged archive when it is told to decompress that.
func flags(file string) int {
	switch filepath.Ext(file) {
	case ".xz", ".zst", ".gz":
		return unix.MODULE_INIT_COMPRESSED_FILE
	}
	return 0
}

// Load loads the named modules (or what their aliases stand for) and all that
// they need. A name that no module has is an error: callers name only what
// they depend on.
func (l *Loader) Load(names ...string) error {
	var errs []error
	for _, name := range names {
		mods := l.Index.Match(name)
		if len(mods) == 0 && !l.Index.Builtin(name) {
			errs = append(errs, fmt.Errorf("load module %q: not in %s", name, l.Index.dir))
		}
		for _, m := range mods {
			errs = append(errs, l.chain(m))
		}
	}
	return errors.Join(errs...)
}

func (l *Loader) chain(name string) error {
	for _, m := range l.Index.Order(name) {
		if err := l.once(m); err != nil && m == name {
			return err
		}
		// A dependency that fails shows in the module that needs it; a soft
		// one does not matter.
	}
	return nil
}

func (l *Loader) once(name string) error {
	l.mu.Lock()
	if l.done == nil {
		l.done = map[string]func() error{}
	}
	f := l.done[name]
	if f == nil {
		f = sync.OnceValue(func() error {
			file := filepath.Join(l.Index.dir, l.Index.files[name])
			if err := l.Insert(file, strings.Join(l.Params[name], " ")); err != nil {
				return fmt.Errorf("load module %q: %w", name, err)
			}
			return nil
		})
		l.done[name] = f
	}
	l.mu.Unlock()
	return f()
}

// Coldplug loads the modules for every modalias below dir ("/sys/devices")
// that was not looked at before and returns how many were new. Modules load
// in several goroutines, since most drivers probe their device meanwhile.
// Modules whose file is not there (an initramfs holds a selection) and
// devices that a driver refuses (ENODEV) are not errors.
func (l *Loader) Coldplug(dir string) (fresh int, err error) {
	var found []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "modalias" {
			return nil
		}
		b, err := os.ReadFile(path)
		if s := strings.TrimSpace(string(b)); err == nil && s != "" && l.isNew(s) {
			found = append(found, s)
		}
		return nil
	})
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		slot = make(chan struct{}, 4)
	)
	for _, a := range found {
		for _, m := range l.Index.Match(a) {
			if slices.Contains(l.Blacklist, m) {
				continue
			}
			wg.Go(func() {
				slot <- struct{}{}
				defer func() { <-slot }()
				if err := l.chain(m); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return len(found), errors.Join(errs...)
}

func (l *Loader) isNew(modalias string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	if l.seen[modalias] {
		return false
	}
	l.seen[modalias] = true
	return true
}

// Release is the running kernel's release, the folder's name below
// /lib/modules.
func Release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}
