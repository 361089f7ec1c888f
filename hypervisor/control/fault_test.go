package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/cluster/store"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
)

// TestCrashInConfigure: a volume that the configuration no longer names does
// not outlive the daemon that was to delete it, and none that it names goes.
func TestCrashInConfigure(t *testing.T) {
	for step, want := range map[string][]string{
		"volume vm-100-disk-2": {"disks:vm-100-disk-0", "disks:vm-100-disk-1"},
		"configured":           {"disks:vm-100-disk-0", "disks:vm-100-disk-2"},
	} {
		t.Run(step, func(t *testing.T) {
			m := newMachine(t)
			dead := make(chan struct{})
			m.step = func(s string) {
				if s == step {
					close(dead)
					select {}
				}
			}
			c, _, stop := m.daemon()
			m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1", "scsi1": "disks:1"})))
			ch := Change{Delete: []string{"scsi1"}, Force: true, Set: map[string]string{"scsi2": "disks:2"}}
			go c.Configure(context.Background(), guest.KVM, 100, "root@pam", ch)
			select {
			case <-dead:
			case <-time.After(5 * time.Second):
				t.Fatal("step is never reached")
			}
			stop()
			m.step = nil
			c, _, _ = m.daemon()
			if got := m.disks(); !slices.Equal(got, want) {
				t.Errorf("disks %v, want %v", got, want)
			}
			v, err := c.Get(guest.KVM, 100)
			if err != nil || (v.Config["scsi2"] != "") != (step == "configured") {
				t.Errorf("%v %v", v.Config, err)
			}
		})
	}
}

// TestGoneThings: what a guest refers to may vanish; the errors name it.
func TestGoneThings(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1", "scsi1": "disks:1", "ide2": "local:iso/x.iso,media=cdrom"})))
	m.pools["local"].Drop("iso/x.iso")
	m.pools["local"].Fail = func(op, name string) error {
		if _, there := m.pools["local"].Get(name); op == "activate" && !there {
			return fmt.Errorf("volume 'local:%s' does not exist", name)
		}
		return nil
	}
	if s := m.wait(c.Power(power(OpStart, guest.KVM, 100))); s != "ide2: volume 'local:iso/x.iso' does not exist" {
		t.Error(s)
	}
	if n := m.pools["disks"].Active(); n != 0 {
		t.Errorf("%d volumes stay active", n)
	}
	m.pools["disks"].Drop("vm-100-disk-0")
	m.must(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 100}))
	if len(c.All()) != 0 || len(m.disks()) != 0 {
		t.Errorf("left %v, %v", c.All(), m.disks())
	}

	// A storage that is no longer defined must not keep the guest.
	rec := Record{VMID: 101, Kind: guest.KVM, Node: "n1", Config: map[string]string{"scsi0": "nowhere:vm-101-disk-0,size=1G"}}
	if _, err := c.table.write(t.Context(), rec, 0); err != nil {
		t.Fatal(err)
	}
	if s := m.wait(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 101})); s != "WARNINGS: 1" || len(c.All()) != 0 {
		t.Error(s, c.All())
	}
}

func TestFullStorage(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.pools["disks"].Used = 1 << 40
	s := m.wait(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1"})))
	if s != "unable to create VM 100 - storage 'disks' is full: not enough space" || len(c.All()) != 0 {
		t.Error(s, c.All())
	}
}

// TestBusyForAMoment: udev has a volume open when it is to be deleted.
func TestBusyForAMoment(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1"})))
	tries := 0
	m.pools["disks"].Fail = func(op, _ string) error {
		if tries++; op == "delete" && tries < 3 {
			return fmt.Errorf("delete: %w", storage.ErrInUse)
		}
		return nil
	}
	m.must(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 100}))
	if tries != 3 {
		t.Errorf("%d tries", tries)
	}
}

// TestTwoDaemons: the second one does not open while the first one lives.
func TestTwoDaemons(t *testing.T) {
	m := newMachine(t)
	c, _, stop := m.daemon()
	other := New(c.o)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := other.Open(ctx); err == nil || !strings.Contains(err.Error(), "another daemon has them") {
		t.Errorf("a second daemon: %v", err)
	}
	stop()
	if err := other.Open(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestBootGoesOn: a daemon that ended while it started guests has not started
// them all, and the next one knows.
func TestBootGoesOn(t *testing.T) {
	m := newMachine(t)
	c, _, stop := m.daemon()
	for _, id := range []int{100, 101} {
		m.must(c.Create(t.Context(), vm(id, map[string]string{"onboot": "1", "startup": "order=1,up=60"})))
	}
	m.must(c.Create(t.Context(), vm(102, map[string]string{"onboot": "1"})))
	ctx, cancel := context.WithCancel(t.Context())
	booted := make(chan error, 1)
	go func() { booted <- c.Boot(ctx) }()
	eventually(t, "the first stage runs", func() bool { return m.vms.Guest(100) != nil && m.vms.Guest(101) != nil })
	stop() // while it waits for the first stage to be up
	cancel()
	<-booted
	if _, err := os.Stat(c.bootedFile()); err == nil {
		t.Error("the start of the guests counts as done")
	}
	c, _, _ = m.daemon()
	if err := c.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.vms.Started(), []int{100, 101, 102}) {
		t.Errorf("started %v", m.vms.Started())
	}
	if _, err := os.Stat(c.bootedFile()); err != nil {
		t.Error(err)
	}
}

// TestStartDuringTheEnd: a start that was under way when all guests were
// stopped for good does not leave a guest behind.
func TestStartDuringTheEnd(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, nil)))
	m.vms.Hold = make(chan struct{})
	upid, err := c.Power(power(OpStart, guest.KVM, 100))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	m.must(c.StopAll(StopAllRequest{User: "root@pam", Final: true}))
	close(m.vms.Hold)
	if s := m.wait(upid, nil); s != errHalted.Error() {
		t.Error(s)
	}
	eventually(t, "nothing runs", func() bool { return m.vms.Guest(100) == nil })
	if _, err := c.Power(power(OpReboot, guest.KVM, 100)); err == nil {
		t.Error("reboot")
	}
}

