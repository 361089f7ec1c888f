package lock

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"joist/internal/finding"
)

const header = `# The packages this image is made of. Written by "joist build"; commit it.
# To take newer packages, delete it or run "joist build --update".
`

// file is the shape of the text.
type file struct {
	Format   int       `toml:"format"`
	Config   string    `toml:"config"`
	Suites   []string  `toml:"suites"`
	Packages []Package `toml:"package"`
}

// Encode renders the lock, packages sorted by name. Equal locks give equal
// bytes. Written by hand and not by the TOML library, because its layout may
// change with its version and a lock must not.
func Encode(l Lock) ([]byte, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	ps := slices.Clone(l.Packages)
	sortPackages(ps)
	var b bytes.Buffer
	b.WriteString(header)
	fmt.Fprintf(&b, "format = %d\n", Format)
	fmt.Fprintf(&b, "config = %s\n", quote(l.Config))
	fmt.Fprintf(&b, "suites = %s\n", list(l.Suites))
	for _, p := range ps {
		fmt.Fprintf(&b, "\n[[package]]\nname = %s\nversion = %s\narch = %s\nsize = %d\nsha256 = %s\npath = %s\nsuite = %s\ncomponent = %s\n",
			quote(p.Name), quote(p.Version), quote(p.Arch), p.Size, quote(p.SHA256), quote(p.Path), quote(p.Suite), quote(p.Component))
		if len(p.Sets) > 0 {
			fmt.Fprintf(&b, "sets = %s\n", list(p.Sets))
		}
		if len(p.Why) > 0 {
			fmt.Fprintf(&b, "why = %s\n", list(p.Why))
		}
	}
	return b.Bytes(), nil
}

// quote is a TOML basic string. Validate has limited every string to printable
// ASCII without quotes and backslashes, for which Go and TOML agree.
func quote(s string) string { return strconv.Quote(s) }

func list(ss []string) string {
	q := make([]string, len(ss))
	for i, s := range ss {
		q[i] = quote(s)
	}
	return "[" + strings.Join(q, ", ") + "]"
}

// Decode reads the text of the file called name. Unknown keys are errors; an
// error in the text is a *finding.Error with line and column.
func Decode(name string, text []byte) (Lock, error) {
	var f file
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Lock{}, positioned(name, err)
	}
	if f.Format != Format {
		var fs finding.List
		fs.Stopf("lock-format", name, "delete it, so that the next build writes a new one, or use the joist that wrote it",
			"format %d is not %d, the one this joist reads", f.Format, Format)
		return Lock{}, fs.Err()
	}
	l := Lock{Config: f.Config, Suites: f.Suites, Packages: f.Packages}
	if err := l.Validate(); err != nil {
		return Lock{}, fmt.Errorf("read %s: %w", name, err)
	}
	sortPackages(l.Packages)
	return l, nil
}

const badText = "restore it from version control, or delete it, so that the next build writes a new one"

func positioned(name string, err error) error {
	var fs finding.List
	var strict *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		for i := range strict.Errors {
			row, col := strict.Errors[i].Position()
			fs.Add(finding.Finding{Level: finding.Stop, Code: "lock-key", Path: name, Line: row, Column: col,
				Text: fmt.Sprintf("key %q is unknown", strings.Join(strict.Errors[i].Key(), ".")), Hint: badText})
		}
	case errors.As(err, &syntax):
		row, col := syntax.Position()
		fs.Add(finding.Finding{Level: finding.Stop, Code: "lock-syntax", Path: name, Line: row, Column: col,
			Text: strings.TrimPrefix(syntax.Error(), "toml: "), Hint: badText})
	default:
		return fmt.Errorf("read %s: %w", name, err)
	}
	return fs.Err()
}
