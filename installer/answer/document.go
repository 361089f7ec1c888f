package answer

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"joist/internal/finding"
)

// place is where something stands in the file, with the line to show.
type place struct {
	line, column int
	source       string
}

// value is a TOML value with its kind; only the field for the kind is set.
type value struct {
	kind unstable.Kind
	text string
	num  float64
	flag bool
	list []value
}

// leaf is one key with its value, by its full path as written.
type leaf struct {
	path []string
	at   place
	end  int // line of the value's end
	val  value
}

// document is a flat view of a TOML file: tables and dotted keys are paths.
type document struct {
	leaves   []leaf
	partial  bool // at least one line could not be read and was left out
	unusable bool // recovery was not possible
}

// maxSyntax bounds how many broken lines one run reports.
const maxSyntax = 20

// parse reads b. The TOML library stops at the first error; to report all of
// them a broken `key = value` line is blanked and the rest is read again. A
// broken line of any other form (a table header, the middle of an array) ends
// recovery, because what follows it could only be misunderstood.
func parse(b []byte, name string) (document, finding.List) {
	var d document
	var fs finding.List
	src := newSource(b)
	b = bytes.Clone(b)
	for range maxSyntax {
		var m map[string]any
		err := toml.Unmarshal(b, &m)
		if err == nil {
			d.leaves = flatten(b, src)
			return d, fs
		}
		row, col := 1, 1
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, col = de.Position()
		}
		row = min(max(row, 1), len(src.lines))
		p := src.at(row, col)
		if n := len(fs); n > 0 && fs[n-1].Line == p.line && fs[n-1].Column == p.column {
			break // what is wrong begins elsewhere
		}
		p.source = guarded(src.lines, row, p.source)
		fs.Add(finding.Finding{Level: finding.Stop, Code: "answer-syntax", Path: name, Line: p.line, Column: p.column, Source: p.source,
			Text: syntaxText(err), Hint: "write the line as TOML (toml.io): key = \"text\", key = true, key = [\"a\", \"b\"]"})
		d.partial = true
		if !blank(b, row) {
			break
		}
	}
	d.unusable = true
	return d, fs
}

// syntaxText drops what the library puts around its message. Its text never
// quotes values, only the character or key at fault.
func syntaxText(err error) string {
	s, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "toml: "), "\n")
	return "this is not valid TOML: " + s
}

// blank overwrites line row (from 1) with spaces when it has the form
// `key = …` and says whether it did.
func blank(b []byte, row int) bool {
	start := 0
	for i := 1; i < row; i++ {
		n := bytes.IndexByte(b[start:], '\n')
		if n < 0 {
			return false
		}
		start += n + 1
	}
	end := len(b)
	if n := bytes.IndexByte(b[start:], '\n'); n >= 0 {
		end = start + n
	}
	line := bytes.TrimSpace(b[start:end])
	if len(line) == 0 || line[0] == '[' || bytes.IndexByte(line, '=') < 1 ||
		bytes.Contains(line, []byte(`"""`)) || bytes.Contains(line, []byte(`'''`)) {
		return false
	}
	for i := start; i < end; i++ {
		b[i] = ' '
	}
	return true
}

// secretKey finds the keys whose values are never shown, in TOML and JSON.
// A misspelled one is still one.
var secretKey = regexp.MustCompile(`(?i)([\w-]*(?:pass|pasw|token|secret|subscription)[\w-]*["']?)\s*[=:].*`)

// maxSource is the longest line that is shown with a finding.
const maxSource = 200

// source is a file by lines, with the offset at which each begins.
type source struct {
	lines  []string
	starts []int
}

func newSource(b []byte) source {
	s := source{lines: strings.Split(string(b), "\n")}
	at := 0
	for _, l := range s.lines {
		s.starts = append(s.starts, at)
		at += len(l) + 1
	}
	return s
}

// line is the number of the line, from 1, that holds an offset.
func (s source) line(offset int) int {
	n, found := slices.BinarySearch(s.starts, offset)
	if found {
		n++
	}
	return max(n, 1)
}

// offset makes a place of an offset.
func (s source) offset(off int) place {
	row := s.line(off)
	return s.at(row, off-s.starts[row-1]+1)
}

