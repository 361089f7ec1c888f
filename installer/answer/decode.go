package answer

import (
	"math"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"joist/internal/finding"
)

const gib = 1 << 30

const maxGiB = 1 << 20 // 1 PiB

// want is the type a key takes, in the words of a finding.
type want string

const (
	text     want = "a text in quotes"
	flag     want = "true or false"
	whole    want = "a whole number"
	gibs     want = "a number of GiB"
	texts    want = "a list of texts, [\"a\", \"b\"]"
	textList want = "a text or a list of texts"
)

func (w want) takes(v value) bool {
	switch w {
	case text:
		return v.kind == unstable.String
	case flag:
		return v.kind == unstable.Bool
	case whole:
		return v.kind == unstable.Integer
	case gibs:
		return v.kind == unstable.Integer || v.kind == unstable.Float
	case textList:
		return v.kind == unstable.String || texts.takes(v)
	default:
		if v.kind != unstable.Array {
			return false
		}
		for _, e := range v.list {
			if e.kind != unstable.String {
				return false
			}
		}
		return true
	}
}

// set stores v, whose type was checked, where f refers to.
func (f *field) set(a *Answer, key string, v value) {
	switch p := f.ref(a).(type) {
	case *string:
		*p = v.text
	case *Secret:
		*p = Secret(v.text)
	case *bool:
		*p = v.flag
	case *int:
		*p = int(math.Max(math.Min(v.num, math.MaxInt32), -1)) // out of range stays so, for Validate to refuse
	case **int64:
		n := int64(-1) // as above
		if v.num >= 0 && v.num <= maxGiB && !math.IsNaN(v.num) {
			n = int64(v.num * gib)
		}
		*p = &n
	case *map[string]string:
		if *p == nil {
			*p = map[string]string{}
		}
		(*p)[key] = v.text
	case *[]string:
		*p = []string{}
		if v.kind == unstable.String {
			*p = append(*p, v.text)
		}
		for _, e := range v.list {
			*p = append(*p, e.text)
		}
	}
}

// has says whether the value is other than the zero value.
func (f *field) has(a *Answer) bool {
	switch p := f.ref(a).(type) {
	case *string:
		return *p != ""
	case *Secret:
		return *p != ""
	case *bool:
		return *p
	case *int:
		return *p != 0
	case **int64:
		return *p != nil
	case *map[string]string:
		return len(*p) > 0
	case *[]string:
		return len(*p) > 0
	}
	return false
}

func (f *field) secret() bool {
	_, ok := f.ref(&Answer{}).(*Secret)
	return ok
}

// find returns the field for a path as written, and the path in its canonical
// spelling. Keys below "*" keep theirs.
func find(fields []field, path []string) (*field, string) {
	norm := make([]string, len(path))
	for i, p := range path {
		norm[i] = strings.ReplaceAll(p, "_", "-")
	}
	canonical := strings.Join(norm, ".")
	for i := range fields {
		f := &fields[i]
		if f.path == canonical {
			return f, canonical
		}
		if parent, ok := strings.CutSuffix(f.path, ".*"); ok && len(path) > 1 && strings.Join(norm[:len(norm)-1], ".") == parent {
			return f, parent + "." + path[len(path)-1]
		}
	}
	return nil, canonical
}

// hideSecrets cuts the shown lines where a secret begins on them, however its
// key was spelled, and empties those that its value goes on over.
func hideSecrets(fields []field, d document) {
	from := map[int]int{} // line → first column of a secret
	hide := func(line, column int) {
		if c, ok := from[line]; !ok || column < c {
			from[line] = column
		}
	}
	for _, l := range d.leaves {
		f, _ := find(fields, l.path)
		if f != nil && f.secret() || f == nil && secretKey.MatchString(l.path[len(l.path)-1]+"=") {
			hide(l.at.line, l.at.column)
			for line := l.at.line + 1; line <= l.end; line++ {
				hide(line, 1)
			}
		}
	}
	for i := range d.leaves {
		at := &d.leaves[i].at
		c, ok := from[at.line]
		r := []rune(at.source)
		switch {
		case !ok || strings.HasSuffix(at.source, " = "+hidden):
		case c-1 > len(r) || at.column > c:
			at.source = ""
		default:
			at.source = string(r[:c-1]) + hidden
		}
	}
}

// decode fills a from d through the schema.
func (a *Answer) decode(d document) finding.List {
	var fs finding.List
	fields := schema()
	hideSecrets(fields, d)
	for _, l := range d.leaves {
		f, canonical := find(fields, l.path)
		_, twice := a.at[canonical]
		if !twice {
			a.at[canonical] = l.at
		}
		report := func(code, hint, text string) {
			fs.Add(finding.Finding{Level: finding.Stop, Code: code, Path: a.name, Line: l.at.line, Column: l.at.column,
				Source: l.at.source, Text: text, Hint: hint})
			a.wrong = append(a.wrong, canonical)
		}
		switch {
		case f == nil && isTable(fields, canonical):
			report("answer-wrong-type", "write it as one table", "the key "+canonical+" takes a table")
		case f == nil:
			report("answer-unknown-key", suggestKey(fields, canonical), "the key "+printable(strings.Join(l.path, "."))+" is unknown")
		case twice:
			report("answer-duplicate-key", "keep one of the two; a key and its snake_case alias are the same", "the key "+printable(canonical)+" is given twice")
		case !f.want.takes(l.val):
			report("answer-wrong-type", "write it as "+string(f.want), "the key "+printable(canonical)+" takes "+string(f.want))
			a.bad[canonical] = true
		default:
			f.set(a, l.path[len(l.path)-1], l.val)
		}
	}
	return fs
}

// isTable says whether keys lie below path.
func isTable(fields []field, path string) bool {
	return slices.ContainsFunc(fields, func(f field) bool { return strings.HasPrefix(f.path, path+".") })
}

// printable keeps a key of a file from steering the terminal that shows it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// suggestKey names the nearest key of the schema, if one is near.
func suggestKey(fields []field, path string) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.path)
	}
	if n := nearest(all, path); n != "" {
		return "did you mean " + n + "?"
	}
	// the right key in the wrong table is the other common error
	last := path[strings.LastIndexByte(path, '.')+1:]
	for _, p := range all {
		if strings.HasSuffix(p, "."+last) {
			return "did you mean " + p + "?"
		}
	}
	return "remove it; the keys are listed in docs/answer-file.md"
}
