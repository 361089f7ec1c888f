package answer

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"joist/internal/finding"
)

// maxDepth bounds nested objects and arrays; the schema needs five.
const maxDepth = 16

// parseJSON reads the same schema as JSON (RFC 8259), which answer servers
// may send. A null is a key that was left out.
func parseJSON(b []byte, name string) (document, finding.List) {
	r := &jsonReader{b: b, d: json.NewDecoder(bytes.NewReader(b)), src: newSource(b)}
	r.d.UseNumber()
	err := r.object(nil, 0)
	if err == nil {
		if _, tail := r.d.Token(); tail != io.EOF {
			err = errors.New("something follows the end of the object")
		}
	}
	if err == nil {
		return document{leaves: r.leaves}, nil
	}
	p := r.src.offset(int(r.d.InputOffset()))
	var se *json.SyntaxError
	if errors.As(err, &se) {
		p = r.src.offset(max(int(se.Offset)-1, 0))
	}
	p.source = guarded(r.src.lines, p.line, p.source)
	var fs finding.List
	fs.Add(finding.Finding{Level: finding.Stop, Code: "answer-syntax", Path: name, Line: p.line, Column: p.column, Source: p.source,
		Text: "this is not valid JSON: " + plainJSON(err), Hint: "write the file as JSON (json.org) or as TOML (toml.io)"})
	return document{partial: true, unusable: true}, fs
}

// plainJSON words an error without the input that it may quote.
func plainJSON(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	var se *json.SyntaxError
	if errors.As(err, &se) {
		if i := strings.Index(se.Error(), "looking for"); i >= 0 {
			return "an unexpected character " + se.Error()[i:]
		}
		if strings.HasPrefix(se.Error(), "invalid character") {
			return "an unexpected character"
		}
	}
	return err.Error()
}

type jsonReader struct {
	b      []byte
	d      *json.Decoder
	src    source
	leaves []leaf
}

// next returns the next token and where it begins.
func (r *jsonReader) next() (json.Token, place, error) {
	off := int(r.d.InputOffset())
	for off < len(r.b) && strings.IndexByte(" \t\n\r,:", r.b[off]) >= 0 {
		off++
	}
	t, err := r.d.Token()
	return t, r.src.offset(off), err
}

// object reads "{ key: value, … }" and its leaves.
func (r *jsonReader) object(prefix []string, depth int) error {
	t, _, err := r.next()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return errors.New("an answer is an object, { … }")
	}
	return r.members(prefix, depth)
}

func (r *jsonReader) members(prefix []string, depth int) error {
	if depth > maxDepth {
		return errors.New("it is nested too deeply")
	}
	for {
		t, at, err := r.next()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return nil // the closing brace: the decoder lets nothing else through
		}
		path := append(append([]string(nil), prefix...), key)
		t, _, err = r.next()
		if err != nil {
			return err
		}
		switch {
		case t == nil:
		case t == json.Delim('{'):
			if err := r.members(path, depth+1); err != nil {
				return err
			}
		default:
			v, err := r.value(t, depth+1)
			if err != nil {
				return err
			}
			r.leaves = append(r.leaves, leaf{path: path, at: at, end: r.src.line(int(r.d.InputOffset())), val: v})
		}
	}
}

// value reads what begins with t.
func (r *jsonReader) value(t json.Token, depth int) (value, error) {
	switch t := t.(type) {
	case string:
		return value{kind: unstable.String, text: t}, nil
	case bool:
		return value{kind: unstable.Bool, flag: t}, nil
	case json.Number:
		n, err := t.Float64()
		k := unstable.Integer
		if err != nil || strings.ContainsAny(t.String(), ".eE") {
			k = unstable.Float
		}
		return value{kind: k, num: n}, nil
	}
	if t == json.Delim('{') { // below an array, where the schema has none
		return value{kind: unstable.InlineTable}, r.skip(depth)
	}
	if depth > maxDepth {
		return value{}, errors.New("it is nested too deeply")
	}
	v := value{kind: unstable.Array}
	for {
		t, _, err := r.next()
		if err != nil {
			return v, err
		}
		if t == json.Delim(']') {
			return v, nil
		}
		e, err := r.value(t, depth+1)
		if err != nil {
			return v, err
		}
		v.list = append(v.list, e)
	}
}

// skip reads over the rest of an object without keeping it.
func (r *jsonReader) skip(depth int) error {
	kept := r.leaves
	err := r.members(nil, depth+1)
	r.leaves = kept
	return err
}
