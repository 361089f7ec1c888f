package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/installer/probe"
)

// Running is what is told of the system that installs.
type Running struct {
	Debian                            string            // /etc/debian_version
	Sysname, Release, Build, Hardware string            // uname(2)
	Address                           string            // of the management card while it was installed, with prefix length
	MachineID                         string            // of the node
	HostKeys                          map[string]string // its SSH host keys' public lines, by kind
}

// notice is the body of the webhook: Proxmox's post-installation schema 1.2,
// and one object of ours.
type notice struct {
	Schema   schemaVersion `json:"$schema"`
	Debian   string        `json:"debian-version"`
	Product  productInfo   `json:"product"`
	ISO      release       `json:"iso"`
	Kernel   kernelInfo    `json:"kernel-version"`
	Boot     bootInfo      `json:"boot-info"`
	CPU      cpuInfo       `json:"cpu-info"`
	DMI      dmi           `json:"dmi"`
	FS       string        `json:"filesystem"`
	FQDN     string        `json:"fqdn"`
	ID       string        `json:"machine-id"`
	Disks    []diskInfo    `json:"disks"`
	Cards    []cardInfo    `json:"network-interfaces"`
	HostKeys hostKeys      `json:"ssh-public-host-keys"`
	Reboot   string        `json:"reboot-mode"`
	Token    string        `json:"token,omitempty"`
	Joist    ours          `json:"joist"`
}

type productInfo struct {
	Fullname string `json:"fullname"`
	Short    string `json:"short"`
	Version  string `json:"version"`
}

type kernelInfo struct {
	Sysname string `json:"sysname"`
	Release string `json:"release"`
	Version string `json:"version"`
	Machine string `json:"machine"`
}

type bootInfo struct {
	Mode       string `json:"mode"` // "bios" or "efi"
	SecureBoot bool   `json:"secureboot,omitempty"`
}

type cpuInfo struct {
	Cores   int    `json:"cores"`
	CPUs    int    `json:"cpus"`
	Flags   string `json:"flags"`
	HVM     bool   `json:"hvm"`
	Model   string `json:"model"`
	Sockets int    `json:"sockets"`
}

type diskInfo struct {
	Size int64             `json:"size"`
	Boot bool              `json:"is-bootdisk,omitempty"`
	Udev map[string]string `json:"udev-properties"`
}

type cardInfo struct {
	Name       string            `json:"name"`
	MAC        string            `json:"mac"`
	Address    string            `json:"address,omitempty"`
	Management bool              `json:"is-management,omitempty"`
	Pinned     bool              `json:"is-pinned,omitempty"`
	Udev       map[string]string `json:"udev-properties"`
}

// hostKeys: the schema wants all three. The node's SSH server has a key of the
// one kind; what it has not stays empty.
type hostKeys struct {
	ECDSA   string `json:"ecdsa"`
	ED25519 string `json:"ed25519"`
	RSA     string `json:"rsa"`
}

type ours struct {
	InstallationID string           `json:"installation-id"`
	Checks         preflight.Report `json:"checks"`
}

// Notice makes the webhook's body.
func Notice(p plan.Plan, f probe.Facts, r Running) ([]byte, error) {
	n := notice{
		Schema: schemaVersion{"1.2"}, Debian: r.Debian, Product: productInfo{"Joist", product, p.Image.Version}, ISO: release{p.Image.Version, p.Image.BuildID},
		Kernel: kernelInfo{r.Sysname, r.Release, r.Build, r.Hardware}, Boot: bootInfo{"bios", p.Firmware.SecureBoot},
		CPU:      cpuInfo{f.CPU.Cores, f.CPU.Count, strings.Join(f.CPU.Flags, " "), f.CPU.Virtualisation != "", f.CPU.Model, f.CPU.Sockets},
		DMI:      dmiOf(f),
		FS:       fileSystem(p.Answer.Disk),
		FQDN:     strings.ToLower(p.Answer.Global.FQDN),
		ID:       r.MachineID,
		Disks:    []diskInfo{},
		Cards:    []cardInfo{},
		HostKeys: hostKeys{ECDSA: r.HostKeys["ecdsa"], ED25519: r.HostKeys["ed25519"], RSA: r.HostKeys["rsa"]},
		Reboot:   "reboot",
		Token:    p.Answer.Webhook.Token.Reveal(),
		Joist:    ours{p.InstallationID, p.Checks},
	}
	if p.Firmware.Mode == probe.UEFI {
		n.Boot.Mode = "efi"
	}
	if m := p.Answer.Global.RebootMode; m != "" {
		n.Reboot = m
	}
	system := map[string]bool{}
	for _, m := range p.All() {
		system[m.Disk.Name] = true
	}
	for _, d := range f.Disks {
		n.Disks = append(n.Disks, diskInfo{d.Size, system[d.Name], some(d.Udev)})
	}
	for _, c := range f.NICs {
		x := cardInfo{Name: c.Name, MAC: c.MAC, Management: c.MAC == p.NIC.MAC, Udev: some(c.Udev)}
		if i := slices.IndexFunc(p.Pins, func(q node.Card) bool { return strings.EqualFold(q.MAC, c.MAC) }); i >= 0 {
			x.Name, x.Pinned = p.Pins[i].Name, p.Answer.Network.Pinning
		}
		if x.Management {
			x.Address = r.Address
		}
		n.Cards = append(n.Cards, x)
	}
	b, err := json.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	return b, nil
}

func some(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// fileSystem names the layout as the schema does.
func fileSystem(d answer.Disk) string {
	if d.Filesystem == answer.ZFS {
		return "zfs (" + strings.ToUpper(d.ZFS.RAID) + ")"
	}
	return d.Filesystem
}

// noticeTries is how often a report is sent at most.
const noticeTries = 4

// Send posts the report, again after a while when nobody answers.
func Send(ctx context.Context, w answer.Webhook, body []byte, dial Dial, sleep func(context.Context, time.Duration) bool) error {
	client := Client(answer.Source{URL: w.URL.Reveal(), Fingerprint: w.Fingerprint}, dial)
	var err error
	for try, pause := range append([]time.Duration{0}, Pauses()[:noticeTries-1]...) {
		if try > 0 && !sleep(ctx, pause) {
			break
		}
		if err = send(ctx, client, w.URL.Reveal(), body); err == nil || Final(err) {
			break
		}
	}
	return err
}

func send(ctx context.Context, c *http.Client, url string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the webhook's address cannot be read")
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("User-Agent", "joist-install")
	resp, err := c.Do(r)
	if err != nil {
		return plain(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply)) // what it says changes nothing
	if resp.StatusCode/100 != 2 {
		return &StatusError{resp.StatusCode, fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))}
	}
	return nil
}
