package deb

import (
	"fmt"
	"net/url"
	"strings"
)

// aptOptions is what apt.conf(5) sets, names in lower case, last one wins.
// Lists (names that end in "::") are of no interest here.
type aptOptions map[string]string

// parseAptConf reads a file of apt.conf's syntax into o: Name "value"; and
// scopes in braces; //, # and /* */ comments. #clear is obeyed, #include is
// not (apt.conf(5): both are directives, although they look like comments).
func (o aptOptions) parseAptConf(text string) error {
	var scope []string
	var words []string
	t := aptTokens{text: text, line: 1}
	for {
		tok, err := t.next()
		if err != nil {
			return fmt.Errorf("parse apt.conf: line %d: %w", t.line, err)
		}
		switch tok {
		case "":
			if len(scope) > 0 {
				return fmt.Errorf("parse apt.conf: a brace is not closed")
			}
			o.statement(scope, words)
			return nil
		case "{":
			name := ""
			if len(words) > 0 {
				name = words[0]
			}
			scope, words = append(scope, name), nil
		case "}":
			if len(scope) == 0 {
				return fmt.Errorf("parse apt.conf: line %d: brace closed that was not opened", t.line)
			}
			o.statement(scope, words)
			scope, words = scope[:len(scope)-1], nil
		case ";":
			o.statement(scope, words)
			words = nil
		default:
			words = append(words, tok)
		}
	}
}

func (o aptOptions) statement(scope, words []string) {
	if len(words) == 0 {
		return
	}
	if strings.EqualFold(words[0], "#clear") {
		for _, w := range words[1:] {
			prefix := strings.ToLower(w)
			for k := range o {
				if k == prefix || strings.HasPrefix(k, prefix+"::") {
					delete(o, k)
				}
			}
		}
		return
	}
	if len(words) != 2 {
		return
	}
	name := strings.ToLower(strings.Join(append(scope[:len(scope):len(scope)], unquote(words[0])), "::"))
	o[name] = unquote(words[1])
}

func unquote(s string) string { return strings.Trim(s, `"`) }

type aptTokens struct {
	text string
	line int
}

// next returns the next token: "{", "}", ";", a word or a quoted string with
// its quotes; "" at the end.
func (t *aptTokens) next() (string, error) {
	for t.text != "" {
		c := t.text[0]
		switch {
		case c == '\n':
			t.line++
			t.text = t.text[1:]
		case c == ' ' || c == '\t' || c == '\r':
			t.text = t.text[1:]
		case strings.HasPrefix(t.text, "//"), c == '#' && !strings.HasPrefix(strings.ToLower(t.text), "#clear"):
			if i := strings.IndexByte(t.text, '\n'); i >= 0 {
				t.text = t.text[i:]
			} else {
				t.text = ""
			}
		case strings.HasPrefix(t.text, "/*"):
			i := strings.Index(t.text, "*/")
			if i < 0 {
				return "", fmt.Errorf("comment is not closed")
			}
			t.line += strings.Count(t.text[:i], "\n")
			t.text = t.text[i+2:]
		case c == '{' || c == '}' || c == ';':
			t.text = t.text[1:]
			return string(c), nil
		default:
			return t.word()
		}
	}
	return "", nil
}

func (t *aptTokens) word() (string, error) {
	if t.text[0] == '"' {
		i := strings.IndexByte(t.text[1:], '"')
		if i < 0 {
			return "", fmt.Errorf("quote is not closed")
		}
		w := t.text[:i+2]
		t.line += strings.Count(w, "\n")
		t.text = t.text[i+2:]
		return w, nil
	}
	i := strings.IndexAny(t.text, " \t\r\n;{}\"")
	if i < 0 {
		i = len(t.text)
	}
	w := t.text[:i]
	t.text = t.text[i:]
	return w, nil
}

// proxy is the proxy apt would use for a URL (apt-transport-http(1)): the
// host's own option before the scheme's, https falling back to http. known is
// false when apt says nothing, so that the environment counts; a nil URL
// means a direct connection.
func (o aptOptions) proxy(u *url.URL) (proxy *url.URL, known bool, err error) {
	schemes := []string{"http"}
	if u.Scheme == "https" {
		schemes = []string{"https", "http"}
	}
	for _, s := range schemes {
		for _, name := range []string{"acquire::" + s + "::proxy::" + strings.ToLower(u.Hostname()), "acquire::" + s + "::proxy"} {
			v, ok := o[name]
			switch {
			case !ok || v == "":
				continue
			case strings.EqualFold(v, "DIRECT"), strings.EqualFold(v, "false"):
				return nil, true, nil
			}
			if !strings.Contains(v, "://") {
				v = "http://" + v
			}
			p, err := url.Parse(v)
			if err != nil || p.Host == "" {
				return nil, true, fmt.Errorf("read apt's proxy: option %s is not a URL", name) // never the value: it may hold a password
			}
			return p, true, nil
		}
	}
	return nil, false, nil
}

// login is one line of apt_auth.conf(5).
type login struct {
	scheme, host, path string
	user, password     string
}

// parseAuth reads netrc-like text: machine [scheme://]host[:port][/path]
// login NAME password WORD.
func parseAuth(text string) ([]login, error) {
	var out []login
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			lines = append(lines, line)
		}
	}
	w := strings.Fields(strings.Join(lines, "\n"))
	for i := 0; i < len(w); i += 2 {
		if i+1 >= len(w) {
			return nil, fmt.Errorf("parse auth.conf: %q has no value", w[i])
		}
		key, value := w[i], w[i+1]
		if key != "machine" && len(out) == 0 {
			return nil, fmt.Errorf("parse auth.conf: it does not start with \"machine\"")
		}
		switch key {
		case "machine":
			var l login
			if s, rest, ok := strings.Cut(value, "://"); ok {
				l.scheme, value = s, rest
			}
			l.host, l.path, _ = strings.Cut(value, "/")
			out = append(out, l)
		case "login":
			out[len(out)-1].user = value
		case "password":
			out[len(out)-1].password = value
		default:
			return nil, fmt.Errorf("parse auth.conf: word %d is none of machine, login, password", i+1)
		}
	}
	return out, nil
}

// matches reports whether a login is meant for a URL. One without a scheme is
// for encrypted connections only, so that a password never travels in the
// clear by accident.
func (l login) matches(u *url.URL) bool {
	if l.scheme != u.Scheme && !(l.scheme == "" && u.Scheme == "https") {
		return false
	}
	host := u.Host
	if !strings.Contains(l.host, ":") {
		host = u.Hostname()
	}
	return strings.EqualFold(l.host, host) && strings.HasPrefix(strings.TrimPrefix(u.Path, "/"), l.path)
}
