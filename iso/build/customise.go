package build

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/installer/answer"
	"joist/internal/finding"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
)

// ExtraFile is a file that joist.toml puts into the system.
type ExtraFile struct {
	Source string `toml:"source" json:"source"`         // in the folder of joist.toml
	Target string `toml:"target" json:"target"`         // in the system
	Mode   string `toml:"mode" json:"mode,omitempty"`   // octal, "" for 0644
	Owner  string `toml:"owner" json:"owner,omitempty"` // "user" or "user:group", "" for root
}

// Contents is what the files that joist.toml names hold.
type Contents struct {
	files        []contentFile
	certificates []certificate
}

type contentFile struct {
	target string
	node   tree.Node
	data   []byte
}

type certificate struct {
	name string // of the file, without folders
	pem  []byte // certificates alone, without what surrounds them
	ends time.Time
	last string // subject of the one that ends first
}

// ImageKeys is where an image holds root's SSH keys.
const ImageKeys = "/usr/lib/joist/authorized_keys"

// ownCertificates is where it holds authorities beside Debian's, one by one.
const ownCertificates = "/usr/local/share/ca-certificates"

// maxContent bounds a file: all are in memory.
const maxContent = 256 << 20

// contents reads what the configuration names. Each mistake is a finding.
func (c Config) contents(fl *finding.List, src source) Contents {
	var x Contents
	seen := map[string]bool{}
	for i, f := range c.Files {
		key := at("files", i)
		file, ok := f.check(fl, src, key)
		if seen[file.target] {
			src.stop(fl, "config-file", key+".target", "name each target once", "two files go to %s", file.target)
		}
		seen[file.target] = true
		if file.data, ok = src.read(fl, "config-file", key+".source", f.Source, ok); !ok {
			continue
		}
		if bytes.Contains(file.data, []byte("PRIVATE KEY-----")) {
			src.add(fl, finding.Warn, "image-secret", key, "keep every artefact as you would keep the key, or put it on the nodes later", "the private key in %s lies readable in the image", f.Source)
		}
		file.node.Data = tree.Bytes(file.data)
		x.files = append(x.files, file)
	}
	names := map[string]bool{}
	for i, name := range c.Certificates {
		text, ok := src.read(fl, "config-certificate", at("certificates", i), name, true)
		if !ok {
			continue
		}
		cert, err := readCertificates(text)
		if err != nil {
			src.stop(fl, "config-certificate", at("certificates", i), "give the authority's certificate as PEM: openssl x509 -in FILE -out FILE.pem", "%s: %v", name, err)
			continue
		}
		cert.name = strings.TrimSuffix(path.Base(filepath.ToSlash(name)), path.Ext(name)) + ".crt"
		if names[cert.name] {
			src.stop(fl, "config-certificate", at("certificates", i), "name each file once, and give two files two names", "a second file is called %s", cert.name)
		}
		names[cert.name] = true
		x.certificates = append(x.certificates, cert)
	}
	c.checkKeys(fl, src)
	return x
}

// checkKeys also tells that keys are in the image: whoever has the private one
// is root on whatever was made from it.
func (c Config) checkKeys(fl *finding.List, src source) {
	bad := false
	for i, k := range c.SSHKeys {
		if what := answer.SSHKey(k); what != "" {
			bad = true
			src.stop(fl, "config-ssh-key", at("ssh-keys", i), "copy the line from the .pub file", "ssh-keys: the key %s", what)
		}
	}
	if len(c.SSHKeys) > 0 && !bad {
		src.add(fl, finding.Warn, "image-ssh-keys", "ssh-keys", "use global.root-ssh-keys in the answer file where nodes shall differ, or where a key may have to go without an update",
			"SSH keys (%d) are in the image: their owners are root on every node made from it, until an update without them", len(c.SSHKeys))
	}
}

