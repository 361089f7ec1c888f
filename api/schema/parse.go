package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// Input is a request's parameters before validation: every value is text, a
// key given several times (or as a JSON array) has several.
type Input map[string][]string

// errNested is a JSON value that no parameter can take.
var errNested = errors.New("parameters are strings, numbers, booleans or arrays of these")

// ParseForm reads query strings and url-encoded bodies. Pairs are separated
// by & or ; and "_dc", with which browsers defeat caches, is dropped.
func ParseForm(s string) (Input, error) {
	in := Input{}
	for pair := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '&' || r == ';' }) {
		k, v, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(k)
		if err != nil {
			return nil, fmt.Errorf("read parameters: %w", err)
		}
		val, err := url.QueryUnescape(v)
		if err != nil {
			return nil, fmt.Errorf("read parameter %q: %w", key, err)
		}
		if key == "" || key == "_dc" {
			continue
		}
		in[key] = append(in[key], val)
	}
	return in, nil
}

// ParseJSON reads a JSON object. Numbers keep the text they were written
// with, true and false become 1 and 0, null is the same as absence.
func ParseJSON(b []byte) (Input, error) {
	in := Input{}
	if len(bytes.TrimSpace(b)) == 0 {
		return in, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var obj map[string]any
	if err := d.Decode(&obj); err != nil {
		return nil, fmt.Errorf("read parameters: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("read parameters: text after the JSON object")
	}
	for k, v := range obj {
		if k == "_dc" || v == nil {
			continue
		}
		list, isList := v.([]any)
		if !isList {
			list = []any{v}
		}
		vals := make([]string, 0, len(list))
		for _, e := range list {
			s, err := scalar(e)
			if err != nil {
				return nil, fmt.Errorf("read parameter %q: %w", k, err)
			}
			vals = append(vals, s)
		}
		in[k] = vals
	}
	return in, nil
}

func scalar(v any) (string, error) {
	switch x := v.(type) {
	case string:
		return x, nil
	case json.Number:
		return x.String(), nil
	case bool:
		if x {
			return "1", nil
		}
		return "0", nil
	}
	return "", errNested
}

// Merge returns body and query as one; a key of the query wins.
func Merge(body, query Input) Input {
	if len(body) == 0 {
		return query
	}
	for k, v := range query {
		body[k] = v
	}
	return body
}
