package answer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// lines returns a field's assignments as TOML, without its secrets.
func (f *field) lines(a *Answer, key string) []string {
	switch p := f.ref(a).(type) {
	case *string:
		return []string{fmt.Sprintf("%s = %q", key, *p)}
	case *Secret:
		return []string{fmt.Sprintf("%s = %q", key, p.String())}
	case *bool:
		return []string{fmt.Sprintf("%s = %v", key, *p)}
	case *int:
		return []string{fmt.Sprintf("%s = %d", key, *p)}
	case **int64:
		if *p == nil {
			return nil
		}
		return []string{fmt.Sprintf("%s = %g", key, float64(**p)/gib)}
	case *[]string:
		return []string{fmt.Sprintf("%s = [%s]", key, quoteAll(*p))}
	case *map[string]string:
		var out []string
		for _, k := range slices.Sorted(maps.Keys(*p)) {
			out = append(out, fmt.Sprintf("%s.%s = %q", strings.TrimSuffix(key, ".*"), bareKey(k), (*p)[k]))
		}
		return out
	}
	return nil
}

// table splits a path into the header it stands under and the rest.
func table(path string) (header, rest string) {
	n := 1
	if strings.HasPrefix(path, "joist.") {
		n = 2
	}
	p := strings.Split(path, ".")
	return strings.Join(p[:n], "."), strings.Join(p[n:], ".")
}

// String shows the answer as canonical TOML without its secrets.
func (a Answer) String() string {
	var b strings.Builder
	last := ""
	for _, f := range schema() {
		if !f.has(&a) {
			continue
		}
		header, key := table(f.path)
		if header != last {
			if last != "" {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "[%s]\n", header)
			last = header
		}
		for _, l := range f.lines(&a, key) {
			b.WriteString(l + "\n")
		}
	}
	return b.String()
}

// Explain says of every key what it does, and of those that were left out
// what holds instead.
func (a Answer) Explain() string {
	var given, left strings.Builder
	for _, f := range schema() {
		_, written := a.at[f.path]
		if written || f.has(&a) {
			for _, l := range f.lines(&a, f.path) {
				fmt.Fprintf(&given, "%s\n    %s\n", l, f.does)
			}
			continue
		}
		if f.unset != "" {
			fmt.Fprintf(&left, "%s\n    %s\n", f.path, f.unset)
		}
	}
	return given.String() + "\n# not given\n\n" + left.String()
}

func quoteAll(v []string) string {
	q := make([]string, len(v))
	for i, s := range v {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}

func bareKey(k string) string {
	if strings.Trim(k, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == "" && k != "" {
		return k
	}
	return fmt.Sprintf("%q", k)
}

// Schema is the JSON Schema (draft 2020-12) of an answer file, for editors.
func Schema() ([]byte, error) {
	root := object("Joist answer file; kebab-case keys, snake_case is accepted as an alias")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	for _, f := range schema() {
		f.describe(root)
	}
	g := root["properties"].(map[string]any)["global"].(map[string]any)
	g["oneOf"] = []any{map[string]any{"required": []string{"root-password"}}, map[string]any{"required": []string{"root-password-hashed"}}}
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return append(b, '\n'), nil
}

func object(description string) map[string]any {
	m := map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{}}
	if description != "" {
		m["description"] = description
	}
	return m
}

// describe adds one field below root, with the tables on its way.
func (f *field) describe(root map[string]any) {
	at := root
	path := strings.Split(f.path, ".")
	for i, p := range path[:len(path)-1] {
		props := at["properties"].(map[string]any)
		next, ok := props[p].(map[string]any)
		if !ok {
			next = object("")
			props[p] = next
		}
		if next["type"] == "string" { // fqdn: a text, or a table with a source
			next = object("")
			props[p] = map[string]any{"anyOf": []any{at["properties"].(map[string]any)[p], next}}
		} else if either, ok := next["anyOf"].([]any); ok {
			next = either[1].(map[string]any)
		}
		if f.must {
			require(at, path[i])
		}
		at = next
	}
	if f.must {
		require(at, path[len(path)-1])
	}
	last := path[len(path)-1]
	if last == "*" {
		at["additionalProperties"] = f.value()
		delete(at, "properties")
		return
	}
	at["properties"].(map[string]any)[last] = f.value()
}

func require(at map[string]any, key string) {
	have, _ := at["required"].([]string)
	if !slices.Contains(have, key) {
		at["required"] = append(have, key)
	}
}

// value is the schema of one value.
func (f *field) value() map[string]any {
	list := map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	m := map[string]any{"description": f.does}
	if f.unset != "" {
		m["description"] = f.does + ". Without it: " + f.unset
	}
	switch f.want {
	case text:
		m["type"] = "string"
	case flag:
		m["type"] = "boolean"
	case whole:
		m["type"] = "integer"
	case gibs:
		m["type"] = "number"
	case texts:
		m["type"], m["items"] = list["type"], list["items"]
	case textList:
		m["anyOf"] = []any{map[string]any{"type": "string"}, list}
	}
	if f.enum != nil {
		m["enum"] = f.enum()
	}
	if f.max > 0 {
		m["minimum"], m["maximum"] = f.min, f.max
	}
	if f.secret() {
		m["writeOnly"] = true
	}
	return m
}
