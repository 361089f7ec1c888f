// Package tmpfiles carries out the part of tmpfiles.d(5) that Debian's
// packages need of it at boot: d and D (folders), f (files) and L (links)
// below /run, /var and /tmp. Everything else in those files concerns systemd,
// cleaning by age or places that the image already holds; Parse counts it.
package tmpfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Line is one line of a tmpfiles.d file that is carried out.
type Line struct {
	Type  byte // 'd', 'f' or 'L'
	Path  string
	Mode  fs.FileMode // 0: the type's default
	User  string      // name or number, "" for root
	Group string
	Arg   string // content of f, target of L
	Force bool   // "+": replace what is there
}

// Parse reads the text of one file. skipped counts lines that are not ours.
func Parse(text string) (lines []Line, skipped int) {
	for raw := range strings.Lines(text) {
		raw = strings.TrimSpace(raw)
		if raw == "" || raw[0] == '#' {
			continue
		}
		l, ok := parseLine(raw)
		if !ok {
			skipped++
			continue
		}
		lines = append(lines, l)
	}
	return lines, skipped
}

func parseLine(raw string) (Line, bool) {
	f := fields(raw)
	if len(f) < 2 {
		return Line{}, false
	}
	l := Line{Type: f[0][0]}
	for _, m := range f[0][1:] {
		switch m {
		case '+':
			l.Force = true
		case '!', '-', '=', '~', '^', '$': // boot only, may fail, …
			if m == '~' || m == '^' {
				return Line{}, false // base64 and credentials
			}
		default:
			return Line{}, false
		}
	}
	switch l.Type {
	case 'D':
		l.Type = 'd'
	case 'd', 'f', 'L':
	default:
		return Line{}, false
	}
	path, ok := expand(f[1])
	if !ok || !ours(path) {
		return Line{}, false
	}
	l.Path = path
	get := func(i int) string {
		if i < len(f) && f[i] != "-" {
			return f[i]
		}
		return ""
	}
	if m := strings.TrimLeft(get(2), ":~"); m != "" {
		n, err := strconv.ParseUint(m, 8, 12)
		if err != nil {
			return Line{}, false
		}
		l.Mode = Mode(uint32(n))
	}
	l.User, l.Group = strings.TrimPrefix(get(3), ":"), strings.TrimPrefix(get(4), ":")
	// The argument is the rest of the line, blanks included.
	if len(f) > 6 {
		l.Arg, _ = expand(strings.Join(f[6:], " "))
	}
	if l.Type == 'L' && l.Arg == "" {
		l.Arg = "/usr/share/factory" + l.Path
	}
	return l, true
}

// Mode turns permission bits of chmod(2) into Go's.
func Mode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for b, f := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if bits&b != 0 {
			m |= f
		}
	}
	return m
}

// expand replaces "%%" and "%t", "%S", "%C", "%L", "%T", "%V"; other
// specifiers are not known.
func expand(s string) (string, bool) {
	known := map[byte]string{'%': "%", 't': "/run", 'S': "/var/lib", 'C': "/var/cache", 'L': "/var/log", 'T': "/tmp", 'V': "/var/tmp"}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) || known[s[i]] == "" {
			return "", false
		}
		b.WriteString(known[s[i]])
	}
	return b.String(), true
}

// ours reports whether the path lies where the running system writes.
func ours(p string) bool {
	if filepath.Clean(p) != strings.TrimSuffix(p, "/") {
		return false
	}
	for _, top := range []string{"/run/", "/var/", "/tmp/"} {
		if strings.HasPrefix(p, top) {
			return true
		}
	}
	return false
}

func fields(s string) (out []string) {
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if q := s[0]; q == '"' || q == '\'' {
			if end := strings.IndexByte(s[1:], q); end >= 0 {
				out = append(out, s[1:1+end])
				s = s[end+2:]
				continue
			}
		}
		i := strings.IndexAny(s, " \t")
		if i < 0 {
			return append(out, s)
		}
		out = append(out, s[:i])
		s = s[i:]
	}
	return out
}

