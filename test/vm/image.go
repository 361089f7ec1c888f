package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// CreateDisk makes an empty qcow2 image of size bytes.
func CreateDisk(ctx context.Context, path string, size int64) error {
	return tool(ctx, "qemu-img", "create", "-q", "-f", "qcow2", path, fmt.Sprint(size))
}

// Overlay makes a qcow2 image that starts as base (qcow2) and keeps its own
// changes; base must not change afterwards.
func Overlay(ctx context.Context, base, path string) error {
	abs, err := filepath.Abs(base)
	if err != nil {
		return fmt.Errorf("overlay %q: %w", base, err)
	}
	return tool(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", abs, path)
}

// CreateVolume makes a medium with an ISO 9660 file system of the given label
// that holds files (name → content): for an answer file beside the installer.
func CreateVolume(ctx context.Context, path, label string, files map[string][]byte) error {
	dir, err := os.MkdirTemp("", "joist-volume-")
	if err != nil {
		return fmt.Errorf("create volume %q: %w", label, err)
	}
	defer os.RemoveAll(dir)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("create volume %q: %w", label, err)
		}
	}
	// Lower case in the label and names as they are: what mkisofs allows with
	// a warning and every reader takes.
	return tool(ctx, "xorriso", "-report_about", "FAILURE", "-as", "mkisofs", "-quiet", "-r", "-J", "-V", label, "-o", path, dir)
}

// ExtractFile copies one file out of an ISO image.
func ExtractFile(ctx context.Context, iso, name, path string) error {
	return tool(ctx, "xorriso", "-report_about", "FAILURE", "-osirrox", "on", "-indev", iso, "-extract", name, path)
}

// ConvertDisk writes the content of a raw image as qcow2.
func ConvertDisk(ctx context.Context, raw, path string) error {
	return tool(ctx, "qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, path)
}

func tool(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, out)
	}
	return nil
}
