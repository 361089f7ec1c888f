package schema

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Router finds the value V that was added for a verb and a path. Literal path
// segments win over parameters, parameters over one that takes the rest.
type Router[V any] struct{ root branch[V] }

type branch[V any] struct {
	verbs   map[string]V
	literal map[string]*branch[V]
	param   *branch[V]
	name    string // of the parameter that this branch stands for
	rest    *branch[V]
}

// Match is a routing result: either a method's value or, for GET on a folder
// without a method of its own, the names below it.
type Match[V any] struct {
	Value  V
	Params map[string]string
	Index  []string // not nil for an index answer
}

// Split cuts a percent-decoded path into its segments. Empty ones, from
// doubled and trailing slashes, are dropped.
func Split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// Add enters v for m. Two methods on one verb and path, or two names for a
// parameter in one place, are mistakes.
func (r *Router[V]) Add(m *Method, v V) error {
	b := &r.root
	segs := Split(m.Path)
	for i, s := range segs {
		name, isParam := strings.CutPrefix(s, "{")
		name = strings.TrimSuffix(name, "}")
		name, isRest := strings.CutSuffix(name, "...")
		switch {
		case !isParam:
			if b.literal == nil {
				b.literal = map[string]*branch[V]{}
			}
			if b.literal[s] == nil {
				b.literal[s] = &branch[V]{}
			}
			b = b.literal[s]
		case isRest && i != len(segs)-1:
			return fmt.Errorf("add %s %s: %s is not the last segment", m.Verb, m.Path, s)
		default:
			at := &b.param
			if isRest {
				at = &b.rest
			}
			if *at == nil {
				*at = &branch[V]{name: name}
			}
			if (*at).name != name {
				return fmt.Errorf("add %s %s: parameter %s is called %s elsewhere", m.Verb, m.Path, name, (*at).name)
			}
			b = *at
		}
	}
	if b.verbs == nil {
		b.verbs = map[string]V{}
	}
	if _, ok := b.verbs[m.Verb]; ok {
		return fmt.Errorf("add %s %s: declared twice", m.Verb, m.Path)
	}
	b.verbs[m.Verb] = v
	return nil
}

// Find looks up a verb and a percent-decoded path.
func (r *Router[V]) Find(verb, path string) (Match[V], bool) {
	m := Match[V]{Params: map[string]string{}}
	segs := Split(path)
	if v, ok := r.root.find(verb, segs, m.Params); ok {
		m.Value = v
		return m, true
	}
	if verb == "GET" {
		clear(m.Params)
		if b := r.root.folder(segs, m.Params); b != nil && len(b.literal) > 0 {
			m.Index = b.index()
			return m, true
		}
	}
	return m, false
}

func (b *branch[V]) find(verb string, segs []string, params map[string]string) (V, bool) {
	var none V
	if len(segs) == 0 {
		v, ok := b.verbs[verb]
		return v, ok
	}
	if next := b.literal[segs[0]]; next != nil {
		if v, ok := next.find(verb, segs[1:], params); ok {
			return v, true
		}
	}
	if b.param != nil {
		if v, ok := b.param.find(verb, segs[1:], params); ok {
			params[b.param.name] = segs[0]
			return v, true
		}
	}
	if b.rest != nil {
		if v, ok := b.rest.verbs[verb]; ok {
			params[b.rest.name] = strings.Join(segs, "/")
			return v, true
		}
	}
	return none, false
}

func (b *branch[V]) folder(segs []string, params map[string]string) *branch[V] {
	if len(segs) == 0 {
		return b
	}
	if next := b.literal[segs[0]]; next != nil {
		if f := next.folder(segs[1:], params); f != nil {
			return f
		}
	}
	if b.param != nil {
		if f := b.param.folder(segs[1:], params); f != nil {
			params[b.param.name] = segs[0]
			return f
		}
	}
	return nil
}

func (b *branch[V]) index() []string {
	names := make([]string, 0, len(b.literal))
	for n := range b.literal {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// pathParams lists the parameters that a path names.
func pathParams(path string) []string {
	var names []string
	for _, s := range Split(path) {
		if n, ok := strings.CutPrefix(s, "{"); ok {
			names = append(names, strings.TrimSuffix(strings.TrimSuffix(n, "}"), "..."))
		}
	}
	slices.Sort(names)
	return names
}
