package lxc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-crypt/crypt/algorithm/shacrypt"

	"joist/hypervisor/guest"
	"joist/hypervisor/task"
	"joist/internal/run"
)

// ProvisionSpec describes a new volume of a container. Its fields are those of
// control.ProvisionSpec.
type ProvisionSpec struct {
	VMID         int
	Device       string // an activated, empty volume: block device or file
	FSType       string // "ext4" or "" for the same
	Template     string // archive: tar, plain or with zstd, gzip or xz; "" for a mount point, which stays empty
	Config       map[string]string
	Password     string // root's, "" for none
	SSHKeys      []string
	Unprivileged bool
}

// Provision makes the file system of a new volume and fills a root volume. The device
// loses what it held. Nothing stays mounted, whatever happens.
func (d *Driver) Provision(ctx context.Context, s ProvisionSpec, log task.Log) error {
	if err := d.provision(ctx, s, log); err != nil {
		return fmt.Errorf("provision guest %d: %w", s.VMID, err)
	}
	return nil
}

func (d *Driver) provision(ctx context.Context, s ProvisionSpec, log task.Log) (err error) {
	if s.FSType != "" && s.FSType != "ext4" {
		return fmt.Errorf("containers have ext4 file systems, not %q", s.FSType)
	}
	base := 0
	if s.Unprivileged {
		base = BaseID(s.VMID)
	}
	if s.Template == "" {
		return d.MakeFS(ctx, s.Device, base)
	}
	plan, err := Make(guest.Spec{VMID: s.VMID, Config: withUnprivileged(s.Config, s.Unprivileged),
		Volumes: map[string]guest.Volume{"rootfs": {Path: s.Device, Format: "raw"}}})
	if err != nil {
		return err
	}
	if err := checkSecrets(s); err != nil {
		return err
	}
	hash := hashLater(s.Password)
	lock, err := d.Runs.Lock(ctx, s.VMID)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := d.MakeFS(ctx, s.Device, base); err != nil {
		return err
	}
	log.Printf("made an ext4 file system on %s", filepath.Base(s.Device))
	// Not the guest's own folder: that one belongs to a start.
	work := filepath.Join(d.Runs.Dir, provisionPrefix+strconv.Itoa(s.VMID))
	root := filepath.Join(work, "rootfs")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, d.removeWork(context.WithoutCancel(ctx), work)) // also when ctx has ended
	}()
	if err := d.Mount.Mount(s.Device, root, false, s.Unprivileged); err != nil {
		return err
	}
	t, err := openTree(root, base)
	if err != nil {
		return err
	}
	defer t.close()
	if err := fill(ctx, t, s.Template, log); err != nil {
		return err
	}
	return d.personalise(t, s, plan.Inside, hash, log)
}

const provisionPrefix = ".provision-"

// removeWork unmounts and removes the folder of a Provision.
func (d *Driver) removeWork(ctx context.Context, work string) error {
	if err := d.Mount.UnmountBelow(ctx, work); err != nil {
		return err
	}
	os.Remove(filepath.Join(work, "rootfs"))
	os.Remove(work) // neither with its contents: they would be the container's
	return nil
}

func withUnprivileged(c map[string]string, on bool) map[string]string {
	out := map[string]string{}
	for k, v := range c {
		if k == "unprivileged" || strings.HasPrefix(k, "mp") {
			continue // mount points get volumes of their own
		}
		out[k] = v
	}
	out["unprivileged"] = map[bool]string{true: "1", false: "0"}[on]
	return out
}

// MakeFS makes the file system of a container's volume, also of mount points;
// base is BaseID, 0 for a privileged container. No blocks are reserved for the
// host's root, who never writes there. The volume is new and all zeros: nothing
// is written that is zero, neither now nor by the kernel after the first mount,
// which would take room of a thin pool for inode tables that nobody uses.
func (d *Driver) MakeFS(ctx context.Context, device string, base int) error {
	if !filepath.IsAbs(device) {
		return fmt.Errorf("make file system: %q is no absolute path", device)
	}
	owner := fmt.Sprintf("root_owner=%d:%d,assume_storage_prezeroed=1,nodiscard", base, base)
	_, err := d.Run.Run(ctx, run.Cmd{Path: "mkfs.ext4", Args: []string{"-q", "-F", "-m", "0", "-E", owner, device}})
	if err != nil {
		return fmt.Errorf("make file system on %s: %w", filepath.Base(device), err)
	}
	return nil
}

