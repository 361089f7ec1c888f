package control

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/cluster/store"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

const template = "local:vztmpl/debian-13-standard_13.1-1_amd64.tar.zst"

func vm(id int, set map[string]string) CreateRequest {
	return CreateRequest{Kind: guest.KVM, VMID: id, User: "root@pam", Set: set}
}

func ct(id int, set map[string]string) CreateRequest {
	return CreateRequest{Kind: guest.LXC, VMID: id, User: "root@pam", Set: set, Template: template, Password: "secret", SSHKeys: []string{"ssh-ed25519 AAAA x"}}
}

func power(op Op, kind guest.Kind, id int) PowerRequest {
	return PowerRequest{Op: op, Kind: kind, VMID: id, User: "root@pam"}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 400 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

func TestLifeOfAMachine(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	ctx := t.Context()
	m.must(c.Create(ctx, vm(100, map[string]string{"name": "web", "memory": "1024", "scsi0": "disks:8,iothread=1", "scsi1": "disks:0,import-from=local:import/d.qcow2",
		"cdrom": "local:iso/x.iso,media=cdrom", "net0": "virtio,bridge=vmbr0", "ide0": "none,media=cdrom"})))
	v, err := c.Get(guest.KVM, 100)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"scsi0": `disks:vm-100-disk-0,iothread=1,size=8G`, "scsi1": `disks:vm-100-disk-1,size=3G`, "ide2": `local:iso/x.iso,media=cdrom,size=1M`,
		"ide0": `none,media=cdrom`, "net0": `virtio=BC:24:11:[0-9A-F:]{8},bridge=vmbr0`, "smbios1": `uuid=[0-9a-f-]{36}`, "vmgenid": `[0-9a-f-]{36}`,
		"meta": `ctime=\d+`, "boot": `order=scsi0;ide0;net0`, "name": "web",
	} {
		if !regexp.MustCompile("^(?:" + want + ")$").MatchString(v.Config[key]) {
			t.Errorf("%s is %q", key, v.Config[key])
		}
	}
	if v.Lock != "" || v.Nonce != "" || m.pools["disks"].Active() != 0 {
		t.Errorf("after creation: lock %q, %d volumes active", v.Lock, m.pools["disks"].Active())
	}

	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	spec := m.vms.Guest(100).Spec
	if spec.Volumes["scsi0"].Path != "/dev/disks/vm-100-disk-0" || !spec.Volumes["ide2"].ReadOnly || spec.Name != "web" || len(spec.Volumes) != 3 {
		t.Errorf("spec %+v", spec)
	}
	if v, _ := c.Get(guest.KVM, 100); v.Status.State != guest.Running || v.Status.PID != 4711 {
		t.Errorf("status %+v", v.Status)
	}
	m.must(c.Power(power(OpSuspend, guest.KVM, 100)))
	if v, _ := c.Get(guest.KVM, 100); v.Status.State != guest.Paused {
		t.Errorf("suspended: %s", v.Status.State)
	}
	m.must(c.Power(power(OpResume, guest.KVM, 100)))
	m.must(c.Power(power(OpReboot, guest.KVM, 100)))
	if len(m.vms.Started()) != 2 {
		t.Errorf("started %d times", len(m.vms.Started()))
	}
	if s := m.wait(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 100})); s != "VM 100 is running - destroy failed" {
		t.Errorf("destroy of a running machine: %s", s)
	}
	m.must(c.Power(power(OpStop, guest.KVM, 100)))
	if v, _ := c.Get(guest.KVM, 100); v.Status.State != guest.Stopped || v.Exit != "" || m.pools["disks"].Active() != 0 {
		t.Errorf("after stop: %+v, %d volumes active", v.Status, m.pools["disks"].Active())
	}
	m.must(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 100}))
	if d := m.disks(); len(d) != 0 || len(c.All()) != 0 {
		t.Errorf("left: %v, %v", d, c.All())
	}
	if _, err := c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 100}); err == nil || err.Error() != "Configuration file 'nodes/n1/qemu-server/100.conf' does not exist" {
		t.Errorf("second destroy: %v", err)
	}
}

