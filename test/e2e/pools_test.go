package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/vm"
)

// onZFS changes the tests' answer to a layout of l's disks on ZFS.
func (l *layout) onZFS(raid, more string) []string {
	var names []string
	for i := range l.disks {
		names = append(names, fmt.Sprintf("%q", l.drive(i+1)))
	}
	return []string{`"ext4"`, `"zfs"`, `disk-list = ["vda"]`, "disk-list = [" + strings.Join(names, ", ") + "]\nzfs.raid = \"" + raid + "\"\n" + more}
}

// without are overlays of the disks but some, counted from 1: what happens to
// them leaves the disks as they are.
func (l *layout) without(t *testing.T, lost ...int) []string {
	t.Helper()
	dir := t.TempDir()
	var out []string
	for i, disk := range l.disks {
		if slices.Contains(lost, i+1) {
			continue
		}
		path := filepath.Join(dir, filepath.Base(disk))
		if err := vm.Overlay(t.Context(), disk, path); err != nil {
			t.Fatal(err)
		}
		out = append(out, path)
	}
	return out
}

const (
	poolState = `cat /proc/spl/kstat/zfs/rpool/state`
	poolSays  = `pool "rpool" lacks a disk`
	onPool    = "/var zfs\n/var/lib/vz zfs"
	// the host id of kernel, programs and node configuration, and the bound of
	// the cache, as far as they are those of node.json
	poolFacts = `id=$(sed -n 's/.*"host_id": "\(.*\)".*/\1/p' /var/lib/joist/node/node.json)
arc=$(sed -n 's/.*"arc_max": \([0-9]*\).*/\1/p' /var/lib/joist/node/node.json)
[ "$(hostid)" = "$id" ] && [ "$(cat /sys/module/spl/parameters/spl_hostid)" = $((0x$id)) ] && echo host
[ "$(awk '$1 == "c_max" {print $3}' /proc/spl/kstat/zfs/arcstats)" = "$arc" ] && echo cache
ls /dev | grep -c '^zd' || true`
	// zpool add where attach was meant, taken back
	addedByMistake = `truncate -s 1G /run/added && zpool add -f -o ashift=12 rpool /run/added && sync &&
zpool remove rpool /run/added && zpool wait -t remove rpool && rm /run/added && zpool status rpool | grep -q "Removal of vdev"`
)

// TestLayoutZFS: guests run from volumes of the pool, which survives a power
// cut, and are still there after the node was installed over.
func TestLayoutZFS(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 1).byUEFI(t)
	l.install(t, l.onZFS("raid0", "")...)
	l.start(t, l.disks...)
	l.want(t, "file systems", volumes, onPool)
	l.want(t, "attributes of the boot partition", espMarks, "0000000000000000")
	l.want(t, "host, cache and devices of guests", poolFacts, "host\ncache\n0")
	machine := guestOf{n: l.runningNode, kind: "qemu", id: 100}.create(t, client.Params{"memory": "128", "scsi0": "local-zfs:1", "net0": vmHardware})
	archive := l.upload(t, "vztmpl", "debian-13-standard_test_amd64.tar.zst", template(t))
	container := guestOf{n: l.runningNode, kind: "lxc", id: 101}.create(t, client.Params{"ostemplate": archive, "rootfs": "local-zfs:2", "memory": guestMemory, "net0": ctNetwork})
	for _, g := range []guestOf{machine, container} {
		g.start(t)
		g.wantStatus(t, "running")
	}
	l.want(t, "volumes", "zfs list -H -p -r -t volume -o name,volsize,volblocksize,volmode,refreservation rpool/data",
		"rpool/data/vm-100-disk-0\t1073741824\t16384\tdev\t0\nrpool/data/vm-101-disk-0\t2147483648\t16384\tdev\t0")
	l.run(t, addedByMistake)
	l.run(t, "echo kept > /var/lib/vz/kept; sync; echo lost > /var/lib/vz/lost")
	l.cut(t)

	l.start(t, l.disks...)
	l.want(t, "a file that was written out", "cat /var/lib/vz/kept", "kept")
	l.want(t, "pool without what was taken out of it", poolState, "ONLINE")
	container.start(t)
	container.wantStatus(t, "running")
	container.stop(t)
	l.until(t, "the stopped container's volume has no device", func(ctx context.Context) error {
		out, err := l.try(ctx, t, "zfs get -H -o value volmode rpool/data/vm-101-disk-0; ls /dev/zvol/rpool/data")
		if err == nil && strings.TrimSpace(out) != "none\nvm-100-disk-0" {
			err = fmt.Errorf("it has: %s", out)
		}
		return err
	})
	id := l.installation(t)
	l.off(t)
	l.rescue(t)

	l.install(t, l.onZFS("raid0", "[joist.disk]\nadopt = true\n[joist.install]\ninstallation = \""+id+"\"")...)
	l.start(t, l.disks...)
	if again := l.run(t, "cat /var/lib/joist/node/node.json"); strings.Contains(again, id) {
		t.Error("the node still has the old installation's id")
	}
	l.want(t, "host, cache and devices of guests", poolFacts, "host\ncache\n1")
	l.want(t, "a file of local", "cat /var/lib/vz/kept", "kept")
	for _, g := range []guestOf{machine, container} {
		g.start(t)
		g.wantStatus(t, "running")
	}
}

