package plan

import (
	"joist/installer/answer"
)

const (
	mib    = int64(1) << 20
	gib    = int64(1) << 30
	extent = 4 * mib // LVM's default
)

// The state volume takes a tenth of the volume group within these bounds: it
// holds the cluster store, task logs and rendered configuration.
const (
	minState = 2 * gib
	maxState = 8 * gib
)

// Volume is one logical volume, sizes in bytes.
type Volume struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	Use   string `json:"use"`            // "ext4", "xfs", "swap" or "thin-pool"
	Mount string `json:"mount"`          // where the node mounts it
	Meta  int64  `json:"meta,omitempty"` // thin pool: metadata volume, kept twice (lvmthin(7), "pmspare")
}

// whole rounds down to extents.
func whole(n int64) int64 { return max(n, 0) / extent * extent }

// sizes divides a volume group of vg bytes on a disk of which hd bytes are
// used. Swap is made only where the answer asks for it. Root of the formulas
// is `local` here, as the system itself lies in its slots: the rest after
// swap and state if below 12 GiB, half of it below 48 GiB, else a quarter plus
// 12 GiB, at most maxroot. Of what is left without minfree, if that is more than
// 4 GiB, the thin pool takes as much as maxvz and twice its metadata allow.
func sizes(vg, hd int64, d answer.Disk) []Volume {
	var out []Volume
	fs := answer.Ext4
	if d.Filesystem == answer.XFS {
		fs = answer.XFS
	}
	left := whole(vg)
	state := whole(min(max(left/10, minState), maxState))
	out = append(out, Volume{Name: "state", Bytes: state, Use: fs, Mount: "/var"})
	left -= state
	if d.SwapSize != nil && *d.SwapSize > 0 {
		swap := max(whole(*d.SwapSize), extent)
		out = append(out, Volume{Name: "swap", Bytes: swap, Use: "swap"})
		left -= swap
	}
	local := left
	switch {
	case left < 12*gib:
	case left < 48*gib:
		local = left / 2
	default:
		local = left/4 + 12*gib
	}
	local = whole(min(local, value(d.MaxRoot, 96*gib)))
	out = append(out, Volume{Name: "local", Bytes: local, Use: fs, Mount: "/var/lib/vz"})
	left -= local

	left -= value(d.MinFree, minFree(hd))
	data := whole(min(left, value(d.MaxVZ, left)))
	if data <= 4*gib {
		return out
	}
	meta := whole(min(max(data/100, gib), 16*gib))
	data = min(data, left-2*meta)
	return append(out, Volume{Name: "data", Bytes: whole(data), Use: "thin-pool", Meta: meta})
}

func value(v *int64, otherwise int64) int64 {
	if v == nil {
		return otherwise
	}
	return *v
}

// minFree stays unallocated for snapshots and repairs.
func minFree(hd int64) int64 {
	switch {
	case hd > 128*gib:
		return 16 * gib
	case hd <= 32*gib:
		return 4 * mib
	default:
		return hd / 8
	}
}