func TestLifeOfAContainer(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	r := ct(101, map[string]string{"rootfs": "disks:4", "mp0": "disks:1,mp=/data", "hostname": "box", "net0": "name=eth0,bridge=vmbr0,ip=dhcp"})
	m.must(c.Create(t.Context(), r))
	v, _ := c.Get(guest.LXC, 101)
	if v.Config["rootfs"] != "disks:vm-101-disk-1,size=4G" || v.Config["mp0"] != "disks:vm-101-disk-0,mp=/data,size=1G" ||
		v.Config["unprivileged"] != "1" || v.Config["ostype"] != "debian" || !strings.Contains(v.Config["net0"], "hwaddr=BC:24:11:") {
		t.Errorf("config %v", v.Config)
	}
	if len(m.prov.specs) != 2 || m.prov.specs[0].Template != "" || m.prov.specs[1].Password != "secret" || m.prov.specs[1].Device != "/dev/disks/vm-101-disk-1" ||
		m.prov.specs[1].Template == "" || !m.prov.specs[1].Unprivileged {
		t.Errorf("provisioned %+v", m.prov.specs)
	}
	if _, err := c.Power(power(OpStop, guest.LXC, 101)); err == nil || err.Error() != "CT 101 not running" {
		t.Error(err)
	}
	m.must(c.Power(power(OpStart, guest.LXC, 101)))
	if _, err := c.Power(power(OpStart, guest.LXC, 101)); err == nil || err.Error() != "CT 101 already running" {
		t.Error(err)
	}
	if s := m.wait(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.LXC, VMID: 101})); s != "unable to destroy CT 101 - container is running" {
		t.Error(s)
	}
	m.must(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.LXC, VMID: 101, Force: true}))
	if d := m.disks(); len(d) != 0 {
		t.Errorf("left %v", d)
	}
}

// TestRules walks the whole table: every operation in every state and lock.
func TestRules(t *testing.T) {
	for op, r := range rules {
		for _, running := range []bool{false, true} {
			for _, lock := range []string{"", "create", "backup", "destroyed"} {
				for _, skip := range []bool{false, true} {
					err := check(op, guest.KVM, 100, lock, running, skip)
					locked := lock != "" && !skip && !r.free && !slices.Contains(r.locks, lock)
					wrong := r.need == mustRun && !running || r.need == mustStop && running
					want := ""
					switch {
					case locked:
						want = "VM is locked (" + lock + ")"
					case wrong && op == OpDestroy:
						want = "VM 100 is running - destroy failed"
					case wrong && running:
						want = "VM 100 already running"
					case wrong:
						want = "VM 100 not running"
					}
					if got := fmt.Sprint(err); got != want && !(err == nil && want == "") {
						t.Errorf("%s, running %v, lock %q, skip %v: %v, want %q", op, running, lock, skip, err, want)
					}
				}
			}
		}
	}
	if err := check("dance", guest.KVM, 100, "", false, false); err == nil {
		t.Error("unknown operation passed")
	}
}

