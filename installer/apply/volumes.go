package apply

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-crypt/x/yescrypt"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/installer/plan"
	"joist/internal/host"
	"joist/internal/run"
)

// lvmDir holds the configuration of our LVM commands.
const lvmDir = node.RunDir + "/lvm"

// lvmConf confines LVM to the partitions of the chosen disks and the mirror on
// them (lvm.conf(5)): no other disk is read, no devices file and no udev
// database are asked, nodes are made by LVM itself and nothing waits for udev,
// which need not be running. /etc is not kept, so no backups of metadata go
// there. Nobody watches the thin pool, and thin_check has nothing to find: it
// is never written to here.
func lvmConf(p plan.Plan) string {
	var accept strings.Builder
	for _, m := range p.All() {
		fmt.Fprintf(&accept, "\"a|^/dev/%sp?[0-9]+$|\", ", regexp.QuoteMeta(m.Disk.Name))
	}
	if len(p.Further) > 0 || p.Mirrored() { // an earlier try may have made one
		fmt.Fprintf(&accept, "\"a|^%s$|\", ", plan.ArrayFile)
	}
	return fmt.Sprintf(`devices {
	use_devicesfile = 0
	obtain_device_list_from_udev = 0
	filter = [ %s"r|.*|" ]
}
activation {
	udev_sync = 0
	udev_rules = 0
	monitoring = 0
}
global {
	thin_check_executable = ""
}
backup {
	backup = 0
	archive = 0
}
`, accept.String())
}

// lvmCmd is an LVM command or, given the name of a file, those in it.
func (a *applier) lvmCmd(args ...string) run.Cmd {
	return run.Cmd{Path: "lvm", Args: args,
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "LVM_SYSTEM_DIR=" + a.h.Path(lvmDir)}}
}

// active reports whether device-mapper has a volume of our group; its names
// begin with the group's.
func (a *applier) active() bool {
	files, _ := filepath.Glob(a.h.Path("/sys/block") + "/dm-*/dm/name")
	return slices.ContainsFunc(files, func(f string) bool {
		name, _ := os.ReadFile(f)
		return strings.HasPrefix(string(name), plan.VGName+"-")
	})
}

// wordRE is what a word of a script may be: LVM would take quotes, backslashes
// and "#" for more than themselves.
var wordRE = regexp.MustCompile(`^[A-Za-z0-9_./+-]+$`)

// script is a file of LVM commands, lvm(8): the first line must name the
// program, none may be longer than 255 bytes, and the first command that fails
// is the last. One process reads its configuration and the disk once; a process
// for each command spends most of its time with that.
func script(commands [][]string) ([]byte, error) {
	out := []byte("#!/usr/sbin/lvm\n")
	for _, argv := range commands {
		words := argv[1:] // without "lvm"
		line := strings.Join(words, " ") + "\n"
		if i := slices.IndexFunc(words, func(w string) bool { return !wordRE.MatchString(w) }); i >= 0 {
			return nil, fmt.Errorf("write LVM's commands: %q cannot be a word of them", words[i])
		}
		if len(line) > 255 {
			return nil, fmt.Errorf("write LVM's commands: the one for %s is too long", words[len(words)-1])
		}
		out = append(out, line...)
	}
	return out, nil
}

var vgUUID = regexp.MustCompile(`^[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}$`)

func (a *applier) createLVM(ctx context.Context, act plan.CreateLVM, advance func(n, of int64)) error {
	commands := act.Commands()
	text, err := script(commands)
	if err != nil {
		return err
	}
	file := a.h.Path(lvmDir, "create")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("write LVM's commands: %w", err)
	}
	c := a.lvmCmd(file)
	var done int64
	c.Line = func(line string) {
		line = strings.TrimSpace(line)
		if strings.HasSuffix(line, "created.") { // each command but the last says so
			done++
			advance(done, int64(len(commands)))
		}
		if vgUUID.MatchString(line) {
			a.storageID, a.group = line, true
		}
	}
	if _, err := a.h.Run.Run(ctx, c); err != nil {
		return err
	}
	if a.storageID == "" {
		return fmt.Errorf("lvm did not tell the group's UUID")
	}
	return nil
}

func (a *applier) mount(device, volume, fs string) (string, error) {
	target := a.target(volume)
	if err := os.MkdirAll(a.h.Path(target), 0o755); err != nil {
		return "", fmt.Errorf("prepare mount point: %w", err)
	}
	if err := a.h.Sys.Mount(host.Mount{Source: device, Target: target, FSType: fs, Flags: unix.MS_NOSUID | unix.MS_NODEV}); err != nil {
		return "", fmt.Errorf("mount %s: %w", device, err)
	}
	a.mounted = append(a.mounted, target)
	return a.h.Path(target), nil
}

