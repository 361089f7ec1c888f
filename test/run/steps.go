package main

import (
	"bytes"
	"io"
	"regexp"
)

// stepLine is what of the installer's console a person waits for: its steps,
// and findings.
var stepLine = regexp.MustCompile(`^\[(started|finished|failed|[ \d]{3} %)\]|: (error|warning): |^    cure: |^The installation ended`)

// steps passes on the lines that match, indented.
type steps struct {
	to   io.Writer
	line []byte
}

// Write never fails: the console goes on whoever listens.
func (s *steps) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			s.line = append(s.line, b...)
			return n, nil
		}
		line := append(s.line, b[:i+1]...)
		if stepLine.Match(line) {
			s.to.Write(append([]byte("  "), line...))
		}
		s.line, b = nil, b[i+1:]
	}
}