func TestCreateIsRefused(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1"})))
	for _, x := range []struct {
		r    CreateRequest
		want string
	}{
		{vm(100, nil), "unable to create VM 100 - VM 100 already exists on node 'n1'"},
		{ct(100, nil), "unable to create CT 100 - VM 100 already exists on node 'n1'"},
		{vm(200, map[string]string{"scsi0": "nope:8"}), "scsi0: storage 'nope' does not exist"},
		{vm(200, map[string]string{"scsi0": "local:8"}), "scsi0: storage 'local' does not support vm images"},
		{vm(200, map[string]string{"scsi0": "disks:0"}), "scsi0: a new volume needs a size: STORAGE:GIBIBYTES"},
		{vm(200, map[string]string{"scsi0": "disks:vm-100-disk-0"}), "scsi0: volume 'disks:vm-100-disk-0' is no disk of VM 200"},
		{vm(200, map[string]string{"scsi0": "local:import/d.qcow2"}), "scsi0: volume 'local:import/d.qcow2' is no disk of VM 200"},
		{vm(200, map[string]string{"scsi0": "local:iso/x.iso"}), "scsi0: volume 'local:iso/x.iso' is an ISO image: it needs media=cdrom"},
		{vm(200, map[string]string{"scsi0": "/dev/sda"}), "scsi0: only volumes of storages can be attached"},
		{vm(200, map[string]string{"scsi0": "disks:0,import-from=disks:vm-100-disk-0"}), "scsi0: volume 'disks:vm-100-disk-0' cannot be imported: it is no disk image"},
		{vm(200, map[string]string{"ide2": "disks:cloudinit"}), "ide2: cloud-init drives are not supported on this node"},
		{vm(200, map[string]string{"memory": "lots"}), "memory: "},
		{vm(200, map[string]string{"template": "1"}), "template: templates are not supported on this node"},
		{ct(200, map[string]string{"rootfs": "disks:vm-100-disk-0"}), "rootfs: a new container needs a new volume: STORAGE:GIBIBYTES"},
		{ct(200, map[string]string{"mp0": "/etc,mp=/x"}), "mp0: only volumes of storages can be attached"},
		{CreateRequest{Kind: guest.LXC, VMID: 200, Template: "local:iso/x.iso"}, "ostemplate: volume 'local:iso/x.iso' is no container template"},
	} {
		_, err := c.Create(t.Context(), x.r)
		if err == nil || !strings.HasPrefix(err.Error(), x.want) {
			t.Errorf("%v: %v, want %q", x.r.Set, err, x.want)
		}
	}
	if d := m.disks(); !slices.Equal(d, []string{"disks:vm-100-disk-0"}) {
		t.Errorf("disks %v", d)
	}
}

// TestCrashInCreate ends the daemon after each step of a creation. The next
// one finds nothing, or the whole guest.
func TestCrashInCreate(t *testing.T) {
	for _, step := range []string{"reserved", "volume vm-101-disk-0", "volume vm-101-disk-1", "provisioned", "stored"} {
		t.Run(step, func(t *testing.T) {
			m := newMachine(t)
			// Disks that are nobody's must survive whatever happens.
			m.pools["disks"].Put(storage.Volume{ID: "disks:vm-101-other", VMID: 101, Content: storage.Images})
			dead := make(chan struct{})
			var stop func()
			m.step = func(s string) {
				if s == step {
					close(dead)
					select {} // the daemon is gone; nothing more happens in it
				}
			}
			c, _, stop := m.daemon()
			go c.Create(context.Background(), ct(101, map[string]string{"rootfs": "disks:4", "mp0": "disks:1,mp=/data"}))
			select {
			case <-dead:
			case <-time.After(5 * time.Second):
				t.Fatal("step is never reached")
			}
			stop()
			m.step = nil
			c, _, _ = m.daemon()
			_, err := c.Get(guest.LXC, 101)
			disks := m.disks()
			if step == "stored" {
				if err != nil || len(disks) != 3 {
					t.Errorf("stored guest: %v, disks %v", err, disks)
				}
				return
			}
			if err == nil || !slices.Equal(disks, []string{"disks:vm-101-other"}) {
				t.Errorf("left: %v, disks %v", err, disks)
			}
			if _, err := m.store.Get(t.Context(), Key(101)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("key: %v", err)
			}
			m.must(c.Create(t.Context(), ct(101, map[string]string{"rootfs": "disks:4"})))
		})
	}
}

