package nocloud

import (
	"encoding/json"
	"fmt"
	"strings"

	"joist/installer/answer"
)

// known is what reads each key.
type known map[string]func(path string, v json.RawMessage)

func (r *reader) meta(o object) {
	r.each(MetaData, o, known{
		"instance-id":    nil,
		"hostname":       r.hostName,
		"local-hostname": r.hostName,
		"public-keys": func(path string, v json.RawMessage) {
			r.a.Global.RootSSHKeys = append(r.a.Global.RootSSHKeys, r.texts(path, v)...)
		},
	}, r.ignored)
}

// hostName takes the longest: user-data comes after meta-data, fqdn before
// hostname.
func (r *reader) hostName(path string, v json.RawMessage) {
	s := r.text(path, v)
	if strings.Contains(r.a.Global.FQDN, ".") && !strings.Contains(s, ".") {
		return
	}
	r.a.Global.FQDN = s
}

func (r *reader) user(o object) {
	if _, ok := o["fqdn"]; ok {
		delete(o, "hostname")
	}
	r.each(UserData, o, known{
		"fqdn": r.hostName, "hostname": r.hostName,
		"timezone":            func(path string, v json.RawMessage) { r.a.Global.Timezone = r.text(path, v) },
		"keyboard":            func(path string, v json.RawMessage) { r.keyboard(path, r.object(path, v)) },
		"ssh_authorized_keys": r.keys,
		"password":            func(path string, v json.RawMessage) { r.password(path, r.text(path, v)) },
		"chpasswd":            func(path string, v json.RawMessage) { r.chpasswd(path, r.object(path, v)) },
		"user":                r.defaultUser,
		"users":               func(path string, v json.RawMessage) { r.users(path, v) },
		"ssh_pwauth":          func(path string, v json.RawMessage) { r.must(path, v, false) },
		"disable_root":        func(path string, v json.RawMessage) { r.must(path, v, false) },
		// the data partition takes the whole disk, and the name stays, anyway
		"growpart": nil, "resize_rootfs": nil, "preserve_hostname": nil, "manage_etc_hosts": nil, "prefer_fqdn_over_hostname": nil,
	}, r.ignored)
}

func (r *reader) keys(path string, v json.RawMessage) {
	r.a.Global.RootSSHKeys = append(r.a.Global.RootSSHKeys, r.texts(path, v)...)
}

// must refuses a switch that is not as a node has it.
func (r *reader) must(path string, v json.RawMessage, want bool) {
	if r.flag(path, v) != want {
		r.stop("cloud-init-unknown", path, fmt.Sprintf("set it to %v, or remove it", want), "root is the user of a node, and SSH takes keys only")
	}
}

func (r *reader) keyboard(path string, o object) {
	r.each(path, o, known{
		"layout": func(path string, v json.RawMessage) {
			s := r.text(path, v)
			for from, to := range map[string]string{"us": "en-us", "gb": "en-gb", "uk": "en-gb"} {
				if s == from {
					s = to
				}
			}
			r.a.Global.Keyboard = s
		},
		"model": nil, "variant": nil, "options": nil,
	}, r.ignored)
}

// password takes a hash, or a plain password of which the hash is kept.
func (r *reader) password(path, s string) {
	switch {
	case s == "":
		r.wrong(path, "write the hash that mkpasswd -m yescrypt prints", "root's password is empty")
	case strings.HasPrefix(s, "$"):
		r.a.Global.RootPasswordHashed, r.a.Global.RootPassword = answer.Secret(s), ""
	default:
		r.a.Global.RootPasswordHashed, r.a.Global.RootPassword = "", answer.Secret(s)
	}
}