// TestLayoutZFSCutOff: the pool of a try that lost power is in nobody's way.
func TestLayoutZFSCutOff(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 1)
	l.cutOff(t, "[started]  write configuration", l.onZFS("raid0", "")...)
}

// TestLayoutZFSMirror: either disk starts the node without the other, says so,
// and the other one is taken back with what it missed.
func TestLayoutZFSMirror(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 2)
	l.install(t, l.onZFS("raid1", "")...)
	l.start(t, l.disks...)
	l.want(t, "pool", poolState, "ONLINE")
	l.run(t, "echo both > /var/lib/vz/both")
	l.off(t)

	l.start(t, l.disks[1])
	l.want(t, "pool without its first disk", poolState, "DEGRADED")
	l.want(t, "a file of before", "cat /var/lib/vz/both", "both")
	if _, err := l.WaitFor(within(t, time.Minute), poolSays); err != nil {
		t.Error(err)
	}
	l.run(t, "echo alone > /var/lib/vz/alone")
	l.off(t)

	l.start(t, l.disks...)
	l.until(t, "the pool is whole", func(ctx context.Context) error {
		out, err := l.try(ctx, t, poolState+"; zpool status -x")
		if err == nil && strings.TrimSpace(out) != "ONLINE\nall pools are healthy" && !strings.Contains(out, "resilvered") {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
	l.want(t, "a file of the time alone", "cat /var/lib/vz/alone", "alone")
	l.off(t)

	// the disk that was away has everything
	l.start(t, l.disks[0])
	l.want(t, "files on the first disk", "cat /var/lib/vz/both /var/lib/vz/alone", "both\nalone")
	l.cut(t)
	l.rescue(t, poolByHand)

	// used without each other, the halves do not mix: the newer one counts
	l.start(t, l.disks[1])
	l.run(t, "echo apart > /var/lib/vz/apart")
	l.off(t)
	l.start(t, l.disks...)
	l.want(t, "pool of halves that went apart", poolState, "DEGRADED")
	if _, err := l.WaitFor(within(t, time.Minute), `was used without the other disks meanwhile`); err != nil {
		t.Error(err)
	}
}

// survives installs on that many disks and starts without some of them, as the
// lists say; then the second is replaced by a blank one, and the first pulled.
func survives(t *testing.T, raid string, disks int, losses ...[]int) *layout {
	t.Parallel()
	l := newLayout(t, disks).byUEFI(t)
	l.install(t, l.onZFS(raid, "")...)
	l.start(t, l.disks...)
	l.want(t, "pool", poolState, "ONLINE")
	l.want(t, "file systems", volumes, onPool)
	l.run(t, "head -c 20M /dev/urandom > /var/lib/vz/file; sha256sum < /var/lib/vz/file > /var/lib/vz/sum")
	l.off(t)
	lacks := func(what string, lost ...int) {
		t.Helper()
		l.start(t, l.without(t, lost...)...)
		l.want(t, "pool "+what, poolState, "DEGRADED")
		l.want(t, "file "+what, `[ "$(sha256sum < /var/lib/vz/file)" = "$(cat /var/lib/vz/sum)" ] && echo same`, "same")
		if _, err := l.WaitFor(within(t, time.Minute), poolSays); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		l.cut(t)
	}
	for _, lost := range losses {
		lacks(fmt.Sprintf("without %v", lost), lost...)
	}
	l.replace(t, 2, func() { l.want(t, "pool", poolState, "ONLINE") })
	lacks("with a new second disk, without the first", 1)
	return l
}

func TestLayoutZ10(t *testing.T) {
	survives(t, "raid10", 4, []int{1}, []int{2}, []int{3}, []int{4}, []int{2, 3})
}
func TestLayoutZ1(t *testing.T) {
	survives(t, "raidz-1", 3, []int{1}, []int{2}, []int{3}).rescue(t, poolByHand, poolDamaged)
}
func TestLayoutZ2(t *testing.T) {
	survives(t, "raidz-2", 4, []int{1}, []int{2}, []int{3}, []int{4}, []int{1, 2})
}
func TestLayoutZ3(t *testing.T) {
	survives(t, "raidz-3", 5, []int{1}, []int{2}, []int{3}, []int{4}, []int{5}, []int{1, 3, 5})
}

// TestLayoutReplaceZFS: the same in a pool.
func TestLayoutReplaceZFS(t *testing.T) {
	t.Parallel()
	l := newLayout(t, 2).byUEFI(t)
	l.buses = []vm.Bus{vm.NVMe, vm.SATA}
	l.install(t, l.onZFS("raid1", "")...)
	l.replace(t, 2, func() { l.want(t, "pool", poolState, "ONLINE") })
	l.exchange(t, 2, func() { l.want(t, "pool", poolState, "ONLINE") })
	l.buses = nil
	l.start(t, l.disks[1])
	l.want(t, "pool on the new disk", poolState, "DEGRADED")
	l.want(t, "a file of before", "cat /var/lib/vz/both", "both")
	l.cut(t)
}
