package boot

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// RemoteFile is where the initrd of a netboot set has its Remote.
const RemoteFile = "/netboot.json"

// Remote is what a machine that started from the network fetches. It lies in
// the initrd that the firmware fetched: whoever trusts that trusts these
// hashes, and needs no further signature.
type Remote struct {
	Manifest Manifest        `json:"manifest"`
	Loaders  map[string]File `json:"loaders"` // what goes onto a boot partition, by name
}

// Fetch is one file: its name beside the system image on the server, its place
// on the medium that stage 1 makes, and what it must be.
type Fetch struct {
	From, To string
	File
}

var reLoader = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// DecodeRemote reads netboot.json.
func DecodeRemote(b []byte) (Remote, error) {
	var r Remote
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path.Base(RemoteFile), err)
	}
	return r, r.Validate()
}

// Validate checks what ends up in paths.
func (r Remote) Validate() error {
	for name, f := range r.Loaders {
		if !reLoader.MatchString(name) || f.Size <= 0 || !reHash.MatchString(f.SHA256) {
			return fmt.Errorf("check %s: name, size or hash of loader %q is not valid", path.Base(RemoteFile), name)
		}
	}
	return r.Manifest.Validate()
}

// Encode is netboot.json.
func (r Remote) Encode() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// System is the one file without which nothing starts.
func (r Remote) System() Fetch {
	return Fetch{FileSystem, path.Join("joist", r.Manifest.BuildID, FileSystem), r.Manifest.Files[FileSystem]}
}

// Boot are the other files of an installation, in order of their names.
func (r Remote) Boot() []Fetch {
	var list []Fetch
	for _, name := range []string{FileKernel, FileInitrd} {
		list = append(list, Fetch{name, path.Join("boot", name), r.Manifest.Files[name]})
	}
	for name, f := range r.Loaders {
		list = append(list, Fetch{path.Join("boot", name), path.Join("joist", r.Manifest.BuildID, "boot", name), f})
	}
	slices.SortFunc(list, func(a, b Fetch) int { return strings.Compare(a.From, b.From) })
	return list
}
