// Package etc renders the part of /etc that differs from node to node. Render
// is pure: the image's account files and the node's own configuration in,
// files out. PID 1 writes them into a memory file system at each boot, so
// that nothing in /etc outlives a boot by accident.
package etc

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"joist/api/node"
)

// Input is all that the rendered files depend on.
type Input struct {
	Node      node.Config
	MachineID string // 32 hex digits
	RootHash  string // crypt(3) hash, "" locks the password
	HasKeys   bool   // root has authorized keys
	Shadow    string // the image's /etc/shadow
	Version   string
}

// File is one file or, with Link, one symbolic link of /etc.
type File struct {
	Path string // below /etc
	Mode fs.FileMode
	Text string
	Link string
}

var (
	hostName  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
	domain    = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)
	zone      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}$`)
	machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	// yescrypt, SHA-512, SHA-256 and bcrypt, see crypt(5).
	cryptHash = regexp.MustCompile(`^\$(y|6|5|2[aby])\$[A-Za-z0-9./$=,]+$`)
)

// Render makes the files. Values that would not be one word where they go are
// refused by falling back to a safe one; problems says which, so that a
// damaged configuration still gives a system that starts.
func Render(in Input) (files []File, problems []string) {
	check := func(what, val, fallback string, re *regexp.Regexp) string {
		if val == "" || re.MatchString(val) {
			if val == "" {
				return fallback
			}
			return val
		}
		problems = append(problems, fmt.Sprintf("%s %q is not valid; %q is used", what, val, fallback))
		return fallback
	}
	name := check("host name", in.Node.Name, "joist", hostName)
	dom := check("domain", in.Node.Domain, "", domain)
	tz := check("time zone", in.Node.Timezone, "UTC", zone)
	id := check("machine id", in.MachineID, "", machineID)
	hash := in.RootHash
	if hash != "" && !cryptHash.MatchString(hash) {
		problems = append(problems, "root's password hash is not valid; the password is locked")
		hash = ""
	}
	text := func(p string, s string) { files = append(files, File{Path: p, Mode: 0o644, Text: s}) }
	link := func(p, to string) { files = append(files, File{Path: p, Link: to}) }

	text("hostname", name+"\n")
	text("hosts", hosts(name, dom))
	link("localtime", path.Join("/usr/share/zoneinfo", tz))
	text("timezone", tz+"\n")
	if id != "" {
		files = append(files, File{Path: "machine-id", Mode: 0o444, Text: id + "\n"})
	}
	if id, ok := hostID(in.Node.Storage.HostID, &problems); ok {
		text("hostid", id)
	}
	link("resolv.conf", "/run/joist/resolv.conf")
	link("mtab", "/proc/self/mounts")
	files = append(files, File{Path: "shadow", Mode: 0o640, Text: shadow(in.Shadow, hash)})
	text("chrony/chrony.conf", chrony(in.Node.NTP, &problems))
	text("ssh/sshd_config", sshd(in.HasKeys))
	text("motd", motd(name, in.Version))
	return files, problems
}

// hostID is the file of gethostid(3): the number that the kernel has from its
// command line and the pool in its labels.
func hostID(s string, problems *[]string) (string, bool) {
	if s == "" {
		return "", false
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 {
		*problems = append(*problems, fmt.Sprintf("host id %q is not valid; there is none", s))
		return "", false
	}
	slices.Reverse(b) // this machine's order
	return string(b), true
}

// hosts gives the node's own name the address that Debian uses where the real
// one may change (Debian reference, 5.1.1).
func hosts(name, dom string) string {
	own := name
	if dom != "" {
		own = name + "." + dom + " " + name
	}
	return "127.0.0.1 localhost\n127.0.1.1 " + own + "\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
}

// shadow puts root's hash into the image's shadow(5); all others stay locked.
func shadow(image, hash string) string {
	if hash == "" {
		hash = "*"
	}
	var b strings.Builder
	seen := false
	for line := range strings.Lines(image) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if f[0] == "root" && len(f) > 1 {
			f[1], seen = hash, true
		}
		b.WriteString(strings.Join(f, ":") + "\n")
	}
	if !seen {
		return "root:" + hash + ":::::::\n" + b.String()
	}
	return b.String()
}

// chrony follows the given servers, or Debian's pool. makestep lets a clock
// that started at the build date jump at first; rtcsync keeps the hardware
// clock right for the next start.
func chrony(servers []string, problems *[]string) string {
	var b strings.Builder
	for _, s := range servers {
		if _, err := netip.ParseAddr(s); err != nil && !domain.MatchString(s) {
			*problems = append(*problems, fmt.Sprintf("time server %q is not valid and left out", s))
			continue
		}
		fmt.Fprintf(&b, "server %s iburst\n", s)
	}
	if b.Len() == 0 {
		b.WriteString("pool 2.debian.pool.ntp.org iburst\n")
	}
	b.WriteString("driftfile /var/lib/chrony/chrony.drift\nntsdumpdir /var/lib/chrony\nmakestep 1 3\nrtcsync\n" +
		"cmdport 0\nbindcmdaddress /run/chrony/chronyd.sock\n")
	return b.String()
}

// sshd lets root in by key only. Its host keys are node state.
func sshd(keys bool) string {
	root := "no"
	if keys {
		root = "prohibit-password"
	}
	hostKeys := ""
	for _, k := range node.HostKeys() {
		hostKeys += "HostKey " + k.File + "\n"
	}
	return "# Rendered at boot. Root logs in by key only.\n" + hostKeys +
		"AuthorizedKeysFile " + node.KeysFile + " " + node.ImageKeysFile + "\n" +
		"PermitRootLogin " + root + "\n" +
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPrintMotd yes\nX11Forwarding no\n" +
		"AcceptEnv LANG LC_*\nSubsystem sftp internal-sftp\n"
}

func motd(name, version string) string {
	return fmt.Sprintf("\nThis is %s, Joist %s. The system is an image: / is read-only, /etc is made anew\n"+
		"at each boot. What must stay goes to /var; settings are changed through the API.\n\n", name, version)
}