// read reads a file that the configuration names.
func (s source) read(fl *finding.List, code, key, name string, ok bool) ([]byte, bool) {
	if !filepath.IsLocal(name) || !reSource.MatchString(name) {
		s.stop(fl, code, key, "put the file below the folder of joist.toml and name it from there: letters, digits and ._/+@- only", "%q is no path below the folder of joist.toml", name)
		return nil, false
	}
	st, err := os.Stat(filepath.Join(filepath.Dir(s.name), name))
	var b []byte
	switch {
	case err != nil:
	case !st.Mode().IsRegular():
		err = errors.New("it is no regular file")
	case st.Size() > maxContent:
		err = fmt.Errorf("it is larger than %d MiB", maxContent>>20)
	default:
		b, err = os.ReadFile(filepath.Join(filepath.Dir(s.name), name))
	}
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err // the path of this machine is not what the file says
		}
		s.stop(fl, code, key, "paths are relative to the folder of joist.toml", "read %q: %v", name, err)
	}
	return b, ok && err == nil
}

var (
	reSource = regexp.MustCompile(`^[A-Za-z0-9._/+@-]+$`)
	reTarget = regexp.MustCompile(`^(/[A-Za-z0-9._+@:-]+)+$`)
	reMode   = regexp.MustCompile(`^0?[0-7]{3}$`)
	reNumber = regexp.MustCompile(`^[0-9]{1,5}$`)
)

// takenTargets are places where a file would not be seen, or would break what
// the image is.
var takenTargets = []struct{ prefix, why, hint string }{
	{"/var/", "it is the node's state volume", "write it below /usr or /etc, or to the node once it runs"},
	{"/boot/", "it stays out of the system", "kernel and boot menu are the builder's"},
	{"/lib/modules/", "modules are indexed by the builder", "add the module's package with packages.add"},
	{"/usr/lib/modules/", "modules are indexed by the builder", "add the module's package with packages.add"},
	{"/usr/lib/joist/", "it is Joist's own", "choose another folder"},
	{"/usr/sbin/joist", "it is Joist's own", "choose another name"},
	{"/usr/bin/joist", "it is Joist's own", "choose another name"},
	{"/home/", "it stays out of the system", "use /root or /usr/local"},
	{"/srv/", "it stays out of the system", "use /usr/local/share"},
	{"/media/", "it stays out of the system", "use /usr/local/share"},
	{"/dev/", "the kernel mounts over it", "choose a folder on the system's own file system"},
	{"/proc/", "the kernel mounts over it", "choose a folder on the system's own file system"},
	{"/sys/", "the kernel mounts over it", "choose a folder on the system's own file system"},
	{"/run/", "it is empty at each start", "choose a folder on the system's own file system"},
	{"/tmp/", "it is empty at each start", "choose a folder on the system's own file system"},
	{"/mnt/", "it is where things are mounted", "choose a folder on the system's own file system"},
}

// renderedTargets are files that a node writes anew at each boot, or that the
// builder makes of tables.
var renderedTargets = []string{"/etc/hostname", "/etc/hosts", "/etc/localtime", "/etc/timezone", "/etc/machine-id", "/etc/resolv.conf", "/etc/mtab", "/etc/shadow",
	"/etc/chrony/chrony.conf", "/etc/ssh/sshd_config", "/etc/motd", "/etc/passwd", "/etc/group", "/etc/os-release", "/etc/ssl/certs/ca-certificates.crt"}

// check finds what is wrong with one file beside its content.
func (f ExtraFile) check(fl *finding.List, src source, key string) (file contentFile, ok bool) {
	ok = true
	stop := func(sub, hint, format string, args ...any) {
		ok = false
		src.stop(fl, "config-file", key+"."+sub, hint, format, args...)
	}
	file.target = f.Target
	file.node = tree.Node{Mode: 0o644, Origin: "joist.toml"}
	if !reTarget.MatchString(f.Target) || path.Clean(f.Target) != f.Target {
		stop("target", `write it as "/etc/ssh/ssh_config.d/site.conf"`, "target %q is no absolute path of a file", f.Target)
	}
	for _, t := range takenTargets {
		if strings.HasPrefix(f.Target, t.prefix) {
			stop("target", t.hint, "%s cannot be put into the image: %s", f.Target, t.why)
		}
	}
	if slices.Contains(renderedTargets, f.Target) {
		stop("target", "set it by the answer file, the API or another key of joist.toml", "%s is written by Joist itself", f.Target)
	}
	if f.Mode != "" {
		m, err := strconv.ParseUint(f.Mode, 8, 32)
		if err != nil || !reMode.MatchString(f.Mode) {
			stop("mode", `write it as "0644"; set-user-ID bits have no use on a node`, "mode %q is not from 0000 to 0777", f.Mode)
		}
		file.node.Mode = fs.FileMode(m).Perm()
	}
	var known bool
	if file.node.UID, file.node.GID, known = owner(f.Owner); !known {
		stop("owner", `write it as "root", "user:group" or "0:0"; docs/packages.md lists users and groups`, "owner %q is not known in the image", f.Owner)
	}
	return file, ok
}

