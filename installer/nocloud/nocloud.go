// Package nocloud reads what a hypervisor gives a machine for cloud-init, the
// data source NoCloud: a volume labelled "cidata" with user-data, meta-data and
// network-config. What a node needs becomes an answer; what is not understood
// is a finding by its name. It is pure.
package nocloud

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"joist/installer/answer"
	"joist/internal/finding"
)

// Label of the volume, and its files.
const (
	Label         = "cidata"
	UserData      = "user-data"
	MetaData      = "meta-data"
	NetworkConfig = "network-config"
)

// Files are the volume's files, nil where there is none.
type Files struct{ UserData, MetaData, NetworkConfig []byte }

// Machine is what the volume does not say.
type Machine struct {
	Disk   string // that becomes the node's
	Cards  []Card
	Domain string // that a DHCP lease names, "" for none
}

// Card is a network card.
type Card struct{ Name, MAC string }

// maxSize bounds each file.
const maxSize = 256 << 10

// Findings lists what reading such a volume may say.
func Findings() []answer.Row {
	return []answer.Row{
		{Code: "cloud-init-unreadable", Level: finding.Stop, When: "a file of the volume `cidata` is no YAML, or larger than 256 KiB", Cure: "correct it; `cloud-init schema --config-file FILE` checks it"},
		{Code: "cloud-init-unknown", Level: finding.Warn, When: "user-data or meta-data has a key that means nothing to a node; it stops where it is about accounts or the network", Cure: "remove it, or give an answer file as user-data"},
		{Code: "cloud-init-incomplete", Level: finding.Stop, When: "host name or root's password is missing", Cure: "add `hostname`, or `chpasswd` with root's hashed password"},
		{Code: "cloud-init-wrong-value", Level: finding.Stop, When: "a value is not of the form that its key takes", Cure: "write it as the finding says"},
	}
}

// reader collects the answer and what is wrong.
type reader struct {
	a      answer.Answer
	m      Machine
	search []string // domains
	fl     finding.List
}

// Read makes an answer. user-data that is no cloud-config is an answer file.
func Read(f Files, m Machine) (answer.Answer, finding.List) {
	r := &reader{m: m}
	for name, text := range map[string][]byte{UserData: f.UserData, MetaData: f.MetaData, NetworkConfig: f.NetworkConfig} {
		if len(text) > maxSize {
			r.stop("cloud-init-unreadable", name, "check that this is the right file", "it is larger than 256 KiB")
		}
	}
	if r.fl.Stops() {
		return r.a, r.fl
	}
	if text := bytes.TrimSpace(f.UserData); len(text) > 0 && !cloudConfig(text) {
		return answer.Load(bytes.NewReader(f.UserData), UserData)
	}
	r.a = answer.Answer{
		Global:  answer.Global{Keyboard: "en-us", Country: "us", Timezone: "UTC"},
		Network: answer.Network{Source: answer.FromDHCP},
		Disk:    answer.Disk{Filesystem: answer.Ext4, List: []string{m.Disk}},
	}
	r.meta(r.parse(MetaData, f.MetaData))
	r.user(r.parse(UserData, f.UserData))
	if len(bytes.TrimSpace(f.NetworkConfig)) > 0 {
		r.network(r.parse(NetworkConfig, f.NetworkConfig))
	}
	r.complete()
	if !r.fl.Stops() {
		r.fl = append(r.fl, r.a.Validate()...)
	}
	return r.a, r.fl
}

// cloudConfig says whether user-data is cloud-config, by its first line.
func cloudConfig(text []byte) bool {
	first, _, _ := bytes.Cut(text, []byte("\n"))
	return strings.TrimSpace(string(first)) == "#cloud-config"
}

func (r *reader) stop(code, path, hint, format string, args ...any) {
	r.fl.Stopf(code, path, hint, format, args...)
}

func (r *reader) wrong(path, hint, format string, args ...any) {
	r.stop("cloud-init-wrong-value", path, hint, format, args...)
}

// object is a mapping of YAML.
type object map[string]json.RawMessage

// parse reads a file. An error never quotes it: it may hold a password.
func (r *reader) parse(name string, text []byte) object {
	b, err := yaml.YAMLToJSONStrict(text)
	var o object
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		r.stop("cloud-init-unreadable", name, "correct it; `cloud-init schema --config-file "+name+"` checks it", "it is no YAML mapping, or names a key twice")
	}
	return o
}

// each calls what knows a key, in the order of the names. A key without one is
// a finding.
func (r *reader) each(path string, o object, known map[string]func(path string, v json.RawMessage), unknown func(path string)) {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		at := path + "." + printable(k)
		if f, ok := known[k]; !ok {
			unknown(at)
		} else if f != nil && string(o[k]) != "null" {
			f(at, o[k])
		}
	}
}

// printable keeps a name from outside fit for a console.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, s[:min(len(s), 64)])
}

func (r *reader) ignored(path string) {
	r.fl.Warnf("cloud-init-unknown", path, "remove it, or give an answer file as user-data", "it means nothing to a node and is left out")
}

func (r *reader) refused(path string) {
	r.stop("cloud-init-unknown", path, "remove it, or give an answer file as user-data", "a node cannot do what it asks for")
}

// text reads a string; a number is one too.
func (r *reader) text(path string, v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(v, &n) == nil {
		return n.String()
	}
	r.wrong(path, "write a string", "it is no string")
	return ""
}

// texts reads a list of strings, or one.
func (r *reader) texts(path string, v json.RawMessage) []string {
	var list []json.RawMessage
	if json.Unmarshal(v, &list) != nil {
		return []string{r.text(path, v)}
	}
	var out []string
	for i, x := range list {
		out = append(out, r.text(fmt.Sprintf("%s[%d]", path, i), x))
	}
	return out
}

// objects reads a list of mappings.
func (r *reader) objects(path string, v json.RawMessage) []object {
	var list []object
	if json.Unmarshal(v, &list) != nil {
		r.wrong(path, "write a list of mappings", "it is no list of mappings")
	}
	return list
}

func (r *reader) object(path string, v json.RawMessage) object {
	var o object
	if json.Unmarshal(v, &o) != nil {
		r.wrong(path, "write a mapping", "it is no mapping")
	}
	return o
}

func (r *reader) flag(path string, v json.RawMessage) bool {
	var b bool
	if json.Unmarshal(v, &b) != nil {
		r.wrong(path, "write true or false", "it is neither true nor false")
	}
	return b
}