// Grow lets the file system fill a volume that has become larger. Mounted, it
// grows at once; otherwise resize2fs(8) wants it checked first.
func (d *Driver) Grow(ctx context.Context, device string) error {
	if !filepath.IsAbs(device) {
		return fmt.Errorf("grow file system: %q is no absolute path", device)
	}
	if !mountedDevice(device) {
		_, err := d.Run.Run(ctx, run.Cmd{Path: "e2fsck", Args: []string{"-f", "-p", device}})
		if err != nil && run.ExitCode(err) != 1 { // 1: errors were corrected
			return fmt.Errorf("check file system on %s: %w", filepath.Base(device), err)
		}
	}
	if _, err := d.Run.Run(ctx, run.Cmd{Path: "resize2fs", Args: []string{device}}); err != nil {
		return fmt.Errorf("grow file system on %s: %w", filepath.Base(device), err)
	}
	return nil
}

func fill(ctx context.Context, t *tree, template string, log task.Log) error {
	begin := time.Now()
	log.Printf("unpacking %s", filepath.Base(template))
	u, err := unpack(ctx, template, t, func(done, total int64) {
		log.Printf("unpacked %d of %d MiB (%d%%)", done>>20, total>>20, done*100/max(total, 1))
	})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(template), err)
	}
	for _, what := range []string{"device nodes"} { // every template has them, no container misses them
		if n := u.Skipped[what]; n > 0 {
			log.Printf("left out: %d %s", n, what)
			delete(u.Skipped, what)
		}
	}
	for what, n := range u.Skipped {
		log.Warnf("left out: %d %s", n, what)
	}
	log.Printf("unpacked %d entries, %d MiB in %s", u.Entries, u.Bytes>>20, time.Since(begin).Round(10*time.Millisecond))
	return nil
}

// personalise makes the copy of a template one container of its own.
func (d *Driver) personalise(t *tree, s ProvisionSpec, in Inside, hash func() (string, error), log task.Log) error {
	if err := d.settle(t, in); err != nil {
		return err
	}
	if t.has("etc/machine-id") {
		if err := t.rewrite("etc/machine-id", nil); err != nil { // machine-id(5): made anew at the first boot
			return err
		}
	}
	if s.Password != "" {
		if err := setPassword(t, hash, time.Now()); err != nil {
			return fmt.Errorf("set password: %w", err)
		}
	}
	if len(s.SSHKeys) > 0 {
		if err := t.mkdir("root/.ssh", 0o700); err != nil {
			return err
		}
		if err := t.write("root/.ssh/authorized_keys", 0o600, []byte(strings.Join(s.SSHKeys, "\n")+"\n")); err != nil {
			return err
		}
	}
	return d.writeSources(t, log)
}

func checkSecrets(s ProvisionSpec) error {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if strings.ContainsFunc(s.Password, control) || len(s.Password) > 1024 {
		return fmt.Errorf("the password is too long or holds control characters")
	}
	for _, k := range s.SSHKeys {
		if strings.ContainsFunc(strings.ReplaceAll(k, "\t", " "), control) {
			return fmt.Errorf("an SSH key holds control characters")
		}
	}
	return nil
}

// passwordRounds takes about a fifth of a second on a current CPU.
const passwordRounds = 200000