// TestStraysAreNotForgotten: a destruction that is finished by somebody else
// finds the disks that the configuration did not name.
func TestStraysAreNotForgotten(t *testing.T) {
	m := newMachine(t)
	c, _, stop := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1"})))
	m.pools["disks"].Put(storage.Volume{ID: "disks:vm-100-disk-9", VMID: 100})
	m.pools["disks"].Fail = func(op, _ string) error {
		if op == "delete" {
			return errors.New("device is broken")
		}
		return nil
	}
	if s := m.wait(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 100, Stray: true})); !strings.Contains(s, "broken") {
		t.Error(s)
	}
	stop()
	m.pools["disks"].Fail = nil
	c, _, _ = m.daemon()
	if err := c.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guest is gone", func() bool { return len(c.All()) == 0 })
	if d := m.disks(); len(d) != 0 {
		t.Errorf("disks %v", d)
	}
}

// TestResizeWhileRunning: QEMU hears of its own disks only, and an image with
// a header is left to it.
func TestResizeWhileRunning(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1", "scsi1": "disks:1"})))
	q := storage.Volume{ID: "disks:100/vm-100-disk-7.qcow2", Size: 1 << 30, VMID: 100, Content: storage.Images, Format: "qcow2"}
	m.pools["disks"].Put(q)
	if err := c.Configure(t.Context(), guest.KVM, 100, "root@pam", Change{Set: map[string]string{"scsi2": q.ID}}); err != nil {
		t.Fatal(err)
	}
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	if err := c.Configure(t.Context(), guest.KVM, 100, "root@pam", Change{Set: map[string]string{"scsi1": "disks:1"}}); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{"scsi0", "scsi1", "scsi2"} {
		m.must(c.Resize(ResizeRequest{User: "root@pam", Kind: guest.KVM, VMID: 100, Disk: disk, Size: "5G"}))
	}
	if !slices.Equal(m.vms.Resized(), []string{"scsi0 5", "scsi2 5"}) {
		t.Errorf("told %v", m.vms.Resized())
	}
	if v, _ := m.pools["disks"].Get("100/vm-100-disk-7.qcow2"); v.Size != 1<<30 {
		t.Errorf("the pool resized an image that is open: %d", v.Size)
	}
	if v, _ := m.pools["disks"].Get("vm-100-disk-2"); v.Size != 5<<30 {
		t.Errorf("the new volume has %d bytes", v.Size)
	}
}

// TestBootWaits: guests start when the cluster can decide, and only those that
// are this node's then.
func TestBootWaits(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	for _, id := range []int{100, 101} {
		m.must(c.Create(t.Context(), vm(id, map[string]string{"onboot": "1"})))
	}
	quorum, asked := make(chan struct{}), make(chan struct{})
	c.o.Quorum = func(ctx context.Context) error {
		close(asked)
		select {
		case <-quorum:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	booted := make(chan error, 1)
	go func() { booted <- c.Boot(t.Context()) }()
	<-asked
	if m.vms.Guest(100) != nil {
		t.Error("a guest runs without a quorum")
	}
	e, _ := c.table.get(100)
	r := e.Record.clone()
	r.Node = "elsewhere"
	if _, err := c.o.Store.Txn(t.Context(), nil, store.Op{Key: Key(100), Value: r.encode()}); err != nil {
		t.Fatal(err)
	}
	close(quorum)
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.vms.Started(), []int{101}) {
		t.Errorf("started %v, want 101 alone: 100 is another node's", m.vms.Started())
	}
}

// TestOrphan: a record under creation whose task is gone goes, with the disks;
// one that is being created stays.
func TestOrphan(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	old := time.Now().Add(-time.Hour).Unix()
	for id, created := range map[int]int64{100: old, 101: old, 102: time.Now().Unix()} {
		r := Record{VMID: id, Kind: guest.KVM, Node: c.o.Node, Config: map[string]string{}, Lock: lockCreate, Created: created, Nonce: "n"}
		if _, err := c.table.write(t.Context(), r, 0); err != nil {
			t.Fatal(err)
		}
	}
	m.pools["disks"].Put(storage.Volume{ID: "disks:vm-100-disk-0", VMID: 100})
	unlock, err := c.locks.lock(t.Context(), guest.KVM, 101)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	c.orphans(t.Context())
	eventually(t, "100 is gone", func() bool { _, ok := c.table.get(100); return !ok })
	if _, there := m.pools["disks"].Get("vm-100-disk-0"); there {
		t.Error("its disk is still there")
	}
	for _, id := range []int{101, 102} {
		if e, ok := c.table.get(id); !ok || e.Lock != lockCreate {
			t.Errorf("%d: %+v %v", id, e, ok)
		}
	}
}
