// Package guest is the wire form of guest configurations: which keys qm.conf
// and pct.conf have, what their values may be, how they look in JSON, and
// which of them this node only keeps.
package guest

import (
	"regexp"
	"slices"
	"strconv"

	"joist/api/schema"
)

// Kind says whose keys are meant. The words are the API's.
type Kind string

const (
	QEMU Kind = "qemu"
	LXC  Kind = "lxc"
)

// Option declares one configuration key.
type Option struct {
	Name   string      // "memory", "net" for the family net0 … netN
	Type   schema.Type // Boolean and Integer are JSON numbers, Number and String JSON strings
	Count  int         // size of an indexed family, 0 for a single key
	Enum   []string
	Lo, Hi float64 // range of a number when Hi > Lo
	Max    int     // length of a string, 0: 8192
	// Plain says what the value means for a node that does not implement the
	// option: "" for implemented ones, otherwise the value ("0", a word) that
	// asks for nothing special, or "-" when every value asks for something.
	Plain string
	// Server keys are made by the server, clients cannot set them.
	Server bool
	Text   string

	check func(value string) (string, error) // returns the normal form
}

var indexRE = regexp.MustCompile(`^([a-z]+)(0|[1-9][0-9]{0,2})$`)

// Lookup finds the declaration of a key: "memory", "net3".
func Lookup(kind Kind, key string) (Option, bool) {
	name, n := key, -1
	if m := indexRE.FindStringSubmatch(key); m != nil {
		name = m[1]
		n, _ = strconv.Atoi(m[2])
	}
	for _, o := range tables[kind] {
		if o.Count == 0 && o.Name == key || o.Count > 0 && o.Name == name && n >= 0 && n < o.Count {
			return o, true
		}
	}
	return Option{}, false
}

// Options returns all keys of a kind.
func Options(kind Kind) []Option { return slices.Clone(tables[kind]) }

// Params declares the keys that clients may set as parameters of a method.
func Params(kind Kind) []schema.Param {
	var out []schema.Param
	for _, o := range tables[kind] {
		if o.Server {
			continue
		}
		p := schema.Param{Name: o.Name, Type: o.Type, Optional: true, Enum: o.Enum, MaxLen: o.Max, Text: o.Text}
		if o.Count > 0 {
			p.Name, p.Count = o.Name+"[n]", o.Count
		}
		if o.Hi > o.Lo {
			p.Min, p.Max = schema.F(o.Lo), schema.F(o.Hi)
		}
		out = append(out, p)
	}
	return out
}

// Wire returns a value as JSON shows it: booleans and integers are numbers,
// everything else is a string.
func Wire(kind Kind, key, value string) any {
	o, ok := Lookup(kind, key)
	if !ok {
		return value
	}
	switch o.Type {
	case schema.Boolean, schema.Integer:
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			return n
		}
	}
	return value
}
