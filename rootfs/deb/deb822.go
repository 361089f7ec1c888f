package deb

import (
	"fmt"
	"strings"
)

// scanner walks deb822 text (deb822(5)) field by field without copying: what
// it returns are parts of the text.
type scanner struct {
	text string
	line int // of the field last returned, 1-based
	next int // line the rest of text starts at
}

// kind is what scan found.
type kind int

const (
	atField kind = iota
	atBlank      // end of a stanza
	atEnd
)

func newScanner(text string) *scanner { return &scanner{text: text, next: 1} }

// takeLine cuts the next line, without its newline and a trailing CR.
func (s *scanner) takeLine() string {
	line, rest := s.text, ""
	if i := strings.IndexByte(s.text, '\n'); i >= 0 {
		line, rest = s.text[:i], s.text[i+1:]
	}
	s.text = rest
	s.next++
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

func blank(line string) bool { return strings.Trim(line, " \t") == "" }

// scan returns the next field. The value of a field with continuation lines
// is raw: newlines and leading spaces as they stand.
func (s *scanner) scan() (name, value string, k kind, err error) {
	for s.text != "" {
		s.line = s.next
		whole := s.text
		line := s.takeLine()
		switch {
		case line == "" || blank(line):
			return "", "", atBlank, nil
		case line[0] == '#':
			continue
		case line[0] == ' ' || line[0] == '\t':
			return "", "", atField, fmt.Errorf("line %d: continuation line without a field", s.line)
		}
		colon := strings.IndexByte(line, ':')
		if colon <= 0 || strings.ContainsAny(line[:colon], " \t") {
			return "", "", atField, fmt.Errorf("line %d: no field name", s.line)
		}
		name = line[:colon]
		end := len(line)
		for s.text != "" && (s.text[0] == ' ' || s.text[0] == '\t' || s.text[0] == '#') {
			before := s.text
			more := s.takeLine()
			if blank(more) && more != "" {
				// A line of spaces only ends the stanza for apt and dpkg alike.
				s.text, s.next = before, s.next-1
				break
			}
			end = len(whole) - len(before) + len(more)
		}
		return name, strings.Trim(whole[colon+1:end], " \t\r\n"), atField, nil
	}
	return "", "", atEnd, nil
}

// Field is one line of a control file, its value with continuation lines
// joined by newlines, their first space removed.
type Field struct {
	Name  string
	Value string
	Line  int
}

// Fields is one stanza in its own order.
type Fields []Field

// Get returns the value of a field, "" when it is missing. Names are compared
// without regard to case, as deb822(5) says.
func (f Fields) Get(name string) string {
	for _, x := range f {
		if strings.EqualFold(x.Name, name) {
			return x.Value
		}
	}
	return ""
}

// Has reports whether the stanza has a field.
func (f Fields) Has(name string) bool {
	for _, x := range f {
		if strings.EqualFold(x.Name, name) {
			return true
		}
	}
	return false
}

// ParseStanzas reads all stanzas of a deb822 text. A field that occurs twice
// in a stanza is an error.
func ParseStanzas(text string) ([]Fields, error) {
	var out []Fields
	var cur Fields
	s := newScanner(text)
	for {
		name, value, k, err := s.scan()
		if err != nil {
			return nil, fmt.Errorf("parse control data: %w", err)
		}
		if k == atField {
			if cur.Has(name) {
				return nil, fmt.Errorf("parse control data: line %d: field %s twice", s.line, name)
			}
			cur = append(cur, Field{Name: name, Value: unfold(value), Line: s.line})
			continue
		}
		if cur != nil {
			out, cur = append(out, cur), nil
		}
		if k == atEnd {
			return out, nil
		}
	}
}

// unfold drops comment lines inside a value and the space before each
// continuation line.
func unfold(v string) string {
	if !strings.Contains(v, "\n") {
		return v
	}
	var out []string
	for i, line := range strings.Split(v, "\n") {
		line = strings.TrimRight(line, " \t\r")
		if i > 0 {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if line != "" {
				line = line[1:]
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}
