package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/host"
	"joist/internal/run"
)

// system is the running machine's system calls.
type system struct{}

func (system) Mount(m host.Mount) error {
	return unix.Mount(m.Source, m.Target, m.FSType, m.Flags, m.Data)
}

func (system) Unmount(target string) error { return unix.Unmount(target, 0) }

func (system) Power(a host.PowerAction) error {
	unix.Sync()
	if a == host.PowerOff {
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func realHost(log *slog.Logger) *host.Host {
	return &host.Host{Root: "/", Run: run.OS{}, Sys: system{}, Now: time.Now, Log: log}
}

const buildFile = "/usr/lib/joist/build.json"

// readImage reads what the medium brings: the manifest of the build that is
// running, and the sizes of its loaders.
func readImage(h *host.Host) (plan.Image, error) {
	img := plan.Image{Loaders: map[string]int64{}}
	var build struct {
		BuildID string `json:"build_id"`
	}
	b, err := os.ReadFile(h.Path(buildFile))
	if err == nil {
		err = json.Unmarshal(b, &build)
	}
	if err != nil {
		return img, fmt.Errorf("read the build's id: %w", err)
	}
	dir := h.Path(probe.MediumDir, "joist", build.BuildID)
	if b, err = os.ReadFile(filepath.Join(dir, "manifest.json")); err != nil {
		return img, fmt.Errorf("read the medium: %w", err)
	}
	if img.Manifest, err = boot.DecodeManifest(b); err != nil {
		return img, fmt.Errorf("read the medium: %w", err)
	}
	if img.BuildID != build.BuildID {
		return img, fmt.Errorf("read the medium: its manifest is of build %s, the running system is %s", img.BuildID, build.BuildID)
	}
	for _, name := range plan.LoaderNames() {
		// a missing one is a finding of the plan
		if st, err := os.Stat(filepath.Join(dir, "boot", name)); err == nil {
			img.Loaders[name] = st.Size()
		}
	}
	if b, err = os.ReadFile(filepath.Join(dir, "boot", plan.ModuleCert)); err == nil {
		img.ModuleKey = fmt.Sprintf("%x", sha256.Sum256(b))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return img, fmt.Errorf("read the medium: %w", err)
	}
	if img.Program, err = readProgram(h); err != nil {
		return img, fmt.Errorf("read the medium: %w", err)
	}
	return img, nil
}

// readProgram reads the medium's first-boot program, a little more than it may
// have: what is too large is a finding.
func readProgram(h *host.Host) ([]byte, error) {
	f, err := os.Open(h.Path(probe.MediumDir, "joist", answer.ProgramFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, answer.MaxProgram+1))
	if b == nil {
		b = []byte{}
	}
	return b, err
}
