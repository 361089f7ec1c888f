package lxc

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"joist/hypervisor/guest"
)

// Status reads the container's state from the kernel; see guest.Guest.
func (c *Container) Status(context.Context) (guest.Status, error) {
	rec, group := c.Record(), c.d.group(payload(c.vmid))
	u := group.Usage()
	st := c.Reading(u)
	st.MaxSwap, _ = strconv.ParseInt(rec.Extra[extraSwap], 10, 64)
	if st.State == guest.Stopped {
		return st, nil
	}
	if rec.Asked {
		st.State = guest.Stopping
	}
	st.Note, st.Swap = c.Note(), u.Swap
	st.DiskRead, st.DiskWrite = diskCounters(group)
	return st, nil
}

// diskCounters sums io.stat over all devices: "253:3 rbytes=1 wbytes=2 …".
func diskCounters(g guest.Group) (read, written int64) {
	b, _ := os.ReadFile(filepath.Join(g.Dir, "io.stat"))
	for f := range strings.FieldsSeq(string(b)) {
		key, value, _ := strings.Cut(f, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "rbytes":
			read += n
		case "wbytes":
			written += n
		}
	}
	return read, written
}
