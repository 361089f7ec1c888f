// Package efivar keeps a system's entries in the firmware's boot menu, as
// efivarfs shows it. The installer makes them; a node looks whether they are
// still there and replaces that of a disk that was exchanged.
package efivar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"joist/image/boot"
)

// Dir is where efivarfs is mounted.
const Dir = "/sys/firmware/efi/efivars"

// UEFI 2.10, section 3.3.
const (
	globalGUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	attributes = 0x7 // non-volatile, boot service, run-time access
)

var bootVariable = regexp.MustCompile(`^Boot([0-9A-F]{4})-` + globalGUID + `$`)

// Entry is a boot entry.
type Entry struct {
	Number    uint16
	Name      string
	Partition string // GUID of the partition that it starts from, upper case
}

// List returns the firmware's entries. Those that cannot be read are left out.
func List(dir string) ([]Entry, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read firmware variables: %w", err)
	}
	var out []Entry
	for _, e := range names {
		m := bootVariable.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		n, _ := strconv.ParseUint(m[1], 16, 16)
		x := Entry{Number: uint16(n)}
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil && len(b) > 4 {
			x.Name, x.Partition = boot.ReadOption(b[4:])
		}
		out = append(out, x)
	}
	return out, nil
}

// Set writes an entry and puts it at the place at of the order. The one that
// replaces names is overwritten, so that doing it again does not fill the
// firmware's store.
func Set(dir string, option []byte, at int, replaces func(Entry) bool) error {
	list, err := List(dir)
	if err != nil {
		return err
	}
	number, used := -1, map[int]bool{}
	for _, e := range list {
		used[int(e.Number)] = true
		if number < 0 && replaces(e) {
			number = int(e.Number)
		}
	}
	for i := 0; number < 0; i++ {
		if !used[i] {
			number = i
		}
	}
	if err := write(dir, variable(uint16(number)), option); err != nil {
		return err
	}
	return write(dir, "BootOrder", boot.BootOrder(order(dir), uint16(number), at))
}

// Remove takes entries away, out of the order first.
func Remove(dir string, which func(Entry) bool) error {
	list, err := List(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if !which(e) {
			continue
		}
		if old := order(dir); len(old) > 0 {
			if err := write(dir, "BootOrder", boot.WithoutEntry(old, e.Number)); err != nil {
				return err
			}
		}
		name := path(dir, variable(e.Number))
		if err := mutable(name); err != nil {
			return fmt.Errorf("remove firmware variable %s: %w", variable(e.Number), err)
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove firmware variable %s: %w", variable(e.Number), err)
		}
	}
	return nil
}

func variable(n uint16) string { return fmt.Sprintf("Boot%04X", n) }

func path(dir, name string) string { return filepath.Join(dir, name+"-"+globalGUID) }

// order is the list of numbers; without the variable there is none yet.
func order(dir string) []byte {
	b, _ := os.ReadFile(path(dir, "BootOrder"))
	return b[min(4, len(b)):]
}

// write replaces one of the firmware's own variables.
func write(dir, name string, data []byte) error { return writeTo(path(dir, name), name, data) }

// Names of shim's variables that ask for a key to be enrolled.
const (
	mokNew  = "MokNew"
	mokAuth = "MokAuth"
	shim    = "605dab50-e046-4300-abb6-3dd810dd8b23"
)

// AskForKey writes the request of boot.MokRequest. An older one is replaced. The
// list comes first: shim starts MokManager for it, which refuses it without the
// other.
func AskForKey(dir string, list, auth []byte) error {
	for _, v := range []struct {
		name string
		data []byte
	}{{mokNew, list}, {mokAuth, auth}} {
		at := filepath.Join(dir, v.name+"-"+shim)
		if err := mutable(at); err != nil {
			return fmt.Errorf("write firmware variable %s: %w", v.name, err)
		}
		if err := writeTo(at, v.name, v.data); err != nil {
			return err
		}
	}
	return nil
}

// writeTo replaces a variable in one write, as efivarfs demands.
func writeTo(at, name string, data []byte) error {
	b := append(binary.LittleEndian.AppendUint32(nil, attributes), data...)
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("write firmware variable %s: %w", name, err)
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write firmware variable %s: %w", name, err)
	}
	return nil
}

// immutable is FS_IMMUTABLE_FL (linux/fs.h), which efivarfs sets on what it
// does not know to be harmless (Documentation/filesystems/efivarfs.rst).
const immutable = 0x10

func mutable(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return nil // not efivarfs, or nothing to clear
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
}
