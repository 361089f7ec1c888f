package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"joist/api/node"
)

// Files in the cluster folder. What makes the node a member, certificates,
// the cluster's settings and the last known peers, is one folder, so that it
// comes and goes in one step.
const (
	idDir      = "id"
	newIDDir   = "id.new"      // prepared, does not count yet
	oldIDDir   = "id.old"      // put by; empty when there was none
	opFile     = "op.json"     // journal of the operation under way
	lastFile   = "last.json"   // how the last one ended
	exportFile = "export.json" // keys for a store that is made anew

	settingsFile = "cluster.json"
	peersFile    = "peers.json"
	sealFile     = "seal.key" // voters only
	removedFile  = "removed"  // the cluster has said that it has no place for this node

	asideSuffix = ".aside" // of the store's folder, put by
)

// settings is cluster.json: what a member must know before it can ask.
type settings struct {
	ClusterID   string `json:"cluster_id"`
	HeartbeatMs int    `json:"heartbeat_ms"`
	ElectionMs  int    `json:"election_ms"`
}

// folder is the cluster folder and the store's beside it.
type folder struct{ dir, store string }

func (f folder) path(name ...string) string {
	return filepath.Join(append([]string{f.dir}, name...)...)
}

// member reports whether the node belongs to a cluster.
func (f folder) member() bool { return exists(f.path(idDir, settingsFile)) }

func (f folder) settings() (settings, error) {
	var s settings
	b, err := os.ReadFile(f.path(idDir, settingsFile))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read settings of the cluster: %w", err)
	}
	return s, nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// prepare makes id.new with these files, all or none: a folder that was not
// finished lacks the settings, which come last.
func (f folder) prepare(files map[string][]byte, s settings) error {
	if err := os.RemoveAll(f.path(newIDDir)); err != nil {
		return err
	}
	if err := os.Mkdir(f.path(newIDDir), 0o700); err != nil {
		return err
	}
	for name, b := range files {
		if err := node.WriteFile(f.path(newIDDir, name), 0o600, b); err != nil {
			return err
		}
	}
	return node.WriteJSON(f.path(newIDDir, settingsFile), 0o600, s)
}

// swapID puts the prepared folder in place, or none, and keeps what was there.
// Each step can have happened already.
func (f folder) swapID() error {
	if !exists(f.path(oldIDDir)) {
		if err := os.Rename(f.path(idDir), f.path(oldIDDir)); errors.Is(err, fs.ErrNotExist) {
			err = os.Mkdir(f.path(oldIDDir), 0o700)
			if err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	if exists(f.path(newIDDir, settingsFile)) && !exists(f.path(idDir)) {
		if err := os.Rename(f.path(newIDDir), f.path(idDir)); err != nil {
			return err
		}
	}
	return syncDir(f.dir)
}

// revertID undoes prepare and swapID, whatever there is of them.
func (f folder) revertID() error {
	if exists(f.path(oldIDDir)) {
		if err := os.RemoveAll(f.path(idDir)); err != nil {
			return err
		}
		if exists(f.path(oldIDDir, settingsFile)) {
			if err := os.Rename(f.path(oldIDDir), f.path(idDir)); err != nil {
				return err
			}
		} else if err := os.RemoveAll(f.path(oldIDDir)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(f.path(newIDDir)); err != nil {
		return err
	}
	return syncDir(f.dir)
}

// swapStore moves the store's folder aside; what lies aside already is the one
// that counts, and the folder is a try that came to nothing.
func (f folder) swapStore() error {
	aside := f.store + asideSuffix
	if exists(aside) {
		return os.RemoveAll(f.store)
	}
	if err := os.Rename(f.store, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(f.store))
}

// revertStore moves it back.
func (f folder) revertStore() error {
	aside := f.store + asideSuffix
	if !exists(aside) {
		return nil
	}
	if err := os.RemoveAll(f.store); err != nil {
		return err
	}
	if err := os.Rename(aside, f.store); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.store))
}

// clean removes what was put by.
func (f folder) clean() error {
	return errors.Join(os.RemoveAll(f.store+asideSuffix), os.RemoveAll(f.store+copySuffix), os.RemoveAll(f.path(oldIDDir)), os.RemoveAll(f.path(newIDDir)),
		os.RemoveAll(f.path(exportFile)), syncDir(f.dir))
}

// syncDir makes renames durable (fsync(2) on the folder).
func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
