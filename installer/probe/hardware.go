package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"joist/internal/run"
)

// lock reads whether firmware has switched virtualisation off: Intel's
// IA32_FEATURE_CONTROL (SDM volume 3, 25.7: bit 0 locks, bit 2 allows VMX) and
// AMD's VM_CR (APM volume 2, 15.30.1: bit 4 disables SVM). It needs the msr
// driver; without it nothing is known.
func (m Machine) lock(vendor string) string {
	register := map[string]int64{"GenuineIntel": 0x3a, "AuthenticAMD": 0xc0010114}[vendor]
	f, err := os.Open(m.path("dev/cpu/0/msr"))
	if err != nil || register == 0 {
		return ""
	}
	defer f.Close()
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, register); err != nil {
		return ""
	}
	v := u64(b)
	if register == 0x3a && v&1 != 0 && v&4 == 0 || register != 0x3a && v&(1<<4) != 0 {
		return Off
	}
	return On
}

// iommu: the kernel lists what it drives in /sys/class/iommu; the firmware's
// tables say whether there is hardware to drive.
func (m Machine) iommu() *IOMMU {
	var out IOMMU
	entries, err := os.ReadDir(m.path("sys/class/iommu"))
	if err != nil && !m.exists("sys/firmware/acpi/tables") {
		return nil
	}
	out.Active = len(entries) > 0
	for _, t := range []string{"DMAR", "IVRS"} {
		if m.exists("sys/firmware/acpi/tables", t) {
			out.Table = t
		}
	}
	return &out
}

func (m Machine) tpm() string {
	if !m.exists("sys/class") {
		return ""
	}
	if v := m.read("sys/class/tpm/tpm0/tpm_version_major"); v != "" {
		return v
	}
	return NoTPM
}

// dmi reads what the kernel shows of SMBIOS (Documentation/ABI/testing/
// sysfs-firmware-dmi-tables and drivers/firmware/dmi-id.c).
func (m Machine) dmi() DMI {
	group := func(prefix string, keys ...string) map[string]string {
		out := map[string]string{}
		for _, k := range keys {
			if v := m.read("sys/class/dmi/id", prefix+"_"+k); v != "" {
				out[k] = v
			}
		}
		return out
	}
	return DMI{System: group("product", "name", "serial", "sku", "uuid"), Baseboard: group("board", "asset_tag", "name", "serial"),
		Chassis: group("chassis", "asset_tag", "serial", "sku")}
}

// zfs says whether the running image can make a pool: it brings the program,
// or leaves ZFS out as a whole.
func (m Machine) zfs() string {
	switch {
	case !m.exists("usr"):
		return ""
	case m.exists("usr/sbin/zpool"), m.exists("sbin/zpool"):
		return Present
	}
	return Absent
}

// ecc asks the firmware's description of the memory array (SMBIOS 3.7, type
// 16, offset 6: 3 is none, 5 and 6 are single- and multi-bit ECC), else the
// driver of the memory controller.
func (m Machine) ecc() string {
	b, err := os.ReadFile(m.path("sys/firmware/dmi/entries/16-0/raw"))
	if err == nil && len(b) > 6 {
		switch b[6] {
		case 5, 6:
			return On
		case 3:
			return Off
		}
	}
	for _, pattern := range []string{"mc*/dimm*/dimm_edac_mode", "mc*/rank*/dimm_edac_mode"} {
		files, _ := filepath.Glob(m.path("sys/devices/system/edac/mc", pattern))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if mode := strings.TrimSpace(string(b)); err == nil && mode != "" && mode != "None" && mode != "Unknown" {
				return On
			}
		}
	}
	return ""
}

// x509Type is EFI_CERT_X509_GUID as it lies in a variable (UEFI 2.10, 32.4.1).
const x509Type = "\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72"