// Read parses all files of the folders below root; a file in an earlier
// folder hides one of the same name in a later one.
func Read(root string, dirs ...string) (lines []Line, skipped int, err error) {
	files := map[string]string{}
	for _, d := range dirs {
		found, _ := filepath.Glob(filepath.Join(root, d, "*.conf"))
		for _, f := range found {
			if files[filepath.Base(f)] == "" {
				files[filepath.Base(f)] = f
			}
		}
	}
	var names []string
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		b, err := os.ReadFile(files[n])
		if err != nil {
			return nil, 0, fmt.Errorf("read tmpfiles rules: %w", err)
		}
		l, s := Parse(string(b))
		lines, skipped = append(lines, l...), skipped+s
	}
	// Folders before what lies in them, as tmpfiles.d(5) says.
	slices.SortStableFunc(lines, func(a, b Line) int { return strings.Compare(a.Path, b.Path) })
	return lines, skipped, nil
}

// IDs finds the number of a user or group.
type IDs func(name string) (int, error)

// Apply carries the lines out below root. One that fails does not stop the
// others.
func Apply(root string, lines []Line, user, group IDs) error {
	var errs []error
	for _, l := range lines {
		if err := l.apply(root, user, group); err != nil {
			errs = append(errs, fmt.Errorf("make %s: %w", l.Path, err))
		}
	}
	return errors.Join(errs...)
}

func (l Line) apply(root string, user, group IDs) error {
	p := filepath.Join(root, l.Path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if l.Type == 'L' {
		return l.link(p)
	}
	uid, err := id(l.User, user)
	if err != nil {
		return err
	}
	gid, err := id(l.Group, group)
	if err != nil {
		return err
	}
	mode := l.Mode
	switch l.Type {
	case 'd':
		if mode == 0 {
			mode = 0o755
		}
		if err := os.Mkdir(p, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case 'f':
		if mode == 0 {
			mode = 0o644
		}
		flag := os.O_CREATE | os.O_EXCL | os.O_WRONLY
		if l.Force {
			flag = os.O_CREATE | os.O_TRUNC | os.O_WRONLY
		}
		f, err := os.OpenFile(p, flag, 0o600)
		if errors.Is(err, fs.ErrExist) {
			break
		}
		if err != nil {
			return err
		}
		_, err = f.WriteString(l.Arg)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return own(p, l.Type, mode, uid, gid)
}

// own sets owner and mode, never through a link that took the place.
func own(p string, kind byte, mode fs.FileMode, uid, gid int) error {
	st, err := os.Lstat(p)
	if err != nil {
		return err
	}
	if (kind == 'd') != st.IsDir() || (kind == 'f') != st.Mode().IsRegular() {
		return errors.New("something else is there")
	}
	if err := os.Lchown(p, uid, gid); err != nil {
		return err
	}
	return os.Chmod(p, mode)
}

func (l Line) link(p string) error {
	if to, err := os.Readlink(p); err == nil && to == l.Arg {
		return nil // so that a start writes nothing
	}
	if _, err := os.Lstat(p); err == nil {
		if !l.Force {
			return nil
		}
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return os.Symlink(l.Arg, p)
}

func id(name string, find IDs) (int, error) {
	if name == "" || name == "root" {
		return 0, nil
	}
	if n, err := strconv.Atoi(name); err == nil {
		return n, nil
	}
	return find(name)
}

// Table reads names and numbers from the text of passwd(5) or group(5).
func Table(text string) IDs {
	m := map[string]int{}
	for line := range strings.Lines(text) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= 3 {
			if n, err := strconv.Atoi(f[2]); err == nil {
				m[f[0]] = n
			}
		}
	}
	return func(name string) (int, error) {
		n, ok := m[name]
		if !ok {
			return 0, fmt.Errorf("unknown user or group %q", name)
		}
		return n, nil
	}
}
