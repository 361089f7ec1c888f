package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"joist/image/disk"
	"joist/installer/probe"
)

// Member is one disk of the system. All carry the same boot parts and start
// alone; they differ in their GUIDs.
type Member struct {
	Disk   probe.Disk  `json:"disk"`
	Layout disk.Layout `json:"layout"`
}

// Device is the disk's file.
func (m Member) Device() string { return "/dev/" + m.Disk.Name }

// Part is the file of the partition called name, "" when there is none.
func (m Member) Part(name string) string {
	p, err := m.Layout.Find(name)
	if err != nil {
		return ""
	}
	return "/dev/" + probe.PartitionName(m.Disk.Name, p.Number)
}

// All returns every disk of the system, the first one first.
func (p Plan) All() []Member {
	return append([]Member{{Disk: p.Disk, Layout: p.Layout}}, p.Further...)
}

// dataParts are the partitions that the storage is made of.
func (p Plan) dataParts() []string {
	var out []string
	for _, m := range p.All() {
		out = append(out, m.Part(disk.NameData))
	}
	return out
}

// stream is an endless sequence of bytes that follows from a seed: what
// belongs to one installation is drawn once and derived from then on.
type stream struct {
	seed []byte
	n    uint64
	rest []byte
}

func (s *stream) Read(b []byte) (int, error) {
	for i := range b {
		if len(s.rest) == 0 {
			sum := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte(nil), s.seed...), s.n))
			s.n++
			s.rest = sum[:]
		}
		b[i], s.rest = s.rest[0], s.rest[1:]
	}
	return len(b), nil
}

func (id Identity) derive(what string) io.Reader {
	return &stream{seed: fmt.Appendf(nil, "%s\x00%s\x00%s\x00", what, id.DiskGUID, id.MachineID)}
}

// Member returns the GUIDs of the n-th disk. The first half of the disk's GUID
// is the same on all of them: it is the installation's id, which any of them
// shows by its partition table alone.
func (id Identity) Member(n int) (diskGUID string, parts [5]string, err error) {
	if n == 0 {
		return id.DiskGUID, id.PartGUIDs, nil
	}
	r := id.derive(fmt.Sprintf("disk %d", n))
	g, err := disk.NewGUID(r)
	if err != nil {
		return "", parts, err
	}
	const half = len("00000000-0000-0000")
	diskGUID = id.DiskGUID[:half] + g[half:]
	for i := range parts {
		if parts[i], err = disk.NewGUID(r); err != nil {
			return "", parts, err
		}
	}
	return diskGUID, parts, nil
}

// ArrayUUID is the md array's, as mdadm spells it.
func (id Identity) ArrayUUID() string {
	b := make([]byte, 16)
	_, _ = io.ReadFull(id.derive("array"), b) // never fails
	return fmt.Sprintf("%x:%x:%x:%x", b[:4], b[4:8], b[8:12], b[12:])
}

// HostID is the host that the pool belongs to (genhostid(1)), never zero.
func (id Identity) HostID() string {
	b := make([]byte, 4)
	_, _ = io.ReadFull(id.derive("host"), b)
	b[0] |= 1
	return fmt.Sprintf("%x", b)
}
