package boot

import (
	"errors"
	"fmt"
	"strings"
)

// EnvSize is the size of an environment block. GRUB rewrites it sector by
// sector in place and never changes its length.
const EnvSize = 1024

const envHeader = "# GRUB Environment Block\n"

// Env is GRUB's environment block: variables that its scripts load and save
// (GRUB manual, "The GRUB environment block"; a backslash quotes a backslash
// or a newline in a value, and number signs fill the rest).
type Env struct{ vars []envVar }

type envVar struct{ name, value string }

// DecodeEnv reads a block. It is as strict as GRUB about the header and as
// tolerant about comment lines.
func DecodeEnv(b []byte) (*Env, error) {
	if len(b) != EnvSize || !strings.HasPrefix(string(b), envHeader) {
		return nil, errors.New("read boot environment: this is no GRUB environment block of 1024 bytes")
	}
	e := &Env{}
	for rest := string(b[len(envHeader):]); rest != ""; {
		var line string
		line, rest = cutLine(rest)
		name, value, ok := strings.Cut(line, "=")
		if strings.HasPrefix(line, "#") || !ok {
			continue
		}
		if err := e.Set(name, unescape(value)); err != nil {
			return nil, fmt.Errorf("read boot environment: %w", err)
		}
	}
	return e, nil
}

// cutLine ends the line at the first newline that is not quoted.
func cutLine(s string) (line, rest string) {
	comment := strings.HasPrefix(s, "#")
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && !comment:
			i++
		case s[i] == '\n':
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Get returns the value of a variable, empty when it is not set.
func (e *Env) Get(name string) string {
	for _, v := range e.vars {
		if v.name == name {
			return v.value
		}
	}
	return ""
}

// Set gives a variable a value; it keeps its place in the block.
func (e *Env) Set(name, value string) error {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return fmt.Errorf("set boot variable: %q is not a name", name)
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("set boot variable %q: the value has a zero byte", name)
	}
	for i := range e.vars {
		if e.vars[i].name == name {
			e.vars[i].value = value
			return nil
		}
	}
	e.vars = append(e.vars, envVar{name, value})
	return nil
}

// Encode makes the 1024 bytes.
func (e *Env) Encode() ([]byte, error) {
	var b strings.Builder
	b.WriteString(envHeader)
	for _, v := range e.vars {
		quoted := strings.NewReplacer(`\`, `\\`, "\n", "\\\n").Replace(v.value)
		fmt.Fprintf(&b, "%s=%s\n", v.name, quoted)
	}
	if b.Len() > EnvSize {
		return nil, fmt.Errorf("write boot environment: %d bytes, at most %d fit", b.Len(), EnvSize)
	}
	b.WriteString(strings.Repeat("#", EnvSize-b.Len()))
	return []byte(b.String()), nil
}
