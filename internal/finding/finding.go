// Package finding holds what a check, a parser or a plan has to say about its
// input: every finding at once, each with a stable code, the place it concerns
// and the cure. A finding is a value, not an error; List.Err turns a list that
// stops the work into one.
package finding

import (
	"fmt"
	"io"
	"strings"
)

// Level orders findings by what they do to the work at hand.
type Level int

const (
	Note Level = iota // worth knowing, changes nothing
	Warn              // works, but the person should look at it
	Stop              // the work must not go on
)

func (l Level) String() string {
	switch l {
	case Note:
		return "note"
	case Warn:
		return "warning"
	default:
		return "error"
	}
}

// MarshalText makes reports readable for machines and people alike.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote; a word that a newer sender knows
// stops the work.
func (l *Level) UnmarshalText(b []byte) error {
	switch string(b) {
	case "note":
		*l = Note
	case "warning":
		*l = Warn
	default:
		*l = Stop
	}
	return nil
}

// Finding is one sentence about one place.
type Finding struct {
	Level  Level  `json:"level"`
	Code   string `json:"code"`             // stable, dotted or dashed lower case: "memory-too-small"
	Path   string `json:"path,omitempty"`   // file, key or device the finding is about
	Line   int    `json:"line,omitempty"`   // 1-based line in Path's file, 0 when there is none
	Column int    `json:"column,omitempty"` // 1-based column, 0 when there is none
	Text   string `json:"text"`             // what is the case, one sentence
	Hint   string `json:"hint,omitempty"`   // what to do about it
	Source string `json:"-"`                // the source line, shown with a caret
}

// String renders the finding the way compilers do, with caret and cure.
func (f Finding) String() string {
	var b strings.Builder
	if f.Path != "" {
		b.WriteString(f.Path)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
			if f.Column > 0 {
				fmt.Fprintf(&b, ":%d", f.Column)
			}
		}
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "%s: %s", f.Level, f.Text)
	if f.Code != "" {
		fmt.Fprintf(&b, " [%s]", f.Code)
	}
	if f.Source != "" {
		fmt.Fprintf(&b, "\n    %s", f.Source)
		if f.Column > 0 {
			fmt.Fprintf(&b, "\n    %s^", strings.Repeat(" ", f.Column-1))
		}
	}
	if f.Hint != "" {
		fmt.Fprintf(&b, "\n    cure: %s", f.Hint)
	}
	return b.String()
}

// List is what a check returns. The zero value means "nothing to say".
type List []Finding

// Add appends a finding.
func (l *List) Add(f Finding) { *l = append(*l, f) }

// Stopf appends a finding that stops the work.
func (l *List) Stopf(code, path, hint, format string, args ...any) {
	l.Add(Finding{Level: Stop, Code: code, Path: path, Hint: hint, Text: fmt.Sprintf(format, args...)})
}

// Warnf appends a warning.
func (l *List) Warnf(code, path, hint, format string, args ...any) {
	l.Add(Finding{Level: Warn, Code: code, Path: path, Hint: hint, Text: fmt.Sprintf(format, args...)})
}

// Notef appends a note.
func (l *List) Notef(code, path, format string, args ...any) {
	l.Add(Finding{Level: Note, Code: code, Path: path, Text: fmt.Sprintf(format, args...)})
}

// Worst returns the highest level in the list, Note for an empty one.
func (l List) Worst() Level {
	w := Note
	for _, f := range l {
		w = max(w, f.Level)
	}
	return w
}

// Stops reports whether any finding stops the work.
func (l List) Stops() bool { return l.Worst() == Stop && len(l) > 0 }

// Err returns the list as an error when it stops the work, nil otherwise.
func (l List) Err() error {
	if !l.Stops() {
		return nil
	}
	return &Error{List: l}
}

// Waive turns stops with one of the codes into warnings that say they were
// waived. Codes that match nothing are returned, so that a waiver with a
// typing error is noticed.
func (l List) Waive(codes []string) (waived List, unused []string) {
	used := map[string]bool{}
	for _, f := range l {
		for _, c := range codes {
			if f.Code != c {
				continue
			}
			used[c] = true
			if f.Level == Stop {
				f.Level, f.Text = Warn, f.Text+" (waived)"
			}
		}
		waived = append(waived, f)
	}
	for _, c := range codes {
		if !used[c] {
			unused = append(unused, c)
		}
	}
	return waived, unused
}

// Write prints every finding, one block each.
func (l List) Write(w io.Writer) {
	for _, f := range l {
		fmt.Fprintln(w, f.String())
	}
}

// Error carries findings through code that speaks errors.
type Error struct{ List List }

func (e *Error) Error() string {
	var s []string
	for _, f := range e.List {
		if f.Level == Stop {
			s = append(s, f.String())
		}
	}
	return strings.Join(s, "\n")
}