func TestFailureInCreate(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.prov.fail = errors.New("template is broken")
	if s := m.wait(c.Create(t.Context(), ct(101, map[string]string{"rootfs": "disks:4"}))); s != "unable to create CT 101 - template is broken" {
		t.Error(s)
	}
	if d := m.disks(); len(d) != 0 || len(c.All()) != 0 {
		t.Errorf("left %v %v", d, c.All())
	}
	// Somebody takes the name between looking and making: it stays theirs.
	taken := false
	m.pools["disks"].Fail = func(op, name string) error {
		if op == "create" && !taken {
			taken = true
			m.pools["disks"].Put(storage.Volume{ID: "disks:" + name, VMID: 100, Content: storage.Images})
		}
		if op == "create" && name == "vm-100-disk-2" {
			return storage.ErrNoSpace
		}
		return nil
	}
	if s := m.wait(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1", "scsi1": "disks:1"}))); !strings.Contains(s, "not enough space") {
		t.Error(s)
	}
	if d := m.disks(); !slices.Equal(d, []string{"disks:vm-100-disk-0"}) {
		t.Errorf("left %v", d)
	}
}

func TestRaces(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	var wg sync.WaitGroup
	var mu sync.Mutex
	good, bad := 0, []string{}
	race := func(f func() (task.UPID, error)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			u, err := f()
			s := fmt.Sprint(err)
			if err == nil {
				s = m.wait(u, nil)
			}
			mu.Lock()
			defer mu.Unlock()
			if s == "OK" {
				good++
			} else {
				bad = append(bad, s)
			}
		}()
	}
	for range 8 {
		race(func() (task.UPID, error) {
			return c.Create(context.Background(), vm(100, map[string]string{"scsi0": "disks:1"}))
		})
	}
	wg.Wait()
	if good != 1 || len(m.disks()) != 1 || slices.ContainsFunc(bad, func(s string) bool { return !strings.Contains(s, "already exists") }) {
		t.Errorf("%d creations went well, disks %v, others %v", good, m.disks(), bad)
	}
	good, bad = 0, nil
	for range 8 {
		race(func() (task.UPID, error) { return c.Power(power(OpStart, guest.KVM, 100)) })
	}
	wg.Wait()
	if good != 1 || len(m.vms.Started()) != 1 || slices.ContainsFunc(bad, func(s string) bool { return s != "VM 100 already running" }) {
		t.Errorf("%d starts went well (%d real), others %v", good, len(m.vms.Started()), bad)
	}
}

func TestDaemonComesAndGoes(t *testing.T) {
	m := newMachine(t)
	c, _, stop := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1", "memory": "512"})))
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	if err := c.Configure(t.Context(), guest.KVM, 100, "root@pam", Change{Set: map[string]string{"memory": "1024", "name": "new"}}); err != nil {
		t.Fatal(err)
	}
	stop()
	c, tasks, _ := m.daemon()
	v, err := c.Get(guest.KVM, 100)
	if err != nil || v.Status.State != guest.Running || len(m.vms.Started()) != 1 {
		t.Fatalf("after restart: %+v %v", v.Status, err)
	}
	if got := v.Current(); got["memory"] != "512" || got["name"] != "new" || v.Config["memory"] != "1024" {
		t.Errorf("in force %v, configured %v", got, v.Config)
	}
	m.vms.Guest(100).End("qemu was killed by signal 9 (killed)")
	eventually(t, "the end is seen", func() bool { v, _ := c.Get(guest.KVM, 100); return v.Status.State == guest.Stopped })
	if v, _ := c.Get(guest.KVM, 100); v.Exit != "qemu was killed by signal 9 (killed)" {
		t.Errorf("exit %q", v.Exit)
	}
	eventually(t, "a task tells", func() bool {
		list, _ := tasks.List(task.Filter{Type: "qmexit"})
		return len(list) == 1 && list[0].Status == "qemu was killed by signal 9 (killed)"
	})
	eventually(t, "volumes are let go", func() bool { return m.pools["disks"].Active() == 0 })
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	if v, _ := c.Get(guest.KVM, 100); v.Exit != "" {
		t.Errorf("exit after a new start: %q", v.Exit)
	}
}

