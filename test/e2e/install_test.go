package e2e

import (
	"testing"

	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// TestShortInstall: an unattended installation, its first start from disk, the
// log-in and the version.
func TestShortInstall(t *testing.T) {
	n := startNode(t, nil)
	v, err := node.Version(t.Context(), n.API)
	if err != nil {
		t.Fatal(err)
	}
	if v == "" {
		t.Error("the node has no version")
	}
	var nodes []struct {
		Node   string `json:"node"`
		Status string `json:"status"`
	}
	if err := n.API.Get(t.Context(), "/nodes", nil, &nodes); err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 1 || nodes[0].Node != nodeName || nodes[0].Status != "online" {
		t.Errorf("nodes: %+v", nodes)
	}
}

// TestInstalledUEFI: the disk that was installed under a BIOS also starts
// under UEFI with Secure Boot.
func TestInstalledUEFI(t *testing.T) {
	n := startNode(t, func(c *vm.Config, _ *lan.Switch) { c.Firmware = vm.OVMFSecureBoot })
	if _, err := node.Version(t.Context(), n.API); err != nil {
		t.Fatal(err)
	}
}