// moduleKeys lists the certificates of firmware's db and of shim's list.
func (m Machine) moduleKeys() []string {
	var out []string
	for _, v := range []string{"db-d719b2cb-3d3a-4596-a3bc-dad00e67656f", "MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"} {
		b, err := os.ReadFile(m.path("sys/firmware/efi/efivars", v))
		if err != nil || len(b) < 4 {
			continue
		}
		for _, k := range certificates(b[4:]) { // behind the attributes
			if !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	return out
}

// certificates walks EFI_SIGNATURE_LISTs: type, size of the list, of its
// header and of each entry; an entry is an owner's GUID and the certificate.
func certificates(b []byte) []string {
	var out []string
	for len(b) >= 28 {
		size, header, entry := int(u32(b[16:])), int(u32(b[20:])), int(u32(b[24:]))
		if size < 28 || size > len(b) || header < 0 || header > size-28 {
			return out
		}
		if string(b[:16]) == x509Type && entry > 16 {
			for e := b[28+header : size]; len(e) >= entry; e = e[entry:] {
				sum := sha256.Sum256(e[16:entry])
				out = append(out, hex.EncodeToString(sum[:]))
			}
		}
		b = b[size:]
	}
	return out
}

// mergePaths makes one disk of the several names that a SAS or NVMe disk with
// two ports, or several paths to a LUN, has: the same WWID, else model, serial
// number and size. Other buses have one path; equal numbers there are sloppy
// makers, never one disk.
func mergePaths(ds []Disk) []Disk {
	var out []Disk
	first := map[string]int{}
	for _, d := range ds {
		key := ""
		switch {
		case d.Bus != "scsi" && d.Bus != "nvme":
		case d.WWN != "":
			key = "wwn " + d.WWN
		case d.Serial != "":
			key = fmt.Sprintf("serial %s %s", d.Model, d.Serial)
		}
		if key != "" {
			key = fmt.Sprintf("%s %d", key, d.Size)
		}
		i, ok := first[key]
		if key == "" || !ok {
			first[key] = len(out)
			out = append(out, d)
			continue
		}
		o := &out[i]
		o.Paths = append(o.Paths, d.Name)
		o.Medium, o.ReadOnly = o.Medium || d.Medium, o.ReadOnly || d.ReadOnly
		for _, u := range d.InUse {
			if !slices.Contains(o.InUse, u) {
				o.InUse = append(o.InUse, u)
			}
		}
	}
	return out
}

// smartTime is how long a disk may take to answer.
const smartTime = 10 * time.Second

// smartctl asks a disk; its exit status is a set of flags about the disk
// (smartctl(8)), so that any JSON counts as an answer.
func smartctl(device string) ([]byte, error) {
	const program = "/usr/sbin/smartctl"
	if _, err := os.Stat(program); err != nil {
		return nil, nil // an image without it knows nothing of health
	}
	ctx, cancel := context.WithTimeout(context.Background(), smartTime)
	defer cancel()
	var text strings.Builder
	_, err := run.OS{}.Run(ctx, run.Cmd{Path: program, Args: []string{"--json=c", "--health", "--attributes", device},
		Line: func(l string) { text.WriteString(l + "\n") }})
	if strings.HasPrefix(text.String(), "{") {
		return []byte(text.String()), nil
	}
	return nil, err
}

// health is nil for a disk that has no monitoring, as virtual ones.
func (m Machine) health(d Disk) (*Health, error) {
	if m.SMART == nil || d.Bus == "virtio" || d.Bus == "mmc" {
		return nil, nil
	}
	b, err := m.SMART(m.path("dev", d.Name))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return parseSMART(b)
}

// smartReport is the part of smartctl's JSON that is read.
type smartReport struct {
	Status *struct {
		Passed bool `json:"passed"`
	} `json:"smart_status"`
	Endurance struct {
		Percent int `json:"current_percent"`
	} `json:"endurance_used"`
	SCSIWear int `json:"scsi_percentage_used_endurance_indicator"`
	NVMe     struct {
		Warning   int   `json:"critical_warning"`
		Used      int   `json:"percentage_used"`
		MediaErrs int64 `json:"media_errors"`
	} `json:"nvme_smart_health_information_log"`
	ATA struct {
		Table []struct {
			ID    int `json:"id"`
			Value int `json:"value"`
			Raw   struct {
				Value int64 `json:"value"`
			} `json:"raw"`
		} `json:"table"`
	} `json:"ata_smart_attributes"`
}

// parseSMART returns nil when the disk gave no verdict.
func parseSMART(b []byte) (*Health, error) {
	var r smartReport
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&r); err != nil {
		return nil, fmt.Errorf("read smartctl's report: %w", err)
	}
	if r.Status == nil {
		return nil, nil
	}
	h := &Health{Failing: !r.Status.Passed || r.NVMe.Warning&^1 != 0, Pending: r.NVMe.MediaErrs,
		Wear: max(r.Endurance.Percent, r.SCSIWear, r.NVMe.Used)}
	for _, a := range r.ATA.Table {
		raw := a.Raw.Value & 0xffffffff // makers keep other things above
		switch a.ID {
		case 5: // reallocated sectors
			h.Replaced = raw
		case 197, 198: // pending, uncorrectable
			h.Pending = max(h.Pending, raw)
		case 177, 231, 233: // life left in per cent, normalised
			if r.Endurance.Percent == 0 && a.Value > 0 && a.Value <= 100 {
				h.Wear = max(h.Wear, 100-a.Value)
			}
		}
	}
	return h, nil
}

// u32 and u64 read little-endian fields of on-disk structures.
func u32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