func (r *reader) chpasswd(path string, o object) {
	r.each(path, o, known{
		"expire": nil, // nobody logs in to be asked for another one
		"list": func(path string, v json.RawMessage) {
			for _, lines := range r.texts(path, v) {
				for l := range strings.FieldsFuncSeq(lines, func(c rune) bool { return c == '\n' }) {
					name, pw, _ := strings.Cut(l, ":")
					r.account(path, name, strings.TrimSpace(pw), "")
				}
			}
		},
		"users": func(path string, v json.RawMessage) {
			for i, u := range r.objects(path, v) {
				var name, pw, kind string
				r.each(fmt.Sprintf("%s[%d]", path, i), u, known{
					"name":     func(path string, v json.RawMessage) { name = r.text(path, v) },
					"password": func(path string, v json.RawMessage) { pw = r.text(path, v) },
					"type":     func(path string, v json.RawMessage) { kind = r.text(path, v) },
				}, r.refused)
				r.account(fmt.Sprintf("%s[%d]", path, i), name, pw, kind)
			}
		},
	}, r.refused)
}

// account is a password of one.
func (r *reader) account(path, name, pw, kind string) {
	switch {
	case name != "root":
		r.refused(path + " (user " + printable(name) + ")")
	case kind == "RANDOM" || pw == "R" || pw == "RANDOM":
		r.wrong(path, "give root's hashed password", "a random password would be known to nobody")
	case kind == "hash" && !strings.HasPrefix(pw, "$"):
		r.wrong(path, "write the hash that mkpasswd -m yescrypt prints", "root's password is said to be a hash and is none")
	default:
		r.password(path, pw)
	}
}

// defaultUser is whom keys and password are for where no user is named: root on
// a node.
func (r *reader) defaultUser(path string, v json.RawMessage) {
	var u object
	if json.Unmarshal(v, &u) == nil {
		v = u["name"]
	}
	if name := r.text(path, v); name != "root" {
		r.refused(path + " (user " + printable(name) + ")")
	}
}

func (r *reader) users(path string, v json.RawMessage) {
	var list []json.RawMessage
	if json.Unmarshal(v, &list) != nil {
		r.wrong(path, "write a list", "it is no list")
	}
	for i, x := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		var name string
		if json.Unmarshal(x, &name) == nil {
			if name != "root" && name != "default" {
				r.refused(at + " (user " + printable(name) + ")")
			}
			continue
		}
		u := r.object(at, x)
		if err := json.Unmarshal(u["name"], &name); err != nil || name != "root" {
			r.refused(at + " (user " + printable(name) + ")")
			continue
		}
		hash := func(path string, v json.RawMessage) { r.account(path, "root", r.text(path, v), "hash") }
		r.each(at, u, known{
			"name": nil, "ssh_authorized_keys": r.keys, "hashed_passwd": hash, "passwd": hash,
			"plain_text_passwd": func(path string, v json.RawMessage) { r.password(path, r.text(path, v)) },
			"lock_passwd":       func(path string, v json.RawMessage) { r.must(path, v, false) },
			"shell":             nil, "gecos": nil,
		}, r.refused)
	}
}

// complete says what is missing.
func (r *reader) complete() {
	g := &r.a.Global
	if g.FQDN == "" {
		r.stop("cloud-init-incomplete", MetaData, "add local-hostname to meta-data, or fqdn to user-data", "there is no host name")
	}
	if g.RootPassword == "" && g.RootPasswordHashed == "" {
		r.stop("cloud-init-incomplete", UserData, "add chpasswd: {expire: false, users: [{name: root, type: hash, password: \"…\"}]}; mkpasswd -m yescrypt makes the hash", "there is no password of root, which API and console ask for")
	}
	g.FQDN = r.withDomain(g.FQDN)
	g.MailTo = "root@localhost.localdomain"
	if !strings.HasSuffix(g.FQDN, "."+noDomain) {
		g.MailTo = "root@" + g.FQDN
	}
}

// noDomain is the domain where none is known.
const noDomain = "localdomain"

// withDomain adds one to a host name alone: cloud-init does with less than a
// node's answer.
func (r *reader) withDomain(name string) string {
	if name == "" || strings.Contains(name, ".") {
		return name
	}
	for _, d := range append(r.search, r.m.Domain) {
		if d != "" && answer.HostName("x."+d) == "" {
			return name + "." + d
		}
	}
	return name + "." + noDomain
}

// searched notes the domains of a search list.
func (r *reader) searched(path string, v json.RawMessage) {
	r.search = append(r.search, r.texts(path, v)...)
}