// seed writes the node's configuration and unmounts the volumes, which waits
// until they have it: boot parts are written only to what is complete. The
// state volume is /var on the node.
func (a *applier) seed(act plan.Seed) error {
	shadow, err := a.shadow()
	if err != nil {
		return err
	}
	state, err := a.mount(act.State, "state", a.fsType(act))
	if err != nil {
		return err
	}
	local, err := a.mount(act.Local, "local", a.fsType(act))
	if err != nil {
		return err
	}
	for _, d := range act.Dirs {
		if err := os.MkdirAll(filepath.Join(local, d), 0o755); err != nil {
			return fmt.Errorf("make folder %s: %w", d, err)
		}
	}
	files, err := a.p.Seed(a.storageID, shadow)
	if err != nil {
		return err
	}
	if err := writeSeed(state, files, act.Keep); err != nil {
		return err
	}
	if err := a.tellInstalled(state); err != nil {
		return err
	}
	return a.unmountAll()
}

// tellInstalled leaves what the node calls itself for the report.
func (a *applier) tellInstalled(state string) error {
	on := func(p string) string { return filepath.Join(state, strings.TrimPrefix(p, "/var")) }
	id, err := os.ReadFile(on(node.HostIDFile))
	if err != nil {
		return fmt.Errorf("read machine id: %w", err)
	}
	done := Installed{MachineID: strings.TrimSpace(string(id)), HostKeys: map[string]string{}}
	for _, k := range node.HostKeys() {
		key, err := os.ReadFile(on(k.File))
		if err == nil {
			var signer ssh.Signer
			if signer, err = ssh.ParsePrivateKey(key); err == nil {
				done.HostKeys[k.Kind] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
			}
		}
		if err != nil { // one that was kept, of whatever kind: no reason to fail
			a.h.Log.Warn("cannot read an SSH host key", "kind", k.Kind, "error", err)
		}
	}
	return node.WriteJSON(a.h.Path(DoneFile), 0o600, done)
}

// requests are asked of one installation: what an earlier one, whose data are
// kept, has not carried out is not for this one to do.
var requests = []string{node.FirstBootFile, node.ProgramFile, node.JoinFile}

// writeSeed writes the files below the state volume's mount point.
func writeSeed(state string, files []plan.SeedFile, keep []string) error {
	onState := func(p string) string { return filepath.Join(state, strings.TrimPrefix(p, "/var")) }
	dirs := map[string]os.FileMode{node.NodeDir: 0o700, node.TLSDir: 0o700}
	for _, f := range files {
		dirs[filepath.Dir(f.Path)] = 0o700
	}
	for _, d := range append([]string{"/var/lib", node.StateDir}, slices.Sorted(maps.Keys(dirs))...) {
		mode, private := dirs[d]
		if !private {
			mode = 0o755
		}
		if err := makeDir(onState(d), mode); err != nil {
			return err
		}
	}
	for _, name := range requests {
		if err := os.Remove(onState(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	for _, f := range files {
		if st, err := os.Stat(onState(f.Path)); err == nil && st.Size() > 0 && slices.Contains(keep, f.Path) {
			continue
		}
		if err := writeFile(onState(f.Path), os.FileMode(f.Mode), f.Data); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

// writeFile makes a file with exactly that mode, whatever the umask and
// whatever was there. It does not wait for the disk: the volume is unmounted
// before anything counts.
func writeFile(name string, mode os.FileMode, b []byte) error {
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	return os.Chmod(name, mode)
}

// makeDir makes a folder with exactly that mode, whatever the umask.
func makeDir(name string, mode os.FileMode) error {
	err := os.Mkdir(name, mode)
	if err == nil || os.IsExist(err) {
		err = os.Chmod(name, mode)
	}
	if err != nil {
		return fmt.Errorf("make folder %s: %w", name, err)
	}
	return nil
}

// shadow is root's password as crypt(5) hashes it.
func (a *applier) shadow() (string, error) {
	if h := a.p.Answer.Global.RootPasswordHashed.Reveal(); h != "" {
		return h, nil
	}
	return HashPassword(a.p.Answer.Global.RootPassword.Reveal())
}

// HashPassword makes a yescrypt hash with Debian's parameters ("j9T") and a
// salt of 128 random bits.
func HashPassword(password string) (string, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("make salt: %w", err)
	}
	h, err := yescrypt.Hash([]byte(password), append([]byte("$y$j9T$"), yescrypt.Encode64(salt)...))
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(h), nil
}
