package probe

import (
	"os"
	"strings"
)

// Labelled lists the volumes whose label is one of the given, in any case: on
// whole disks, partitions and optical drives, the medium booted from left out.
// A FAT label holds 11 characters, so a longer one is compared by those.
func (m Machine) Labelled(labels ...string) []Content {
	medium := ""
	for _, mt := range m.mounts() {
		if mt.target == MediumDir {
			medium = strings.TrimPrefix(mt.source, "/dev/")
		}
	}
	if name, _ := m.bootMedium(); name != "" {
		medium = name
	}
	var out []Content
	entries, _ := os.ReadDir(m.path("sys/block"))
	for _, e := range entries {
		if notDisk(e.Name()) && !strings.HasPrefix(e.Name(), "sr") {
			continue
		}
		for _, n := range append([]string{e.Name()}, m.partitions(e.Name())...) {
			if n == medium {
				continue
			}
			out = append(out, m.labelled(n, labels)...)
		}
	}
	return out
}

func (m Machine) labelled(name string, labels []string) []Content {
	f, err := os.Open(m.path("dev", name))
	if err != nil {
		return nil // an empty drive, for one
	}
	defer f.Close()
	var out []Content
	for _, c := range plain(f, 0, name) {
		for _, l := range labels {
			if strings.EqualFold(c.Name, l) || c.Kind == "fat" && len(l) > 11 && strings.EqualFold(c.Name, l[:11]) {
				out = append(out, c)
			}
		}
	}
	return out
}
