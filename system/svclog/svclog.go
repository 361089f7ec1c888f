// Package svclog keeps what services write: bounded on disk (two files of one
// MiB per service) and the last lines in memory, where the log begins before
// the disk is there and goes on after it was unmounted.
package svclog

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	fileMax = 1 << 20
	keep    = 200  // lines in memory
	lineMax = 4096 // bytes; longer lines are cut
)

// Log is one service's log.
type Log struct {
	name string
	now  func() time.Time

	mu     sync.Mutex
	lines  []string // the last ones
	early  []string // written before there was a file
	f      *os.File
	size   int64
	path   string
	closed bool
}

// New returns a log that writes to memory until Open.
func New(name string, now func() time.Time) *Log { return &Log{name: name, now: now} }

// Open continues the log in dir, with what was written so far.
func (l *Log) Open(dir string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path, l.closed = filepath.Join(dir, l.name+".log"), false
	if err := l.open(); err != nil {
		return fmt.Errorf("open log of %s: %w", l.name, err)
	}
	for _, s := range l.early {
		l.put(s)
	}
	l.early = nil
	return nil
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Close lets the file go; the log goes on in memory.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// Line adds one line.
func (l *Log) Line(s string) {
	if len(s) > lineMax {
		s = s[:lineMax]
	}
	s = l.now().UTC().Format("2006-01-02T15:04:05.000Z ") + s
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = last(l.lines, s)
	if l.path == "" {
		l.early = last(l.early, s)
		return
	}
	l.put(s)
}

func last(list []string, s string) []string {
	if len(list) >= keep {
		list = append(list[:0], list[1:]...)
	}
	return append(list, s)
}

// put writes to the file, a full one first becoming NAME.log.1. A full disk
// loses lines on disk, nothing else.
func (l *Log) put(s string) {
	if l.f == nil && (l.closed || l.open() != nil) {
		return
	}
	if l.size+int64(len(s)) >= fileMax {
		l.f.Close()
		l.f = nil
		if os.Rename(l.path, l.path+".1") != nil || l.open() != nil {
			return
		}
	}
	n, _ := l.f.WriteString(s + "\n")
	l.size += int64(n)
}

// Tail returns the last n lines.
func (l *Log) Tail(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := max(0, len(l.lines)-n)
	return append([]string(nil), l.lines[from:]...)
}

// Copy adds every line that comes from r, until it ends. Lines without an
// end are cut at 64 KiB.
func (l *Log) Copy(r io.Reader) {
	b := bufio.NewReaderSize(r, 64<<10)
	for {
		line, _, err := b.ReadLine()
		if err != nil {
			return
		}
		l.Line(string(line))
	}
}
