package apply

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"joist/installer/plan"
	"joist/internal/host"
)

// UEFI 2.10: section 3.3 (variables), 3.1.3 (load options), 10.3 (device paths).
const (
	efiDir      = "/sys/firmware/efi/efivars"
	globalGUID  = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	entryName   = "Joist"
	attributes  = 0x7 // non-volatile, boot service, run-time access
	optionAlive = 0x1 // LOAD_OPTION_ACTIVE
)

var bootVariable = regexp.MustCompile(`^Boot([0-9A-F]{4})-` + globalGUID + `$`)

// entryOf is the entry's name for the n-th disk.
func entryOf(n int) string {
	if n == 0 {
		return entryName
	}
	return fmt.Sprintf("%s, disk %d", entryName, n+1)
}

// bootEntry writes the disk's entry and puts it first, behind those of the
// disks before it. An older entry of that name is replaced, so that installing
// again does not fill the firmware's store.
func (a *applier) bootEntry(d *drive, act plan.BootEntry) error {
	dir := a.h.Path(efiDir)
	names, err := os.ReadDir(dir)
	if err == nil && len(names) == 0 {
		if err = a.h.Sys.Mount(host.Mount{Source: "efivarfs", Target: efiDir, FSType: "efivarfs"}); err == nil {
			names, err = os.ReadDir(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("read firmware variables: %w", err)
	}
	option, err := loadOption(act, entryOf(d.n), int64(d.Layout.SectorSize))
	if err != nil {
		return err
	}
	number, used := -1, map[int]bool{}
	for _, e := range names {
		m := bootVariable.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		n, _ := strconv.ParseUint(m[1], 16, 16)
		used[int(n)] = true
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil && number < 0 && optionName(b) == entryOf(d.n) {
			number = int(n)
		}
	}
	for i := 0; number < 0; i++ {
		if !used[i] {
			number = i
		}
	}
	if err := writeVariable(dir, fmt.Sprintf("Boot%04X", number), option); err != nil {
		return err
	}
	// without the variable there is no order yet
	old, _ := os.ReadFile(filepath.Join(dir, "BootOrder-"+globalGUID))
	return writeVariable(dir, "BootOrder", bootOrder(old[min(4, len(old)):], number, d.n))
}

// bootOrder puts an entry at the place at of the list.
func bootOrder(old []byte, number, at int) []byte {
	own := []byte{byte(number), byte(number >> 8)}
	var out []byte
	for e := range slices.Chunk(old, 2) {
		if len(e) == 2 && !bytes.Equal(e, own) {
			out = append(out, e...)
		}
	}
	return slices.Insert(out, min(2*at, len(out)), own...)
}

// writeVariable replaces a variable in one write, as efivarfs demands.
func writeVariable(dir, name string, data []byte) error {
	b := append(binary.LittleEndian.AppendUint32(nil, attributes), data...)
	f, err := os.OpenFile(filepath.Join(dir, name+"-"+globalGUID), os.O_WRONLY|os.O_CREATE, 0o644)
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

// optionName is the description in a Boot#### variable as efivarfs shows it:
// variable attributes, option attributes, length of the path list, name.
func optionName(b []byte) string {
	if len(b) < 10 {
		return ""
	}
	var u []uint16
	for i := 10; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// loadOption encodes the entry: partition by GUID, file by path.
func loadOption(act plan.BootEntry, name string, sector int64) ([]byte, error) {
	p := act.Partition
	id, err := hex.DecodeString(strings.ReplaceAll(p.GUID, "-", ""))
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("encode boot entry: %q is not a GUID", p.GUID)
	}
	slices.Reverse(id[0:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	le := binary.LittleEndian
	path := []byte{4, 1, 42, 0} // media device path, hard drive
	path = le.AppendUint32(path, uint32(p.Number))
	path = le.AppendUint64(path, uint64(p.Start/sector))
	path = le.AppendUint64(path, uint64(p.Size/sector))
	path = append(path, id...)
	path = append(path, 2, 2) // GPT, GUID
	file := utf16z(act.Loader)
	path = append(path, 4, 4) // media device path, file path
	path = le.AppendUint16(path, uint16(4+len(file)))
	path = append(path, file...)
	path = append(path, 0x7f, 0xff, 4, 0) // end of the whole path

	out := le.AppendUint32(nil, optionAlive)
	out = le.AppendUint16(out, uint16(len(path)))
	out = append(out, utf16z(name)...)
	return append(out, path...), nil
}

func utf16z(s string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
