package pid1

import (
	"context"
	"os"
	"path/filepath"

	"joist/api/node"
	"joist/system/crash"
	"joist/system/module"
)

// collectCrashes moves what the kernel said at an earlier end from the
// firmware's store to the state volume. UEFI's store has a driver that nothing
// asks for by itself; with it this kernel's own end is written there too.
func (s *system) collectCrashes(context.Context) error {
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		if err := loadStore(); err != nil { // the firmware's variables may be read-only, or full
			s.log.Printf("          crashes of the kernel are not kept by the firmware: %v", err)
		}
	}
	n, err := crash.Collect(crash.PStore, node.CrashDir)
	if n > 0 {
		s.log.Printf("          %s", crash.Problem(node.CrashDir))
	}
	return err
}

func loadStore() error {
	rel, err := module.Release()
	if err != nil {
		return err
	}
	x, err := module.Open(filepath.Join("/usr/lib/modules", rel))
	if err != nil {
		return err
	}
	// the parameter is for kernels that are built with the driver switched off
	l := &module.Loader{Index: x, Params: map[string][]string{"efi_pstore": {"pstore_disable=0"}}, Insert: module.Insert}
	return l.Load("efi_pstore")
}
