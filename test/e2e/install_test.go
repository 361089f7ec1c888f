package e2e

import (
	"testing"

	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// TestInstalledUEFI: the disk that was installed under a BIOS also starts
// under UEFI with Secure Boot.
func TestInstalledUEFI(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(c *vm.Config, _ *lan.Switch) { c.Firmware = vm.OVMFSecureBoot })
	if _, err := node.Version(t.Context(), n.API); err != nil {
		t.Fatal(err)
	}
}
