package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
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
	"joist/internal/finding"
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
	return img, nil
}

// Labels of volumes that bring an answer.
const (
	ourLabel   = "joist-answer"
	theirLabel = "proxmox-ais"
	answerName = "answer.toml"
	answerDir  = "/run/joist/answer"
)

// findAnswer loads the file that was named, the medium's, or that of the one
// labelled volume, which is mounted read-only and only for that.
func findAnswer(h *host.Host, m probe.Machine, name string) (answer.Answer, finding.List) {
	if name != "" {
		return load(name, name)
	}
	onMedium := h.Path(probe.MediumDir, "joist", answerName)
	if _, err := os.Stat(onMedium); err == nil {
		return load(onMedium, answerName)
	}
	var fl finding.List
	found := m.Labelled(ourLabel)
	if len(found) == 0 {
		found = m.Labelled(theirLabel)
	}
	if len(found) != 1 {
		fl.Stopf("answer-not-found", answerName, "put it into the medium (joist build iso --answer FILE), or attach exactly one volume labelled "+ourLabel+" or "+theirLabel+" with the file "+answerName,
			"no answer file: the medium has none and %d labelled volumes were found", len(found))
		return answer.Answer{}, fl
	}
	a, fl, err := fromVolume(h, found[0])
	if err != nil {
		fl.Stopf("answer-unreadable", "/dev/"+found[0].Where, "check the volume and its file "+answerName, "%v", err)
	}
	return a, fl
}

func fromVolume(h *host.Host, c probe.Content) (a answer.Answer, fl finding.List, err error) {
	types := map[string]string{"fat": "vfat", "iso9660": "iso9660", "ext4": "ext4"}
	if types[c.Kind] == "" {
		return a, nil, fmt.Errorf("read answer: file system %q is not supported; use FAT, ISO 9660 or ext4", c.Kind)
	}
	if err := os.MkdirAll(h.Path(answerDir), 0o700); err != nil {
		return a, nil, fmt.Errorf("read answer: %w", err)
	}
	data := ""
	if c.Kind == "ext4" {
		data = "noload" // ext4(5): do not replay the journal, which would write
	}
	if err := h.Sys.Mount(host.Mount{Source: "/dev/" + c.Where, Target: answerDir, FSType: types[c.Kind],
		Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: data}); err != nil {
		return a, nil, fmt.Errorf("mount /dev/%s: %w", c.Where, err)
	}
	defer func() {
		if uerr := h.Sys.Unmount(answerDir); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount /dev/%s: %w", c.Where, uerr))
		}
	}()
	a, fl = load(h.Path(answerDir, answerName), c.Where+":"+answerName)
	return a, fl, nil
}

func load(path, shown string) (answer.Answer, finding.List) {
	f, err := os.Open(path)
	if err != nil {
		var fl finding.List
		hint := "check the path"
		if !errors.Is(err, fs.ErrNotExist) {
			hint = "check the medium that holds the file"
		}
		fl.Stopf("answer-unreadable", shown, hint, "the answer file cannot be opened: %v", err)
		return answer.Answer{}, fl
	}
	defer f.Close()
	return answer.Load(f, shown)
}
