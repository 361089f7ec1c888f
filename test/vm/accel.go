package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Accel is what runs the guest's instructions.
type Accel int

// Accelerators.
const (
	Auto Accel = iota
	TCG        // QEMU's software CPU; emulates AMD's SVM, so that KVM works inside
	KVM
)

// String is the name that JOIST_TEST_ACCEL takes.
func (a Accel) String() string { return [...]string{"auto", "tcg", "kvm"}[a] }

func (a Accel) cpu() string {
	if a == KVM {
		return "host"
	}
	return "max"
}

func (a Accel) option() string {
	if a == KVM {
		return "kvm"
	}
	return "tcg,thread=multi,tb-size=512"
}

// Accelerate chooses: JOIST_TEST_ACCEL=tcg|kvm if set; KVM if the host nests
// virtualisation and kernel (a stock Linux kernel image) boots with it; else
// TCG. Some clouds offer a /dev/kvm in which firmware runs but Linux does not,
// so a kernel has to be tried; without one the answer is TCG.
func Accelerate(ctx context.Context, kernel string) (Accel, string) {
	switch os.Getenv("JOIST_TEST_ACCEL") {
	case "tcg":
		return TCG, "JOIST_TEST_ACCEL says so"
	case "kvm":
		return KVM, "JOIST_TEST_ACCEL says so"
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, "/dev/kvm cannot be opened"
	}
	f.Close()
	if !nests() {
		return TCG, "KVM on this host does not nest, and the node inside needs it"
	}
	if kernel == "" {
		return TCG, "no kernel to try KVM with"
	}
	if err := tryKernel(ctx, kernel); err != nil {
		return TCG, err.Error()
	}
	return KVM, "a stock kernel boots with it"
}

// nests reports whether guests get VMX or SVM (Documentation/virt/kvm/x86/
// running-nested-guests.rst).
func nests() bool {
	files, _ := filepath.Glob("/sys/module/kvm_*/parameters/nested") // a constant pattern cannot be malformed
	for _, f := range files {
		b, err := os.ReadFile(f)
		if v := strings.TrimSpace(string(b)); err == nil && (v == "Y" || v == "1") {
			return true
		}
	}
	return false
}

// tryKernel boots a kernel without a root file system under KVM; it works if
// the kernel comes as far as saying so.
func tryKernel(ctx context.Context, kernel string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuBinary, "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "512",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", kernel, "-append", "console=ttyS0 panic=-1")
	out, _ := cmd.CombinedOutput() // killed by the deadline or ended by the panic: the text decides
	if !bytes.Contains(out, []byte("VFS: ")) {
		return fmt.Errorf("a stock kernel does not boot with KVM here")
	}
	return nil
}
