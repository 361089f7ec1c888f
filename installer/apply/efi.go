package apply

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"

	"joist/image/boot"
	"joist/image/boot/efivar"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/host"
)

// bootEntry writes the disk's entry and puts it first, behind those of the
// disks before it. An older entry of that name is replaced.
func (a *applier) bootEntry(d *drive, act plan.BootEntry) error {
	dir, err := variables(a.h)
	if err != nil {
		return err
	}
	name := boot.EntryName(d.n)
	option, err := boot.LoadOption(name, act.Partition, int64(d.Layout.SectorSize), act.Loader)
	if err != nil {
		return err
	}
	return efivar.Set(dir, option, d.n, func(e efivar.Entry) bool { return e.Name == name })
}

// variables is where the firmware's variables are, mounted if they were not.
func variables(h *host.Host) (string, error) {
	dir := h.Path(efivar.Dir)
	if names, err := os.ReadDir(dir); err == nil && len(names) == 0 {
		if err := h.Sys.Mount(host.Mount{Source: "efivarfs", Target: efivar.Dir, FSType: "efivarfs"}); err != nil {
			return "", fmt.Errorf("read firmware variables: %w", err)
		}
	}
	return dir, nil
}

// AskForKey has the next start ask the person at the machine whether to enrol
// the certificate of this medium's module key, with a password that is returned:
// digits, which lie in the same place on all keyboards that a firmware knows.
func AskForKey(h *host.Host, buildID string) (password string, err error) {
	name := h.Path(probe.MediumDir, "joist", buildID, "boot", plan.ModuleCert)
	cert, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("this medium's ZFS modules are not signed: build it with --module-key, or switch Secure Boot off")
	}
	if err != nil {
		return "", fmt.Errorf("read the certificate of the module key: %w", err)
	}
	if _, err := x509.ParseCertificate(cert); err != nil {
		return "", fmt.Errorf("read the certificate of the module key: %w", err)
	}
	n, err := rand.Int(rand.Reader, big.NewInt(100_000_000))
	if err != nil {
		return "", err
	}
	password = fmt.Sprintf("%08d", n)
	list, auth, err := boot.MokRequest(cert, password)
	if err != nil {
		return "", err
	}
	dir, err := variables(h)
	if err != nil {
		return "", err
	}
	return password, efivar.AskForKey(dir, list, auth)
}