// owner reads "user", "user:group" or numbers; "" is root.
func owner(s string) (uid, gid int, ok bool) {
	if s == "" {
		return 0, 0, true
	}
	user, group, both := strings.Cut(s, ":")
	uid, gid, ok = policy.UserID(user)
	if n, err := strconv.Atoi(user); err == nil && reNumber.MatchString(user) {
		uid, gid, ok = n, n, true
	}
	if !ok || !both {
		return uid, gid, ok
	}
	if n, err := strconv.Atoi(group); err == nil && reNumber.MatchString(group) {
		return uid, n, true
	}
	gid, ok = policy.GroupID(group)
	return uid, gid, ok
}

// readCertificates takes the certificates out of a PEM file. Each must be an
// authority's: another one would be trusted for nothing.
func readCertificates(text []byte) (out certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return out, fmt.Errorf("it holds a %s, not only certificates", strings.ToLower(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return out, fmt.Errorf("a certificate in it is damaged: %v", err)
		}
		if !c.IsCA && c.BasicConstraintsValid {
			return out, fmt.Errorf("the certificate of %q is not an authority's", c.Subject)
		}
		if out.pem == nil || c.NotAfter.Before(out.ends) {
			out.ends, out.last = c.NotAfter, c.Subject.String()
		}
		out.pem = append(out.pem, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if out.pem == nil {
		return out, errors.New("it holds no certificate")
	}
	return out, nil
}

// expired warns of certificates that are no use any more when the image is built.
func (x Contents) expired(built time.Time) finding.List {
	var fl finding.List
	for _, c := range x.certificates {
		if c.ends.Before(built) {
			fl.Warnf("certificate-expired", c.name, "replace it, or take it out of joist.toml", "the certificate of %q ended at %s", c.last, c.ends.UTC().Format(time.DateOnly))
		}
	}
	return fl
}

// sums are the hashes of all contents, by what a manifest calls them.
func (x Contents) sums() map[string]string {
	out := map[string]string{}
	sum := func(name string, b []byte) {
		h := sha256.Sum256(b)
		out[name] = hex.EncodeToString(h[:])
	}
	for _, f := range x.files {
		sum(f.target, f.data)
	}
	for _, c := range x.certificates {
		sum(path.Join(ownCertificates, c.name), c.pem)
	}
	return out
}

// customise puts what joist.toml names into the system. A file may replace one
// of a package; certificates are joined into the bundle by certificates.
func (b *Builder) customise(root *tree.Node) (finding.List, error) {
	var fl finding.List
	for _, f := range b.extra.files {
		n := f.node
		switch old := root.Lookup(f.target); {
		case old == nil:
		case !old.Mode.IsRegular():
			fl.Stopf("config-file", f.target, "choose another target in joist.toml", "%s of the image is no regular file (it is from %s)", f.target, origin(old))
			continue
		default:
			fl.Notef("file-replaced", f.target, "the file of joist.toml replaces that of %s", origin(old))
		}
		if err := root.Set(f.target, &n); err != nil {
			return fl, fmt.Errorf("put %s into the image: %w", f.target, err)
		}
	}
	for _, c := range b.extra.certificates {
		if err := root.AddFile(path.Join(ownCertificates, c.name), 0o644, tree.Bytes(c.pem)); err != nil {
			return fl, err
		}
	}
	if len(b.cfg.SSHKeys) > 0 {
		return fl, root.AddFile(ImageKeys, 0o644, tree.Bytes(strings.Join(b.cfg.SSHKeys, "\n")+"\n"))
	}
	return fl, nil
}

func origin(n *tree.Node) string {
	if n.Origin == "" {
		return "the image itself"
	}
	return n.Origin
}
