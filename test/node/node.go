// Package node handles a Joist node in a virtual machine as a person would:
// it writes an answer, installs from the medium without touching more than
// the boot menu, and starts what was installed. `make run` and the end-to-end
// tests share it.
package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
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
	InstallerLine = `Joist \S+ installer`          // the installer's first line
)

// keyDown is Ctrl-N, GRUB's other name for the down arrow: one byte, which no
// serial line tears apart (GRUB manual, "Menu interface").
const keyDown = "\x0e"

// Answer is an answer file for a machine with one disk and DHCP.
func Answer(fqdn, password string) []byte {
	return fmt.Appendf(nil, `[global]
keyboard = "en-us"
country = "at"
timezone = "UTC"
fqdn = %q
mailto = "root@%s"
root-password = %q

[network]
source = "from-dhcp"

[disk-setup]
filesystem = "ext4"
disk-list = ["vda"]
`, fqdn, fqdn, password)
}

// AnswerVolume writes answer into an image with the label that the installer
// looks for.
func AnswerVolume(ctx context.Context, path string, answer []byte) error {
	return vm.CreateVolume(ctx, path, "joist-answer", map[string][]byte{"answer.toml": answer})
}

// ChooseUnattended takes the medium's second menu entry.
func ChooseUnattended(ctx context.Context, m *vm.Machine) error {
	if _, err := m.WaitFor(ctx, MenuLine); err != nil {
		return fmt.Errorf("choose unattended: %w", err)
	}
	// The menu is drawn entry by entry; a key that comes while it is being
	// drawn is taken afterwards, from the UART's FIFO.
	time.Sleep(500 * time.Millisecond)
	if err := m.Serial(0).Send(keyDown + "\r"); err != nil {
		return fmt.Errorf("choose unattended: %w", err)
	}
	return nil
}

// Install puts a node onto disk, an image that exists, and returns when the
// installer has restarted the machine. c is the machine without its drives.
func Install(ctx context.Context, c vm.Config, iso, disk string, answer []byte, said io.Writer) error {
	dir, err := os.MkdirTemp("", "joist-")
	if err != nil {
		return fmt.Errorf("install node: %w", err)
	}
	defer os.RemoveAll(dir)
	volume := filepath.Join(dir, "answer.iso")
	if err := AnswerVolume(ctx, volume, answer); err != nil {
		return fmt.Errorf("install node: %w", err)
	}
	c.Dir, c.NoReboot = dir, true
	c.Media = []vm.Medium{{Path: iso}, {Path: volume}}
	c.Disks = []vm.Disk{{Path: disk}}
	m, err := vm.Start(ctx, c)
	if err != nil {
		return fmt.Errorf("install node: %w", err)
	}
	defer m.Kill()
	defer func() { io.WriteString(said, m.Serial(0).Text()) }()
	if err := ChooseUnattended(ctx, m); err != nil {
		return fmt.Errorf("install node: %w", err)
	}
	if err := m.Wait(ctx); err != nil { // NoReboot: the restart ends QEMU
		return fmt.Errorf("install node: %w; it said last:\n%s", err, m.Serial(0).Tail(40))
	}
	return nil
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