// TestUnseenEnd: a guest that ends while no daemon runs is told of by the next.
func TestUnseenEnd(t *testing.T) {
	m := newMachine(t)
	c, _, stop := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1"})))
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	stop()
	// The first controller's watcher would tidy up; a dead daemon has none.
	m.vms.Lose(100)
	c, _, _ = m.daemon()
	if v, _ := c.Get(guest.KVM, 100); v.Status.State != guest.Stopped || v.Exit != exitUnseen || m.pools["disks"].Active() != 0 {
		t.Errorf("%+v %q, %d active", v.Status, v.Exit, m.pools["disks"].Active())
	}
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
}

func TestFailedStart(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1"})))
	m.vms.Fail = errors.New("start guest 100: no KVM")
	if s := m.wait(c.Power(power(OpStart, guest.KVM, 100))); s != "start guest 100: no KVM" {
		t.Error(s)
	}
	if v, _ := c.Get(guest.KVM, 100); v.Status.State != guest.Stopped || m.pools["disks"].Active() != 0 {
		t.Errorf("after a failed start: %v, %d active", v.Status.State, m.pools["disks"].Active())
	}
}

func TestShutdown(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, nil)))
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	m.vms.Deaf = true
	r := power(OpShutdown, guest.KVM, 100)
	r.Timeout = 20 * time.Millisecond
	if s := m.wait(c.Power(r)); s != "VM quit/powerdown failed - got timeout" {
		t.Error(s)
	}
	r.ForceStop = true
	m.must(c.Power(r))
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	// A stop does not wait for a shutdown that waits.
	long := power(OpShutdown, guest.KVM, 100)
	u, err := c.Power(long)
	if err != nil {
		t.Fatal(err)
	}
	m.must(c.Power(power(OpStop, guest.KVM, 100)))
	if err := m.used.Stop(u.String()); err != nil {
		t.Error(err)
	}
}

func TestConfigure(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1", "scsi1": "disks:1"})))
	conf := func(ch Change) error { return c.Configure(t.Context(), guest.KVM, 100, "root@pam", ch) }
	get := func() map[string]string { v, _ := c.Get(guest.KVM, 100); return v.Config }
	v, _ := c.Get(guest.KVM, 100)
	old := v.Digest()
	if err := conf(Change{Set: map[string]string{"cores": "2", "tags": "B,a"}, Digest: old}); err != nil {
		t.Fatal(err)
	}
	if get()["cores"] != "2" || get()["tags"] != "a;b" {
		t.Errorf("config %v", get())
	}
	if err := conf(Change{Set: map[string]string{"cores": "4"}, Digest: old}); err == nil || err.Error() != "checksum mismatch (file change by other user?)" {
		t.Error(err)
	}
	if err := conf(Change{Delete: []string{"nonsense"}}); err == nil || err.Error() != "delete: unknown option 'nonsense'" {
		t.Error(err)
	}
	for _, step := range []struct {
		ch    Change
		want  map[string]string
		disks int
	}{
		{Change{Delete: []string{"scsi1", "vga"}}, map[string]string{"scsi1": "", "unused0": "disks:vm-100-disk-1"}, 2},
		{Change{Set: map[string]string{"virtio0": "disks:vm-100-disk-1,discard=on"}}, map[string]string{"unused0": "", "virtio0": "disks:vm-100-disk-1,discard=on,size=1G"}, 2},
		{Change{Set: map[string]string{"virtio0": "disks:vm-100-disk-1,ssd=1"}}, map[string]string{"virtio0": "disks:vm-100-disk-1,size=1G,ssd=1"}, 2},
		{Change{Set: map[string]string{"virtio0": "disks:2"}}, map[string]string{"unused0": "disks:vm-100-disk-1", "virtio0": "disks:vm-100-disk-2,size=2G"}, 3},
		{Change{Delete: []string{"unused0"}}, map[string]string{"unused0": ""}, 2},
		{Change{Delete: []string{"virtio0"}, Force: true}, map[string]string{"virtio0": "", "unused0": ""}, 1},
		{Change{Set: map[string]string{"ide2": "local:iso/x.iso,media=cdrom"}}, map[string]string{"ide2": "local:iso/x.iso,media=cdrom,size=1M"}, 1},
		{Change{Set: map[string]string{"ide2": "none,media=cdrom"}}, map[string]string{"ide2": "none,media=cdrom", "unused0": ""}, 1},
	} {
		if err := conf(step.ch); err != nil {
			t.Fatalf("%+v: %v", step.ch, err)
		}
		for k, want := range step.want {
			if get()[k] != want {
				t.Errorf("%+v: %s is %q, want %q", step.ch, k, get()[k], want)
			}
		}
		if d := m.disks(); len(d) != step.disks {
			t.Errorf("%+v: disks %v", step.ch, d)
		}
	}
	if err := conf(Change{Set: map[string]string{"lock": "backup"}}); err != nil {
		t.Fatal(err)
	}
	if err := conf(Change{Set: map[string]string{"cores": "1"}}); err == nil || err.Error() != "VM is locked (backup)" {
		t.Error(err)
	}
	if err := conf(Change{Delete: []string{"lock"}, SkipLock: true}); err != nil {
		t.Error(err)
	}
	// A volume that a running guest has open stays.
	m.must(c.Power(power(OpStart, guest.KVM, 100)))
	if err := conf(Change{Delete: []string{"scsi0"}, Force: true}); err == nil || !strings.Contains(err.Error(), "the running guest uses it") {
		t.Error(err)
	}
}