// at makes a place of row and column in bytes: tabs become spaces and columns
// count characters, so that the caret stands right; the value of a secret is
// cut off. Longer lines (JSON on one line) are not shown.
func (s source) at(row, col int) place {
	p := place{line: row, column: max(col, 1)}
	if row < 1 || row > len(s.lines) || len(s.lines[row-1]) > 4*maxSource {
		return p
	}
	l := s.lines[row-1]
	if n := min(p.column-1, len(l)); n > 0 {
		p.column = utf8.RuneCountInString(l[:n]) + 1
	}
	l = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return ' '
		}
		return r
	}, l)
	p.source = secretKey.ReplaceAllString(l, "$1 = "+hidden)
	if n := utf8.RuneCountInString(p.source); n > maxSource || n < p.column-1 {
		p.source = "" // the place is in what was cut off
	}
	return p
}

// ownKey is a line that begins with a key, so that its text cannot be the
// rest of a value that began above it.
var ownKey = regexp.MustCompile(`^\s*(\[|["']?[A-Za-z0-9_.-]+["']?\s*[=:])`)

// guarded drops a line of broken text that may be the rest of a secret that
// began above it: its structure is not known.
func guarded(lines []string, row int, source string) string {
	if row < 1 || row > len(lines) || ownKey.MatchString(lines[row-1]) {
		return source
	}
	for _, l := range lines[:row-1] {
		if secretKey.MatchString(l) {
			return ""
		}
	}
	return source
}

// walker collects the leaves of a document that is known to be valid.
type walker struct {
	p   unstable.Parser
	src source
	out []leaf
}

func flatten(b []byte, src source) []leaf {
	w := walker{src: src}
	w.p.Reset(b)
	var table []string
	arrays := map[string]bool{}
	for w.p.NextExpression() {
		n := w.p.Expression()
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			var at place
			table, at = w.key(nil, n.Key())
			// no key of the schema is an array of tables: report the header
			if id := strings.Join(table, "."); n.Kind == unstable.ArrayTable && !arrays[id] {
				arrays[id] = true
				w.out = append(w.out, leaf{path: table, at: at, end: at.line, val: value{kind: unstable.ArrayTable}})
			}
		case unstable.KeyValue:
			w.pair(table, n)
		}
	}
	return w.out
}

// key appends the parts of a dotted key to prefix; the schema needs five, what
// lies deeper is unknown whatever its name.
func (w *walker) key(prefix []string, it unstable.Iterator) ([]string, place) {
	path := append([]string(nil), prefix...)
	off := 0
	for it.Next() {
		off = int(it.Node().Raw.Offset)
		if len(path) <= maxDepth {
			path = append(path, string(it.Node().Data))
		}
	}
	return path, w.src.offset(off)
}

func (w *walker) pair(prefix []string, kv *unstable.Node) {
	path, at := w.key(prefix, kv.Key())
	v := kv.Value()
	if v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			w.pair(path, it.Node())
		}
		return
	}
	end := at.line
	if v.Kind == unstable.String {
		end = w.src.line(int(v.Raw.Offset + v.Raw.Length))
	}
	w.out = append(w.out, leaf{path: path, at: at, end: end, val: convert(v)})
}

func convert(n *unstable.Node) value {
	v := value{kind: n.Kind, text: string(n.Data)}
	switch n.Kind {
	case unstable.Bool:
		v.flag = v.text == "true"
	case unstable.Integer:
		i, _ := strconv.ParseInt(v.text, 0, 64)
		if i == 0 { // ParseInt with base 0 reads a leading zero as octal, which TOML forbids anyway
			i, _ = strconv.ParseInt(strings.ReplaceAll(strings.TrimPrefix(v.text, "+"), "_", ""), 10, 64)
		}
		v.num = float64(i)
	case unstable.Float:
		v.num, _ = strconv.ParseFloat(strings.ReplaceAll(v.text, "_", ""), 64)
	case unstable.Array:
		for it := n.Children(); it.Next(); {
			v.list = append(v.list, convert(it.Node()))
		}
	}
	return v
}
