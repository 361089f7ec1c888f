// Package node handles a Joist node in a virtual machine as a person would:
// it writes an answer, installs from the medium without touching more than
// the boot menu, and starts what was installed. `make run` and the end-to-end
// tests share it.
package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"joist/api/client"
	"joist/test/vm"
)

// What a node needs, and what the software CPU needs to get there.
const (
	Memory      = 3072     // MiB: the installer asks for 2 GiB that Linux can use
	DiskSize    = 32 << 30 // bytes, sparse
	BootTime    = 6 * time.Minute
	InstallTime = 20 * time.Minute
)

// Texts on the serial line that the harness goes by.
const (
	MenuLine      = `Install Joist \S+ unattended` // GRUB's second entry
	InstallerLine = `Joist( \S+)? installer`       // the installer's first line
	InstalledLine = `Joist is installed\. Installation ([0-9a-f]+) on`
	ExitLine      = `Exit status (\d+)` // docs/exit-codes.md
)

// keyDown is Ctrl-N, GRUB's other name for the down arrow: one byte, which no
// serial line tears apart (GRUB manual, "Menu interface").
const keyDown = "\x0e"

// Answer is an answer file for a machine with one disk and DHCP; keys are
// lines for root's authorized_keys.
func Answer(fqdn, password string, keys ...string) []byte {
	if keys == nil {
		keys = []string{}
	}
	list, err := json.Marshal(keys) // of strings: cannot fail, and is TOML as well
	if err != nil {
		panic(err)
	}
	return fmt.Appendf(nil, `[global]
keyboard = "en-us"
country = "at"
timezone = "UTC"
fqdn = %q
mailto = "root@%s"
root-password = %q
root-ssh-keys = %s

[network]
source = "from-dhcp"

[disk-setup]
filesystem = "ext4"
disk-list = ["vda"]
`, fqdn, fqdn, password, list)
}

// AnswerVolume writes answer into an image with the label that the installer
// looks for.
func AnswerVolume(ctx context.Context, path string, answer []byte) error {
	return vm.CreateVolume(ctx, path, "joist-answer", map[string][]byte{"answer.toml": answer})
}

// ChooseUnattended takes the medium's second menu entry.
func ChooseUnattended(ctx context.Context, m *vm.Machine) error { return choose(ctx, m, 1) }

// ChooseRescue takes the medium's third menu entry.
func ChooseRescue(ctx context.Context, m *vm.Machine) error { return choose(ctx, m, 2) }

// choose takes the entry that is so many lines below the one that the cursor
// is on.
func choose(ctx context.Context, m *vm.Machine, below int) error {
	if _, err := m.WaitFor(ctx, MenuLine); err != nil {
		return fmt.Errorf("choose from the menu: %w", err)
	}
	// The menu is drawn entry by entry; a key that comes while it is being
	// drawn is taken afterwards, from the UART's FIFO.
	time.Sleep(500 * time.Millisecond)
	for range below {
		if err := m.Serial(0).Send(keyDown); err != nil {
			return fmt.Errorf("choose from the menu: %w", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err := m.Serial(0).Send("\r"); err != nil {
		return fmt.Errorf("choose from the menu: %w", err)
	}
	return nil
}

// Times are those of an installation, as the console showed it.
type Times struct {
	Chosen    time.Time // the menu's entry was taken
	Installer time.Time // the installer said its first line
	Installed time.Time // it said that it was done
	Ended     time.Time // the machine restarted
}

// Install puts a node onto disk, an image that exists, and returns when the
// installer has restarted the machine. c is the machine without its drives, or
// with the disks that come behind the first, or with all and disk is "".
func Install(ctx context.Context, c vm.Config, iso, disk string, answer []byte, said io.Writer) error {
	_, err := Timed(ctx, c, iso, disk, answer, said)
	return err
}

// Timed is Install with its times.
func Timed(ctx context.Context, c vm.Config, iso, disk string, answer []byte, said io.Writer) (Times, error) {
	t, err := timed(ctx, c, iso, disk, answer, said)
	if err != nil {
		return t, fmt.Errorf("install node: %w", err)
	}
	return t, nil
}

func timed(ctx context.Context, c vm.Config, iso, disk string, answer []byte, said io.Writer) (t Times, err error) {
	dir, err := os.MkdirTemp("", "joist-")
	if err != nil {
		return t, err
	}
	defer os.RemoveAll(dir)
	volume := filepath.Join(dir, "answer.iso")
	if err := AnswerVolume(ctx, volume, answer); err != nil {
		return t, err
	}
	c.Dir, c.NoReboot = dir, true
	c.Media = []vm.Medium{{Path: iso}, {Path: volume}}
	if disk != "" {
		c.Disks = append([]vm.Disk{{Path: disk}}, c.Disks...)
	}
	m, err := vm.Start(ctx, c)
	if err != nil {
		return t, err
	}
	defer m.Kill()
	defer func() { io.WriteString(said, m.Serial(0).Text()) }()
	if err := ChooseUnattended(ctx, m); err != nil {
		return t, err
	}
	t.Chosen = time.Now()
	for _, line := range []struct {
		re string
		at *time.Time
	}{{InstallerLine, &t.Installer}, {InstalledLine + "|" + ExitLine, &t.Installed}} {
		said, err := m.WaitFor(ctx, line.re)
		if err == nil && strings.HasPrefix(said[0], "Exit") {
			err = fmt.Errorf("the installer gave up:\n%s", m.Serial(0).Tail(40))
		}
		if err != nil {
			return t, err
		}
		*line.at = time.Now()
	}
	if err := m.Wait(ctx); err != nil { // NoReboot: the restart ends QEMU
		return t, fmt.Errorf("%w; it said last:\n%s", err, m.Serial(0).Tail(40))
	}
	t.Ended = time.Now()
	return t, nil
}

// WaitLogin logs in as soon as the node answers.
func WaitLogin(ctx context.Context, c *client.Client, password string) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := c.Login(attempt, "root@pam", password)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the node's API: %w; last: %w", ctx.Err(), err)
		case <-time.After(time.Second):
		}
	}
}

// Dialer is a network that a client can be put on.
type Dialer interface {
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client is a client of the node at ip, over a segment that only the test and
// its machines are on.
func Client(d Dialer, ip string) (*client.Client, error) {
	return client.New(client.Options{URL: "https://" + net.JoinHostPort(ip, "8006"), Insecure: true, Dial: d.Dial})
}

// Version is the answer of /version.
func Version(ctx context.Context, c *client.Client) (string, error) {
	var v struct {
		Version string `json:"version"`
	}
	err := c.Do(ctx, http.MethodGet, "/version", nil, &v)
	return v.Version, err
}

// FindISO is JOIST_ISO, or the newest image in build/.
func FindISO() (string, error) {
	if p := os.Getenv("JOIST_ISO"); p != "" {
		return p, nil
	}
	root, err := vm.Root()
	if err != nil {
		return "", err
	}
	pattern := filepath.Join(root, "build", "joist-*-amd64.iso")
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", fmt.Errorf("find image: %w", err)
	}
	var newest string
	var at time.Time
	for _, p := range found {
		if s, err := os.Stat(p); err == nil && s.ModTime().After(at) {
			newest, at = p, s.ModTime()
		}
	}
	if newest == "" {
		return "", fmt.Errorf("find image: no %s; run `make iso`", pattern)
	}
	return newest, nil
}

// FileSum is the SHA-256 of a file in hex.
func FileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %q: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