func TestResize(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1"})))
	for _, x := range []struct{ size, want string }{{"+1G", "size=2G"}, {"5G", "size=5G"}, {"5G", "size=5G"}} {
		m.must(c.Resize(ResizeRequest{User: "root@pam", Kind: guest.KVM, VMID: 100, Disk: "scsi0", Size: x.size}))
		if v, _ := c.Get(guest.KVM, 100); !strings.HasSuffix(v.Config["scsi0"], x.want) {
			t.Errorf("%s: %s", x.size, v.Config["scsi0"])
		}
	}
	for size, want := range map[string]string{"1G": "shrinking disks is not supported", "x": "size: unable to parse size 'x'"} {
		if _, err := c.Resize(ResizeRequest{User: "root@pam", Kind: guest.KVM, VMID: 100, Disk: "scsi0", Size: size}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", size, err)
		}
	}
	if _, err := c.Resize(ResizeRequest{User: "root@pam", Kind: guest.KVM, VMID: 100, Disk: "scsi9", Size: "9G"}); err == nil || err.Error() != "disk 'scsi9' does not exist" {
		t.Error(err)
	}
}

func TestBootAndHalt(t *testing.T) {
	m := newMachine(t)
	c, _, stop := m.daemon()
	for id, set := range map[int]map[string]string{
		100: {"onboot": "1"}, 101: {"onboot": "1", "startup": "order=2"}, 102: {"onboot": "1", "startup": "order=1"}, 103: {},
	} {
		m.must(c.Create(t.Context(), vm(id, set)))
	}
	if err := c.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.vms.Started(), []int{102, 101, 100}) {
		t.Errorf("started %v", m.vms.Started())
	}
	m.must(c.Power(power(OpStop, guest.KVM, 102)))
	stop()
	m.vms.Stopped() // so far
	c, _, stop = m.daemon()
	if err := c.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.vms.Guest(102) != nil {
		t.Error("a second daemon in the same boot started a guest again")
	}
	m.must(c.StopAll(StopAllRequest{User: "root@pam", Final: true, Overall: time.Minute}))
	if got := m.vms.Stopped(); !slices.Equal(got, []int{100, 101}) {
		t.Errorf("stopped %v", got)
	}
	if _, err := c.Power(power(OpStart, guest.KVM, 103)); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Error(err)
	}
	stop()
	c, _, _ = m.daemon()
	if _, err := c.Power(power(OpStart, guest.KVM, 103)); err == nil {
		t.Error("a daemon that came after the halt starts guests")
	}
	m.must(c.StartAll("root@pam", []int{103}))
	if m.vms.Guest(103) == nil {
		t.Error("startall started nothing")
	}
}

