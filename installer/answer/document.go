package answer

import (
	"bytes"
	"errors"
	"regexp"
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
	b = bytes.Clone(b)
	lines := strings.Split(string(b), "\n")
	for range maxSyntax {
		var m map[string]any
		err := toml.Unmarshal(b, &m)
		if err == nil {
			d.leaves = flatten(b, lines)
			return d, fs
		}
		row, col := 1, 1
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, col = de.Position()
		}
		row = min(max(row, 1), len(lines))
		p := placeAt(lines, row, col)
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

var secretKey = regexp.MustCompile(`(?i)((?:root[-_]password(?:[-_]hashed)?|auth[-_]token|subscription[-_]key)["']?)\s*=.*`)

// placeAt makes a place: tabs become spaces and columns count characters, so
// that the caret stands right; the value of a secret is cut off.
func placeAt(lines []string, row, col int) place {
	p := place{line: row, column: max(col, 1)}
	if row < 1 || row > len(lines) {
		return p
	}
	l := lines[row-1]
	if n := min(p.column-1, len(l)); n > 0 {
		p.column = utf8.RuneCountInString(l[:n]) + 1
	}
	l = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, l)
	p.source = secretKey.ReplaceAllString(l, "$1 = "+hidden)
	return p
}

// flatten walks a document that is known to be valid.
func flatten(b []byte, lines []string) []leaf {
	var out []leaf
	var table []string
	var p unstable.Parser
	p.Reset(b)
	arrays := map[string]int{}
	for p.NextExpression() {
		n := p.Expression()
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = nil
			var at place
			for it := n.Key(); it.Next(); {
				table = append(table, string(it.Node().Data))
				at = position(&p, it.Node(), lines)
			}
			if n.Kind == unstable.ArrayTable {
				// no key of the schema is an array of tables: report the header
				id := strings.Join(table, ".")
				arrays[id]++
				if arrays[id] == 1 {
					out = append(out, leaf{path: table, at: at, val: value{kind: unstable.ArrayTable}})
				}
			}
		case unstable.KeyValue:
			out = appendValue(out, &p, table, n, lines)
		}
	}
	return out
}

func appendValue(out []leaf, p *unstable.Parser, prefix []string, kv *unstable.Node, lines []string) []leaf {
	path := append([]string(nil), prefix...)
	var at place
	for it := kv.Key(); it.Next(); {
		path = append(path, string(it.Node().Data))
		at = position(p, it.Node(), lines)
	}
	v := kv.Value()
	if v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			out = appendValue(out, p, path, it.Node(), lines)
		}
		return out
	}
	return append(out, leaf{path: path, at: at, val: convert(v)})
}

func position(p *unstable.Parser, n *unstable.Node, lines []string) place {
	s := p.Shape(n.Raw).Start
	return placeAt(lines, s.Line, s.Column)
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