// hashLater begins to hash a password, if there is one, beside whatever else
// is to be done; the function that it returns waits for the outcome. SHA-512
// is what every libc verifies; musl knows no yescrypt.
func hashLater(password string) func() (string, error) {
	hash := sync.OnceValues(func() (string, error) {
		h, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(passwordRounds))
		if err != nil {
			return "", err
		}
		digest, err := h.HashWithSalt(password, []byte(rand.Text()[:16]))
		if err != nil {
			return "", err
		}
		return digest.Encode(), nil
	})
	if password != "" {
		go hash()
	}
	return hash
}

// setPassword writes root's hash into shadow(5).
func setPassword(t *tree, hash func() (string, error), now time.Time) error {
	digest, err := hash()
	if err != nil {
		return err
	}
	old, err := t.read("etc/shadow")
	if errors.Is(err, fs.ErrNotExist) {
		return t.write("etc/shadow", 0o600, shadow(nil, digest, now))
	}
	if err != nil {
		return err
	}
	return t.rewrite("etc/shadow", shadow(old, digest, now))
}

func shadow(old []byte, hash string, now time.Time) []byte {
	day := strconv.FormatInt(now.Unix()/86400, 10)
	lines := strings.Split(strings.TrimRight(string(old), "\n"), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "root:") })
	if i < 0 {
		lines = append([]string{"root::::::::"}, lines...)
		i = 0
	}
	f := strings.Split(lines[i], ":")
	for len(f) < 9 {
		f = append(f, "")
	}
	f[1], f[2] = hash, day
	lines[i] = strings.Join(f, ":")
	return []byte(strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n")
}

// The two archive keyrings that Debian has shipped, the present one first.
var keyrings = []string{"usr/share/keyrings/debian-archive-keyring.pgp", "usr/share/keyrings/debian-archive-keyring.gpg"}

var (
	idRE       = regexp.MustCompile(`(?m)^ID="?([a-z0-9._-]+)"?$`)
	codenameRE = regexp.MustCompile(`(?m)^VERSION_CODENAME="?([a-z]+)"?$`)
	debRE      = regexp.MustCompile(`(?m)^\s*deb\s`)
)

// writeSources tells apt where packages are, by the node's own setting:
// templates come without a mirror. Without such a setting it leaves the
// container as it is, and says what to do if that knows no mirror either.
func (d *Driver) writeSources(t *tree, log task.Log) error {
	release, err := t.read("etc/os-release")
	id, code := idRE.FindSubmatch(release), codenameRE.FindSubmatch(release)
	if err != nil || id == nil || code == nil || string(id[1]) != "debian" || !t.has("etc/apt") {
		return nil
	}
	const list, deb822 = "etc/apt/sources.list", "etc/apt/sources.list.d/debian.sources"
	old, _ := t.read(list)
	if d.AptMirror == "" {
		if !debRE.Match(old) && !t.has(deb822) {
			log.Printf("apt knows no mirror in there: this node has no apt_mirror in node.json ([joist.install] apt-mirror of the answer file)")
		}
		return nil
	}
	keyring := ""
	for _, k := range keyrings {
		if t.has(k) {
			keyring = "/" + k
			break
		}
	}
	text, err := sources(d.AptMirror, string(code[1]), keyring)
	if err != nil {
		return err
	}
	if err := t.write(deb822, 0o644, []byte(text)); err != nil {
		return err
	}
	if len(bytes.TrimSpace(old)) > 0 {
		return t.write(list, 0o644, []byte("# See debian.sources in /etc/apt/sources.list.d.\n"))
	}
	return nil
}

// sources makes a file of the deb822 style, sources.list(5).
func sources(mirror, codename, keyring string) (string, error) {
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(mirror, " \t\r\n") {
		return "", fmt.Errorf("write apt sources: %q is no http or https address", mirror)
	}
	base := strings.TrimSuffix(mirror, "/")
	signed := ""
	if keyring != "" {
		signed = "Signed-By: " + keyring + "\n"
	}
	entry := func(uri, suites string) string {
		return "Types: deb\nURIs: " + uri + "\nSuites: " + suites + "\nComponents: main\n" + signed
	}
	return entry(base, codename+" "+codename+"-updates") + "\n" + entry(base+"-security", codename+"-security"), nil
}
