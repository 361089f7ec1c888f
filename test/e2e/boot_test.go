package e2e

import (
	"context"
	"testing"

	"joist/test/node"
	"joist/test/vm"
)

// bootMedium starts the image and waits for the kernel and the installer.
func bootMedium(t *testing.T, f vm.Firmware, kind vm.MediumKind, kernelSays ...string) {
	t.Helper()
	t.Parallel() // firmware and menus wait more than they compute
	img := medium(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*node.BootTime) // two at once
	defer cancel()
	m := vm.Run(t, vm.Config{
		Firmware: f, Memory: node.Memory, Accel: img.accel,
		Media: []vm.Medium{{Path: img.path, Kind: kind}},
	})
	if _, err := m.WaitFor(ctx, node.MenuLine); err != nil {
		t.Fatal(err)
	}
	if err := m.Serial(0).Send("\r"); err != nil {
		t.Fatal(err)
	}
	for _, text := range append(kernelSays, node.InstallerLine) {
		if _, err := m.WaitFor(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
}

func TestShortBootMediumSeaBIOSCD(t *testing.T)  { bootMedium(t, vm.SeaBIOS, vm.CD) }
func TestShortBootMediumSeaBIOSUSB(t *testing.T) { bootMedium(t, vm.SeaBIOS, vm.USBStick) }
func TestShortBootMediumOVMFCD(t *testing.T)     { bootMedium(t, vm.OVMF, vm.CD) }
func TestShortBootMediumOVMFUSB(t *testing.T)    { bootMedium(t, vm.OVMF, vm.USBStick) }

// TestShortBootMediumSecureBoot also wants the kernel to say that Secure Boot
// is enforced.
func TestShortBootMediumSecureBoot(t *testing.T) {
	bootMedium(t, vm.OVMFSecureBoot, vm.CD, `(?i)secure ?boot enabled|locked down from EFI Secure Boot`)
}
