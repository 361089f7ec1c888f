// Package storage is what a node knows about places that hold volumes: the
// Pool interface that every storage type implements in a folder of its own,
// the names of volumes, and nothing that touches a disk.
package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Content types, as the API names them.
const (
	Images   = "images"  // disks of virtual machines
	RootDir  = "rootdir" // volumes of containers
	ISO      = "iso"
	Template = "vztmpl"
	Backup   = "backup"
	Import   = "import"
	Snippets = "snippets"
)

var (
	ErrNotFound = errors.New("volume does not exist")
	ErrExists   = errors.New("volume already exists")
	ErrInUse    = errors.New("volume is in use")
	ErrNoSpace  = errors.New("not enough space")
	ErrDisabled = errors.New("storage is disabled")
)

// Config is the definition of one storage, kept in the cluster store.
type Config struct {
	ID      string   `json:"storage"`
	Type    string   `json:"type"`    // "dir", "lvmthin", "zfspool"
	Content []string `json:"content"` // what may be kept there
	Shared  bool     `json:"shared"`
	Disable bool     `json:"disable"`
	Path    string   `json:"path,omitempty"`     // dir
	VGName  string   `json:"vgname,omitempty"`   // lvmthin
	VGUUID  string   `json:"vg_uuid,omitempty"`  // lvmthin: how the group is really found; differs from node to node, see Local
	Thin    string   `json:"thinpool,omitempty"` // lvmthin

	Pool     string `json:"pool,omitempty"`      // zfspool: the dataset that volumes lie in, "rpool/data"
	PoolGUID string `json:"pool_guid,omitempty"` // zfspool: how the pool is really found, as VGUUID
}

// Holds reports whether content may be kept there.
func (c Config) Holds(content string) bool { return slices.Contains(c.Content, content) }

// Here reports whether a definition that Local has seen can be one of this node:
// its volume group or pool is.
func (c Config) Here() bool {
	switch c.Type {
	case "lvmthin":
		return c.VGUUID != ""
	case "zfspool":
		return c.PoolGUID != ""
	}
	return true
}

// Status is how full a pool is. Sizes are bytes.
type Status struct {
	Active             bool
	Total, Used, Avail int64
}

// Volume is one volume of a pool.
type Volume struct {
	ID      string // "local-lvm:vm-100-disk-0", "local:iso/x.iso"
	Size    int64  // bytes the guest sees
	Used    int64  // bytes it takes, 0 when unknown
	Format  string // "raw", "qcow2", "iso", "tgz", "subvol" …
	Content string // one of the content types
	VMID    int    // owner, 0 when there is none
	CTime   int64  // seconds since 1970
}

// Spec asks for a new volume.
type Spec struct {
	VMID   int    // owner
	Name   string // "" lets the pool take the next free vm-<VMID>-disk-<n>
	Size   int64  // bytes, rounded up to what the pool can do
	Format string // "raw" or "qcow2", "" for the pool's own
}

// Pool is one storage on this node. Names are volume names without the
// storage's id ("vm-100-disk-0", "iso/x.iso"); they were checked by ParseName
// before they reach a pool. All methods may be called from several goroutines.
type Pool interface {
	ID() string
	Status(ctx context.Context) (Status, error)
	List(ctx context.Context) ([]Volume, error)
	Create(ctx context.Context, s Spec) (Volume, error)
	Resize(ctx context.Context, name string, size int64) error
	// Delete removes a volume for good. A volume that is not there is ErrNotFound.
	Delete(ctx context.Context, name string) error
	// Activate makes the volume usable and returns its device or file.
	Activate(ctx context.Context, name string) (path string, err error)
	Deactivate(ctx context.Context, name string) error
}

// Uploader is a pool that keeps files people bring: ISO images, templates,
// disk images to import. A file is spooled first and gets its name when it is
// whole, so that nobody ever sees half of one; what a crash leaves in the spool
// goes with the next Clean.
type Uploader interface {
	// Check reports whether the pool could keep a file of that name: ErrExists
	// when there is one already, or what is wrong with content or name.
	Check(content, filename string) error
	// Spool makes an empty file beside the pool's own, on the same file system.
	Spool() (*os.File, error)
	// Keep gives a spooled file its name, durably, and returns the volume's
	// name. A file that is there already is ErrExists; it is never replaced.
	Keep(f *os.File, content, filename string) (name string, err error)
	// Drop removes a spooled file that is not to be kept.
	Drop(f *os.File) error
	// Clean removes what interrupted uploads left. Nothing may be spooled.
	Clean() error
}

// Locator is a pool that can say where a volume lies without activating it.
type Locator interface {
	Path(ctx context.Context, name string) (string, error)
}

// Renamer is a pool that can give a volume to another guest. Renaming what was
// renamed already succeeds, so that an interrupted change can be repeated.
type Renamer interface {
	// Rename gives the volume from the name to; from must not be in use. An
	// existing volume named to is never replaced.
	Rename(ctx context.Context, from, to string) error
}

// Volumes' ids.

var (
	idRE   = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]{0,99}$`)
	nameRE = regexp.MustCompile(`^(?:[a-zA-Z0-9_][a-zA-Z0-9._+-]*/){0,2}[a-zA-Z0-9_][a-zA-Z0-9._+=~-]{0,250}$`)
	diskRE = regexp.MustCompile(`^(?:vm|base|subvol)-([0-9]{3,9})-[a-zA-Z0-9._-]+$`)
)

// SplitID takes a volume id apart and checks both halves: nothing that could
// be an option, leave its folder or carry white space passes.
func SplitID(id string) (pool, name string, err error) {
	pool, name, ok := strings.Cut(id, ":")
	if !ok || !idRE.MatchString(pool) || !nameRE.MatchString(name) || strings.Contains(name, "..") {
		return "", "", fmt.Errorf("unable to parse volume ID '%s'", id)
	}
	return pool, name, nil
}

// ValidID reports whether s can name a storage.
func ValidID(s string) bool { return idRE.MatchString(s) }

// Owner returns the VMID in a disk's name, 0 when the name belongs to none.
func Owner(name string) int {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	m := diskRE.FindStringSubmatch(name)
	if m == nil {
		return 0
	}
	var n int
	fmt.Sscanf(m[1], "%d", &n)
	return n
}

// DiskContent is what a disk counts as on storages that do not tell guests'
// disks apart: whose it is, is known to its guest only.
func (c Config) DiskContent() string {
	if c.Holds(Images) {
		return Images
	}
	return RootDir
}

// CheckBlock says why a storage of block devices cannot make such a volume.
func (s Spec) CheckBlock() error {
	if s.VMID < 100 || s.Size <= 0 || s.Format != "" && s.Format != "raw" {
		return fmt.Errorf("disk of guest %d with %d bytes in format %q is not possible", s.VMID, s.Size, s.Format)
	}
	return nil
}