func TestStopAllKillsTheDeaf(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	for _, id := range []int{100, 101} {
		m.must(c.Create(t.Context(), vm(id, map[string]string{"startup": "down=0"})))
		m.must(c.Power(power(OpStart, guest.KVM, id)))
	}
	m.vms.Deaf = true
	begun := time.Now()
	m.must(c.StopAll(StopAllRequest{User: "root@pam", Timeout: time.Hour, Overall: killTime + 50*time.Millisecond}))
	if d := time.Since(begun); d > 3*time.Second || len(m.vms.Running()) != 0 {
		t.Errorf("took %s, %d guests left", d, len(m.vms.Running()))
	}
}

func TestDestroyIsFinishedByTheNextDaemon(t *testing.T) {
	m := newMachine(t)
	c, _, stop := m.daemon()
	m.must(c.Create(t.Context(), vm(100, map[string]string{"scsi0": "disks:1", "scsi1": "disks:1"})))
	m.pools["disks"].Put(storage.Volume{ID: "disks:vm-100-disk-9", VMID: 100})
	m.pools["disks"].Fail = func(op, name string) error {
		if op == "delete" && name == "vm-100-disk-1" {
			return errors.New("device is busy")
		}
		return nil
	}
	if s := m.wait(c.Destroy(DestroyRequest{User: "root@pam", Kind: guest.KVM, VMID: 100})); !strings.Contains(s, "device is busy") {
		t.Error(s)
	}
	if _, err := c.Power(power(OpStart, guest.KVM, 100)); err == nil || err.Error() != "VM is locked (destroyed)" {
		t.Error(err)
	}
	stop()
	m.pools["disks"].Fail = nil
	c, _, _ = m.daemon()
	if err := c.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guest is gone", func() bool { return len(c.All()) == 0 })
	if d := m.disks(); !slices.Equal(d, []string{"disks:vm-100-disk-9"}) {
		t.Errorf("disks %v", d)
	}
}

func TestTableFollowsTheStore(t *testing.T) {
	m := newMachine(t)
	c, _, _ := m.daemon()
	r := Record{VMID: 300, Kind: guest.KVM, Node: "n2", Config: map[string]string{"name": "far"}}
	rev, err := m.store.Txn(t.Context(), nil, store.Op{Key: Key(300), Value: r.encode()})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is listed", func() bool { return len(c.All()) == 1 })
	if _, err := c.Get(guest.KVM, 300); err == nil {
		t.Error("a guest of another node is shown as ours")
	}
	if _, err := m.store.Txn(t.Context(), []store.Cond{{Key: Key(300), Rev: rev}}, store.Op{Key: Key(300)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool { return len(c.All()) == 0 })
}

func TestPending(t *testing.T) {
	v := View{Record: Record{Kind: guest.KVM, Config: map[string]string{"memory": "2", "name": "b", "cores": "1", "net0": "x"}},
		Running: map[string]string{"memory": "1", "name": "a", "cores": "1", "vga": "std"}}
	want := []Pending{
		{Key: "cores", Value: "1", HasValue: true},
		{Key: "memory", Value: "1", Next: "2", HasValue: true, Changed: true},
		{Key: "name", Value: "b", HasValue: true},
		{Key: "net0", Next: "x", Changed: true},
		{Key: "vga", Value: "std", HasValue: true, Deleted: true},
	}
	if d := cmp.Diff(want, v.Pending()); d != "" {
		t.Error(d)
	}
}

func BenchmarkGetAmongTenThousand(b *testing.B) {
	c := New(Options{Node: "n1"})
	for id := 100; id < 10100; id++ {
		c.table.put(Record{VMID: id, Kind: guest.KVM, Node: "n1", Config: map[string]string{"memory": "512"}}, 1)
	}
	for b.Loop() {
		if _, err := c.Get(guest.KVM, 5000); err != nil {
			b.Fatal(err)
		}
	}
}
