package control

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/hypervisor/guest"
)

// defaultRoot is the size of a root volume that nobody gave one, in GiB.
const defaultRoot = 4

// defaults are what a new guest gets besides what was asked for.
func defaults(r CreateRequest, now int64, rand io.Reader) (map[string]string, error) {
	set := map[string]string{}
	for k, v := range r.Set {
		set[k] = v
	}
	put := func(k, v string) {
		if _, ok := set[k]; !ok {
			set[k] = v
		}
	}
	if r.Kind == guest.LXC {
		put("arch", "amd64")
		put("hostname", "CT"+strconv.Itoa(r.VMID))
		put("memory", "512")
		put("swap", "512")
		put("unprivileged", "1")
		put("ostype", osType(r.Template))
		if r.Storage != "" {
			put("rootfs", fmt.Sprintf("%s:%d", r.Storage, defaultRoot))
		}
		return set, nil
	}
	put("vmgenid", "1")
	if _, ok := set["smbios1"]; !ok {
		id, err := newUUID(rand)
		if err != nil {
			return nil, err
		}
		set["smbios1"] = "uuid=" + id
	}
	if order := bootOrder(set); order != "" {
		put("boot", order)
	}
	return set, nil
}

// meta is what the server notes about a new virtual machine.
func meta(now int64) string { return "ctime=" + strconv.FormatInt(now, 10) }

// osType guesses the distribution from the template's name, as templates of
// the field are called: debian-13-standard_13.1-1_amd64.tar.zst.
func osType(template string) string {
	word, _, _ := strings.Cut(path.Base(template), "-")
	if i := strings.LastIndexByte(word, ':'); i >= 0 {
		word = word[i+1:]
	}
	if _, err := wire.Check(wire.LXC, "ostype", word); err == nil {
		return word
	}
	return "unmanaged"
}

// bootOrder is the first disk, the first CD drive and the first network card.
func bootOrder(set map[string]string) string {
	var disk, cd, nic string
	for _, bus := range []drive.Bus{drive.SCSI, drive.VirtIO, drive.SATA, drive.IDE} {
		for n := range 31 {
			key := string(bus) + strconv.Itoa(n)
			value, ok := set[key]
			if !ok && key == "ide2" {
				value, ok = set["cdrom"]
			}
			d, err := drive.Parse(value)
			switch {
			case !ok || err != nil:
			case d.CDROM && cd == "":
				cd = key
			case !d.CDROM && disk == "":
				disk = key
			}
		}
	}
	for n := range 32 {
		if key := "net" + strconv.Itoa(n); nic == "" && set[key] != "" {
			nic = key
		}
	}
	var order []string
	for _, k := range []string{disk, cd, nic} {
		if k != "" {
			order = append(order, k)
		}
	}
	if len(order) == 0 {
		return ""
	}
	return "order=" + strings.Join(order, ";")
}
