// Package vm runs virtual machines for tests: a Config says what the machine
// is made of, Start runs QEMU for it, and the Machine is then watched on its
// serial console and driven through QMP. It needs no root, no tap device and
// no hardware acceleration; networks are segments of package lan.
//
//	sw := vm.NewSwitch(t)
//	m := vm.Run(t, vm.Config{
//		Firmware: vm.OVMFSecureBoot,
//		Memory:   2048,
//		Media:    []vm.Medium{{Path: iso, Kind: vm.CD}},
//		Disks:    []vm.Disk{{Path: disk, Bus: vm.VirtioBlk}},
//		NICs:     []vm.NIC{{Port: vm.NewPort(t, sw, "node1"), MAC: "52:54:00:00:00:01"}},
//	})
//	m.Serial(0).WaitFor(ctx, regexp.MustCompile(`login:`))
//
// It speaks QMP by itself rather than through the product's client: the
// harness must not depend on what it tests.
package vm
