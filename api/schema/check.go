package schema

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The texts below are part of the contract: clients look for them.
const (
	textMissing   = "property is missing and it is not optional"
	textUnknown   = "property is not defined in schema and the schema does not allow additional properties"
	textPattern   = "value does not match the regex pattern"
	textDuplicate = "duplicate parameter (already defined in URI) with conflicting values!"
)

// Checker validates the parameters of one method.
type Checker struct {
	params   map[string]*Param // by name
	families map[string]*Param // "net[n]" by "net"
	patterns map[*Param]*regexp.Regexp
}

// NewChecker prepares m's declaration and refuses one that is wrong: a pattern
// that does not compile, a format nobody knows, a path parameter that is not
// declared.
func NewChecker(m *Method) (*Checker, error) {
	c := &Checker{params: map[string]*Param{}, families: map[string]*Param{}, patterns: map[*Param]*regexp.Regexp{}}
	for i := range m.Params {
		p := &m.Params[i]
		if base, ok := strings.CutSuffix(p.Name, "[n]"); ok {
			if p.Count < 1 {
				return nil, fmt.Errorf("declare %s %s: family %s without count", m.Verb, m.Path, p.Name)
			}
			c.families[base] = p
		} else {
			c.params[p.Name] = p
		}
		if p.Pattern != "" {
			re, err := regexp.Compile(`^(?:` + p.Pattern + `)$`)
			if err != nil {
				return nil, fmt.Errorf("declare %s %s: parameter %s: %w", m.Verb, m.Path, p.Name, err)
			}
			c.patterns[p] = re
		}
		if p.Format != "" {
			if known, _ := Format(p.Format, ""); !known {
				return nil, fmt.Errorf("declare %s %s: parameter %s: unknown format %q", m.Verb, m.Path, p.Name, p.Format)
			}
		}
	}
	for _, name := range pathParams(m.Path) {
		if c.params[name] == nil {
			return nil, fmt.Errorf("declare %s %s: path parameter %s is not declared", m.Verb, m.Path, name)
		}
	}
	return c, nil
}

// Lookup finds the declaration that name falls under. A member of a family is
// its base and a number without leading zeros below Count.
func (c *Checker) Lookup(name string) *Param {
	if p := c.params[name]; p != nil {
		return p
	}
	base := strings.TrimRight(name, "0123456789")
	digits := name[len(base):]
	p := c.families[base]
	if p == nil || digits == "" || len(digits) > 1 && digits[0] == '0' {
		return nil
	}
	if n, err := strconv.Atoi(digits); err != nil || n >= p.Count {
		return nil
	}
	return p
}

// Check validates path parameters and input together. Values come out as
// string, int64, float64, bool or []string; errs holds all that is wrong, by
// parameter, and is empty when everything is right.
func (c *Checker) Check(path map[string]string, in Input) (vals map[string]any, errs map[string]string) {
	vals, errs = map[string]any{}, map[string]string{}
	for name, v := range path {
		if got, ok := in[name]; ok && (len(got) != 1 || got[0] != v) {
			errs[name] = textDuplicate
			continue
		}
		c.one(name, []string{v}, vals, errs)
	}
	for name, v := range in {
		if _, ok := path[name]; !ok {
			c.one(name, v, vals, errs)
		}
	}
	for name, p := range c.params {
		if _, ok := vals[name]; !ok && !p.Optional && errs[name] == "" {
			errs[name] = textMissing
		}
	}
	return vals, errs
}

func (c *Checker) one(name string, v []string, vals map[string]any, errs map[string]string) {
	p := c.Lookup(name)
	if p == nil {
		errs[name] = textUnknown
		return
	}
	val, text := c.value(p, v)
	if text != "" {
		errs[name] = text
		return
	}
	vals[name] = val
}

// value converts the raw values of one parameter; text says what is wrong.
func (c *Checker) value(p *Param, v []string) (val any, text string) {
	switch {
	case p.List:
		return c.elements(p, List(strings.Join(v, ",")))
	case p.Type == Array:
		return c.elements(p, v)
	case len(v) != 1:
		return nil, fmt.Sprintf("type check ('%s') failed - got ARRAY", p.Type)
	}
	s := v[0]
	if strings.ContainsRune(s, 0) {
		return nil, fmt.Sprintf("type check ('%s') failed - got a NUL character", p.Type)
	}
	switch p.Type {
	case Integer:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || s[0] == '+' {
			return nil, typeText(p.Type, s)
		}
		val, text = n, bounds(p, float64(n))
	case Number:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) || strings.ContainsAny(s, "xXpP_") {
			return nil, typeText(p.Type, s)
		}
		val, text = f, bounds(p, f)
	case Boolean:
		if s != "0" && s != "1" {
			return nil, typeText(p.Type, s)
		}
		val = s == "1"
	default:
		val = s
	}
	if text == "" {
		text = c.text(p, s)
	}
	return val, text
}

func typeText(t Type, s string) string {
	return fmt.Sprintf("type check ('%s') failed - got '%s'", t, s)
}

func (c *Checker) elements(p *Param, list []string) (any, string) {
	out := make([]string, 0, len(list))
	for _, s := range list {
		if text := c.text(p, s); text != "" {
			return nil, text
		}
		out = append(out, s)
	}
	return out, ""
}

// text checks what holds for the written form of a value.
func (c *Checker) text(p *Param, s string) string {
	if p.MaxLen > 0 && len([]rune(s)) > p.MaxLen {
		return fmt.Sprintf("value may only be %d characters long", p.MaxLen)
	}
	if len(p.Enum) > 0 && !slices.Contains(p.Enum, s) {
		return fmt.Sprintf("value '%s' does not have a value in the enumeration '%s'", s, strings.Join(p.Enum, ", "))
	}
	if re := c.patterns[p]; re != nil && !re.MatchString(s) {
		return textPattern
	}
	if p.Format != "" {
		if _, err := Format(p.Format, s); err != nil {
			return "invalid format - " + err.Error()
		}
	}
	return ""
}

func bounds(p *Param, f float64) string {
	if p.Min != nil && f < *p.Min {
		return "value must have a minimum value of " + strconv.FormatFloat(*p.Min, 'f', -1, 64)
	}
	if p.Max != nil && f > *p.Max {
		return "value must have a maximum value of " + strconv.FormatFloat(*p.Max, 'f', -1, 64)
	}
	return ""
}
