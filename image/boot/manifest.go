// Package boot is everything between firmware and kernel: the manifest of a
// build, GRUB's menus, the environment block with the state of the two slots,
// and the bytes that make a disk start under a BIOS. All of it is text and
// bytes from values; nothing here touches a machine.
package boot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"time"
)

// Manifest describes one build. It lies beside the build's files on the
// medium, in update bundles and, as a whole, in the slot's configuration.
type Manifest struct {
	BuildID    string          `json:"build_id"` // 16 lower-case hexadecimal digits
	Version    string          `json:"version"`
	Built      time.Time       `json:"built"`                // RFC 3339
	Kernel     string          `json:"kernel"`               // what `uname -r` says
	VerityRoot string          `json:"verity_root"`          // root hash of system.sqfs
	Files      map[string]File `json:"files"`                // by name: FileKernel, FileInitrd, FileSystem; on a medium LoaderFile too
	Extensions []Extension     `json:"extensions,omitempty"` // in system.sqfs, in the order in which they lie there
}

// File is one file of a build.
type File struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Names of the three files of a build.
const (
	FileKernel = "vmlinuz"
	FileInitrd = "initrd"
	FileSystem = "system.sqfs"
)

// LoaderFile is a loader's name in Files.
func LoaderFile(name string) string { return "boot/" + name }

var (
	reBuildID = regexp.MustCompile(`^[0-9a-f]{16}$`)
	reFile    = regexp.MustCompile(`^(boot/)?[0-9A-Za-z][0-9A-Za-z._-]*$`)
	reHash    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	reVersion = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,63}$`)
)

// Validate checks what ends up in paths, menus and kernel arguments.
func (m Manifest) Validate() error {
	switch {
	case !reBuildID.MatchString(m.BuildID):
		return fmt.Errorf("check manifest: build_id %q is not 16 hexadecimal digits", m.BuildID)
	case !reVersion.MatchString(m.Version):
		return fmt.Errorf("check manifest: version %q has characters other than letters, digits and .+~_-", m.Version)
	case !reVersion.MatchString(m.Kernel):
		return fmt.Errorf("check manifest: kernel %q is not a kernel release", m.Kernel)
	case !reHash.MatchString(m.VerityRoot):
		return fmt.Errorf("check manifest: verity_root %q is not a SHA-256 hash", m.VerityRoot)
	case m.Built.IsZero():
		return fmt.Errorf("check manifest: built is missing")
	}
	for _, name := range []string{FileKernel, FileInitrd, FileSystem} {
		if f, ok := m.Files[name]; !ok || f.Size <= 0 || !reHash.MatchString(f.SHA256) {
			return fmt.Errorf("check manifest: size or hash of %q is missing", name)
		}
	}
	for name := range m.Files {
		if !reFile.MatchString(name) {
			return fmt.Errorf("check manifest: %q is not the name of a part", name)
		}
	}
	return checkExtensions(m.Extensions)
}

// Encode is manifest.json.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	m.Built = m.Built.UTC().Truncate(time.Second)
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// DecodeManifest reads manifest.json. Fields it does not know are left to the
// release that wrote them.
func DecodeManifest(b []byte) (Manifest, error) {
	var m Manifest
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&m); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	return m, m.Validate()
}
