package task

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What lies in a task folder, besides 0 … F with the logs.
const (
	activeDir  = "active"  // an empty file per running task
	journalDir = "journal" // what to undo, a file per task
	indexFile  = "index"   // "UPID end-time-hex status", a line per ended task
)

// maxLog bounds one task's log; what comes after is counted, not kept.
const maxLog = 8 << 20

// logFile is a task's log on disk. Lines are written as they come, so that
// readers see them at once.
type logFile struct {
	mu    sync.Mutex
	f     *os.File
	size  int64
	lost  int
	warns int
}

func createLog(name string) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	return &logFile{f: f}, nil
}

// openLog opens the log of a task that was interrupted.
func openLog(name string) (*logFile, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	return &logFile{f: f}, nil
}

// Printf implements Log. A text of several lines becomes several lines.
func (l *logFile) Printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(fmt.Sprintf(format, args...))
}

// Warnf implements Log. The prefix is what clients look for.
func (l *logFile) Warnf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.warns++
	l.write("WARN: " + fmt.Sprintf(format, args...))
}

func (l *logFile) write(text string) {
	text = strings.TrimRight(strings.ReplaceAll(text, "\r", ""), "\n") + "\n"
	if l.size+int64(len(text)) > maxLog {
		l.lost++
		return
	}
	n, err := l.f.WriteString(text)
	l.size += int64(n)
	if err != nil { // a full disk must not end the work; say so at the end
		l.lost++
	}
}

func (l *logFile) warnings() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.warns
}

// end writes the last line and closes the log.
func (l *logFile) end(last string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost > 0 {
		fmt.Fprintf(l.f, "%d more lines were not kept\n", l.lost)
	}
	last, _, _ = strings.Cut(last, "\n")
	l.f.WriteString(last + "\n")
	l.f.Close()
}

func (l *logFile) close() { l.f.Close() }

// readLines returns a part of a file's lines and their number.
func readLines(name string, start, limit int) (lines []string, total int, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read task log: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		s, err := r.ReadString('\n')
		if s != "" {
			if total >= start && (limit <= 0 || len(lines) < limit) {
				lines = append(lines, strings.TrimSuffix(s, "\n"))
			}
			total++
		}
		if err != nil { // the end, or a disk that cannot be read further
			return lines, total, nil
		}
	}
}

// index is the file of ended tasks.
type index struct {
	name string
	f    *os.File
}

// openIndex reads the last entries of the index and opens it for more. A task
// that is entered twice counts once. A last line that a crash cut is dropped.
func openIndex(name string, keep int) (*index, []Info, error) {
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read task index: %w", err)
	}
	at := map[string]int{}
	var list []Info
	for s := range strings.Lines(string(b)) {
		t, ok := parseEntry(s)
		if !ok {
			continue
		}
		id := t.UPID.String()
		if i, twice := at[id]; twice {
			list[i] = t
			continue
		}
		at[id] = len(list)
		list = append(list, t)
	}
	if len(list) > keep+keep/4 {
		list = list[len(list)-keep:]
	}
	x := &index{name: name}
	if cut := len(b) > 0 && b[len(b)-1] != '\n'; cut {
		return x, list, x.rewrite(list)
	}
	return x, list, x.open()
}

func (x *index) open() (err error) {
	x.f, err = os.OpenFile(x.name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open task index: %w", err)
	}
	return nil
}

func entry(t Info) string {
	return fmt.Sprintf("%s %08X %s\n", t.UPID, uint32(t.Ended.Unix()), t.Status)
}

func parseEntry(s string) (Info, bool) {
	s, whole := strings.CutSuffix(s, "\n")
	f := strings.SplitN(s, " ", 3)
	if !whole || len(f) != 3 {
		return Info{}, false
	}
	u, err := ParseUPID(f[0])
	if err != nil {
		return Info{}, false
	}
	n, err := strconv.ParseUint(f[1], 16, 32)
	return Info{UPID: u, Ended: time.Unix(int64(n), 0), Status: f[2]}, err == nil
}

func (x *index) add(t Info) error {
	_, err := x.f.WriteString(entry(t))
	return err
}

// rewrite replaces the index; it is not synced, since losing an entry only
// loses history.
func (x *index) rewrite(list []Info) error {
	var b strings.Builder
	for _, t := range list {
		b.WriteString(entry(t))
	}
	if err := os.WriteFile(x.name+".new", []byte(b.String()), 0o640); err != nil {
		return fmt.Errorf("write task index: %w", err)
	}
	if err := os.Rename(x.name+".new", x.name); err != nil {
		return fmt.Errorf("write task index: %w", err)
	}
	if x.f != nil {
		x.f.Close()
	}
	return x.open()
}

func (x *index) close() error { return x.f.Close() }
