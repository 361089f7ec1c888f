package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/node"
)

// TestShortSpine walks the whole way on one node, in order, after an unattended
// installation (or an overlay of it, see base). Every step makes
// what it needs if an earlier one has not, so that a single one can be run:
// -run 'TestShortSpine/container'.
func TestShortSpine(t *testing.T) {
	s := &spine{n: startNode(t, nil)}
	s.n.serveWeb(t)
	s.n.serveMirror(t)
	s.n.setMirror(t, "http://"+mirrorName+"/debian")
	s.fresh = s.n.inventory(t)
	for _, step := range []struct {
		name string
		do   func(*spine, *testing.T)
		key  bool // the rest stands on it
	}{
		{"api", (*spine).api, true},
		{"upload", (*spine).uploads, true},
		{"cut upload", (*spine).cutUpload, false},
		{"machine", (*spine).machineRuns, true},
		{"machine on the network", (*spine).machineGetsLease, false},
		{"container", (*spine).containerRuns, true},
		{"container on the network", (*spine).containerFetches, false},
		{"packages", (*spine).containerInstalls, false},
		{"go-proxmox", (*spine).goProxmox, false},
		{"kill daemon", (*spine).killDaemon, false},
		{"kill qemu", (*spine).killQEMU, false},
		{"kill monitor", (*spine).killMonitor, false},
		{"shutdown at start", (*spine).shutdownAtStart, false},
		{"reboot", (*spine).reboot, true},
		{"reset", (*spine).reset, true},
		{"delete", (*spine).deleteAll, false},
	} {
		start := time.Now()
		ok := t.Run(step.name, func(t *testing.T) {
			s.n.explain(t)
			step.do(s, t)
		})
		if took := time.Since(start); took > time.Second {
			t.Logf("%s: %s", step.name, took.Round(time.Second))
		}
		if !ok && (step.key || s.n.answers(t.Context()) != nil) {
			t.Fatalf("%s failed, and the rest stands on it", step.name)
		}
	}
}

// spine is the node with what the steps have made on it.
type spine struct {
	n     *runningNode
	fresh inventory

	files   map[string]string // name → volume id of what was uploaded
	diskSum string            // of the imported image, as a guest sees it
	vm, ct  *guestOf          // made by machine and container
	kept    string            // sha256sum's line of a file in the container
}

const (
	vmID        = 100
	ctID        = 101
	rootInside  = "inside of it"
	keptFile    = "/root/kept"
	vmHardware  = "virtio,bridge=vmbr0" // QEMU's virtio-net; the server makes the address
	ctNetwork   = "name=eth0,bridge=vmbr0,ip=dhcp"
	guestMemory = "256"
)

// api: the version and the node for those who log in, 401 for others.
func (s *spine) api(t *testing.T) {
	v, err := node.Version(t.Context(), s.n.API)
	if err != nil || v == "" {
		t.Fatalf("version %q, %v", v, err)
	}
	var nodes []struct {
		Node   string `json:"node"`
		Status string `json:"status"`
	}
	err = s.n.API.Get(within(t, time.Minute), "/nodes", nil, &nodes)
	if err != nil || len(nodes) != 1 || nodes[0].Node != s.n.Name || nodes[0].Status != "online" {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
	stranger, err := node.Client(s.n.LAN, s.n.IP)
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Get(within(t, time.Minute), "/nodes", nil, nil); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a ticket: %v", err)
	}
	if err := stranger.Login(within(t, time.Minute), "root@pam", "wrong"); err == nil {
		t.Error("a wrong password logs in")
	}
	var next string
	if err := s.n.API.Get(within(t, time.Minute), "/cluster/nextid", nil, &next); err != nil || next != "100" {
		t.Errorf("next id %q, %v", next, err)
	}
}

// file uploads one of the files that the steps use, once.
func (s *spine) file(t *testing.T, content, name string, path func() string) string {
	t.Helper()
	if id := s.files[name]; id != "" {
		return id
	}
	if s.files == nil {
		s.files = map[string]string{}
	}
	s.files[name] = s.n.upload(t, content, name, path())
	return s.files[name]
}

func (s *spine) memtest(t *testing.T) string {
	return s.file(t, "iso", "memtest.iso", func() string { return foreign(t, "memtest86+", memtestISO) })
}

func (s *spine) ipxe(t *testing.T) string {
	return s.file(t, "iso", "ipxe.iso", func() string { return foreign(t, "ipxe", ipxeISO) })
}

func (s *spine) template(t *testing.T) string {
	return s.file(t, "vztmpl", "debian-13-standard_test_amd64.tar.zst", func() string { return template(t) })
}

func (s *spine) disk(t *testing.T) string {
	return s.file(t, "import", "disk.qcow2", func() string {
		path, sum := diskImage(t)
		s.diskSum = sum
		return path
	})
}

// uploads: images that none of us made, a template and a disk, each checked by
// its sum on the node; a wrong sum is refused and leaves nothing.
func (s *spine) uploads(t *testing.T) {
	s.memtest(t)
	s.ipxe(t)
	s.template(t)
	s.disk(t)
	before := s.n.content(t, "local")
	err := s.n.API.Upload(within(t, uploadTime), s.n.Name, "local", client.File{
		Content: "iso", Name: "wrong.iso", Size: 1 << 20, Data: zeros{}, SHA256: strings.Repeat("0", 64)}, nil)
	refused(t, err, "checksum")
	if after := s.n.content(t, "local"); !slices.Equal(before, after) {
		t.Errorf("before the refused upload %v, after it %v", before, after)
	}
	if left := s.n.spooled(t); len(left) > 0 {
		t.Errorf("a refused upload left %v", left)
	}
}

// cutUpload: the connection ends in the middle; nothing stays.
func (s *spine) cutUpload(t *testing.T) {
	ctx, cut := context.WithCancel(within(t, uploadTime))
	const size = 32 << 20
	err := s.n.uploadZeros(ctx, "cut.iso", size, func(sent int64) {
		if sent > size/2 {
			cut()
		}
	})
	if err == nil {
		t.Fatal("the upload was not cut")
	}
	s.wantNoUpload(t, "cut.iso")
}

// wantNoUpload waits half a minute for the node to notice.
func (s *spine) wantNoUpload(t *testing.T, name string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Second) {
		left := s.n.spooled(t)
		listed := slices.ContainsFunc(s.n.content(t, "local"), func(v volume) bool { return strings.HasSuffix(v.ID, "/"+name) })
		if len(left) == 0 && !listed {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("of an upload that was cut there is left: %v, listed: %v", left, listed)
		}
	}
}

// machine makes the virtual machine, if it is not there, and starts it.
func (s *spine) machine(t *testing.T) guestOf {
	t.Helper()
	if s.vm == nil {
		g := guestOf{n: s.n, kind: "qemu", id: vmID}.create(t, client.Params{
			"name": "probe", "memory": guestMemory, "cores": "1", "scsihw": "virtio-scsi-single",
			"scsi0": "local-lvm:0,import-from=" + s.disk(t), "ide2": s.memtest(t) + ",media=cdrom",
			"net0": vmHardware, "boot": "order=ide2", "startup": "order=1,down=5",
		})
		s.vm = &g
	}
	if s.vm.status(t).Status != "running" {
		s.vm.start(t)
	}
	return *s.vm
}

// machineRuns: an ISO of others boots under KVM inside of the node and shows
// itself, and the disk holds what was imported.
func (s *spine) machineRuns(t *testing.T) {
	g := s.machine(t)
	st := g.wantStatus(t, "running")
	if st.Accel != "kvm" || st.QMP != "running" {
		t.Errorf("status: %+v, want it to run under kvm", st)
	}
	if p := s.n.process(t, qemuCommand); p.pid != st.PID || !strings.Contains(p.command, "kvm") {
		t.Errorf("status says pid %d; QEMU is %+v", st.PID, p)
	}
	if uid := strings.TrimSpace(s.n.run(t, fmt.Sprintf("while read k real _; do [ $k = Uid: ] && echo $real; done </proc/%d/status; true", st.PID))); len(uid) != 6 || uid[:2] != "20" {
		t.Errorf("QEMU runs as uid %s, want one of 200000…209999", uid)
	}
	// memtest86+ waits for a key at first, as long as its own clock says, and
	// counts its time on the screen then.
	first := g.wantScreen(t, 4, "memtest")
	for end := time.Now().Add(consoleTime); changed(first, g.wantScreen(t, 4, "memtest-later")) == 0; time.Sleep(3 * time.Second) {
		if time.Now().After(end) {
			t.Errorf("the screen stands still for %s", consoleTime)
			break
		}
	}
	if sum := s.diskHash(t); sum != s.diskSum {
		t.Errorf("the imported disk has sum %s, want %s", sum, s.diskSum)
	}
}

const qemuCommand = `^\S*qemu-system-x86_64 `

// diskHash is the sum of the machine's disk, whether it runs or not.
func (s *spine) diskHash(t *testing.T) string {
	t.Helper()
	_, rest, _ := strings.Cut(s.vm.text(t, "scsi0"), ":")
	name, _, _ := strings.Cut(rest, ",")
	out := s.n.run(t, fmt.Sprintf(`set -e
was=$(lvs --noheadings -o lv_active joist/%[1]s | tr -d ' ')
[ "$was" = active ] || lvchange -ay -K joist/%[1]s >&2
sha256sum <"$(lvs --noheadings -o lv_dm_path joist/%[1]s | tr -d ' ')"
[ "$was" = active ] || lvchange -an joist/%[1]s >&2`, name))
	return strings.Fields(out)[0]
}

// machineGetsLease: iPXE from its own CD asks for an address through vmbr0.
func (s *spine) machineGetsLease(t *testing.T) {
	g := s.machine(t)
	g.stop(t)
	g.set(t, client.Params{"ide2": s.ipxe(t) + ",media=cdrom"})
	text := option(g.text(t, "net0"), "virtio")
	if !strings.HasPrefix(text, "BC:24:11:") {
		t.Fatalf("net0 is %q, want a made address", g.text(t, "net0"))
	}
	mac := parseMAC(t, text)
	if ip, ok := s.n.LAN.Lease(mac); ok {
		t.Fatalf("%s has the lease %s before iPXE runs", mac, ip)
	}
	g.start(t)
	ip, err := s.n.LAN.WaitLease(within(t, consoleTime), mac)
	if err != nil {
		g.wantScreen(t, 1, "ipxe-without-lease")
		t.Fatal(err)
	}
	g.wantScreen(t, 2, "ipxe")
	t.Logf("%s has %s", mac, ip)
}

// container makes the container, if it is not there, and starts it.
func (s *spine) container(t *testing.T) guestOf {
	t.Helper()
	if s.ct == nil {
		g := guestOf{n: s.n, kind: "lxc", id: ctID}.create(t, client.Params{
			"hostname": "inside", "ostemplate": s.template(t), "rootfs": "local-lvm:4", "memory": guestMemory, "password": rootInside,
			"net0": ctNetwork, "onboot": "1", "startup": "order=2",
		})
		s.ct = &g
	}
	if s.ct.status(t).Status != "running" {
		s.ct.start(t)
	}
	return *s.ct
}

// containerRuns: an unprivileged Debian that is typed into, whole as dpkg sees
// it.
func (s *spine) containerRuns(t *testing.T) {
	g := s.container(t)
	g.wantStatus(t, "running")
	c := g.typeInto(t, rootInside)
	if got := strings.TrimSpace(c.run(t, time.Minute, "hostname")); got != "inside" {
		t.Errorf("its name is %q", got)
	}
	if uidMap := strings.Fields(c.run(t, time.Minute, "cat /proc/self/uid_map")); len(uidMap) < 2 || uidMap[0] != "0" || uidMap[1] == "0" {
		t.Errorf("uid map %v: root inside is root outside", uidMap)
	}
	var ran struct {
		ExitCode int    `json:"exitcode"`
		Out      string `json:"out-data"`
	}
	if err := s.n.API.Post(within(t, time.Minute), g.path()+"/exec", client.Params{"command": "hostname"}, &ran); err != nil || ran.ExitCode != 0 || strings.TrimSpace(ran.Out) != "inside" {
		t.Errorf("a program run in it: %+v %v", ran, err)
	}
	if bad := strings.TrimSpace(c.run(t, 3*time.Minute, "dpkg --audit")); bad != "" {
		t.Errorf("dpkg --audit says:\n%s", bad)
	}
	c.run(t, time.Minute, "head -c 1000000 /dev/urandom >"+keptFile+" && sync "+keptFile)
	s.kept = strings.TrimSpace(c.run(t, time.Minute, "sha256sum "+keptFile))
}

// containerFetches: it resolves names by the segment's DNS and speaks HTTP
// with a server of ours; bash does it, the template needs no curl.
func (s *spine) containerFetches(t *testing.T) {
	c := s.container(t).typeInto(t, rootInside)
	got := c.run(t, 3*time.Minute, `until getent hosts `+webName+`; do sleep 1; done`)
	if !strings.Contains(got, webAddress.String()) {
		t.Errorf("%s is %q inside, want %s", webName, got, webAddress)
	}
	got = c.run(t, time.Minute, `(exec 3<>/dev/tcp/`+webName+`/80 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3)`)
	if !strings.Contains(got, webText) {
		t.Errorf("fetched %q", got)
	}
}

// containerInstalls: a package installs from the mirror that the node was told.
func (s *spine) containerInstalls(t *testing.T) {
	c := s.container(t).typeInto(t, rootInside)
	sources := c.run(t, time.Minute, "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true")
	if !strings.Contains(sources, mirrorName) {
		t.Fatalf("the container's apt sources do not name the node's mirror:\n%s", sources)
	}
	c.run(t, packageTime, "apt-get -q update")
	c.run(t, packageTime, "DEBIAN_FRONTEND=noninteractive apt-get -q install -y hello </dev/null")
	if got := c.run(t, time.Minute, "hello"); !strings.Contains(got, "Hello, world!") {
		t.Errorf("hello says %q", got)
	}
	if bad := strings.TrimSpace(c.run(t, 3*time.Minute, "dpkg --audit")); bad != "" {
		t.Errorf("dpkg --audit says:\n%s", bad)
	}
}

// state is what must survive restarts.
type state struct {
	vm, ct  map[string]any
	disk    string
	content []volume
}

func (s *spine) state(t *testing.T) state {
	t.Helper()
	return state{s.vm.config(t), s.ct.config(t), s.diskHash(t), s.n.content(t, "local")}
}

func (s *spine) wantState(t *testing.T, want state) {
	t.Helper()
	got := s.state(t)
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"configuration of the machine", got.vm, want.vm}, {"configuration of the container", got.ct, want.ct},
		{"sum of the disk", got.disk, want.disk}, {"content of local", got.content, want.content},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s:\n%v\nbefore:\n%v", c.what, c.got, c.want)
		}
	}
}

// wantOnboot: the guest with onboot is up, the other is not, and the file in
// the container is the same.
func (s *spine) wantOnboot(t *testing.T) {
	t.Helper()
	s.ct.awaitStatus(t, "running", time.Now(), taskTime)
	s.vm.wantStatus(t, "stopped")
	c := s.ct.typeInto(t, rootInside)
	if got := strings.TrimSpace(c.run(t, time.Minute, "sha256sum "+keptFile)); s.kept != "" && got != s.kept {
		t.Errorf("in the container: %q, before: %q", got, s.kept)
	}
}

// both are the two guests, running.
func (s *spine) both(t *testing.T) (machine, container guestOf) {
	t.Helper()
	return s.machine(t), s.container(t)
}

// shutdownAtStart: a container whose init has only just begun shuts down when
// it is asked; it need not be stopped.
func (s *spine) shutdownAtStart(t *testing.T) {
	g := s.container(t)
	g.stop(t)
	g.start(t)
	begun := time.Now()
	s.n.task(t, taskTime, http.MethodPost, g.path()+"/status/shutdown", client.Params{"timeout": "90"})
	t.Logf("shut down after %s", time.Since(begun).Round(time.Second))
	g.wantStatus(t, "stopped")
	g.start(t)
}

// reboot: through the API; guests are shut down, those first that started
// last, and the container ends by itself.
func (s *spine) reboot(t *testing.T) {
	s.both(t)
	want, boot := s.state(t), s.n.bootID(t)
	s.n.Serial(0).Skip()
	said := len(s.n.Serial(0).Text())
	if err := s.n.API.Post(within(t, time.Minute), "/nodes/"+s.n.Name+"/status", client.Params{"command": "reboot"}, nil); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{fmt.Sprintf("shut down CT %d", ctID), fmt.Sprintf("shut down VM %d", vmID), "Joist is down"} {
		if _, err := s.n.WaitFor(within(t, node.BootTime), line); err != nil {
			t.Fatal(err)
		}
	}
	if bad := fmt.Sprintf("CT %d did not shut down", ctID); strings.Contains(s.n.Serial(0).Text()[said:], bad) {
		t.Errorf("the console says %q", bad)
	}
	s.n.awaitBoot(t, boot)
	s.wantOnboot(t)
	s.wantState(t, want)
}

// reset: the reset button, while an upload is on its way.
func (s *spine) reset(t *testing.T) {
	s.both(t)
	want, boot := s.state(t), s.n.bootID(t)
	const size = 64 << 20
	half, ended := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(within(t, uploadTime))
	defer cancel()
	go func() {
		told := false
		ended <- s.n.uploadZeros(ctx, "half.iso", size, func(sent int64) {
			if sent > size/2 && !told {
				told = true
				close(half)
				<-ctx.Done() // the rest never comes
			}
		})
	}()
	select {
	case <-half:
	case err := <-ended:
		t.Fatalf("the upload ended early: %v", err)
	}
	if left := s.n.spooled(t); len(left) != 1 {
		t.Errorf("in the middle of an upload there is %v, want one unfinished file", left)
	}
	if err := s.n.Reset(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-ended
	s.n.awaitBoot(t, boot)
	s.wantNoUpload(t, "half.iso")
	s.wantOnboot(t)
	s.wantState(t, want)
}

// deleteAll: afterwards the node is as it was when it was fresh.
func (s *spine) deleteAll(t *testing.T) {
	machine, container := s.both(t)
	for _, g := range []guestOf{machine, container} {
		if err := s.n.API.Task(within(t, taskTime), http.MethodDelete, g.path(), nil); err == nil {
			t.Fatalf("%s was destroyed while it ran", g.path())
		}
		g.stop(t)
		g.destroy(t)
	}
	s.vm, s.ct = nil, nil
	for _, v := range s.n.content(t, "local") {
		s.n.task(t, taskTime, http.MethodDelete, "/nodes/"+s.n.Name+"/storage/local/content/"+v.ID, nil)
	}
	s.files = nil
	got := s.n.inventory(t)
	for _, k := range slices.Sorted(maps.Keys(got)) { // the same names as in s.fresh
		if !slices.Equal(got[k], s.fresh[k]) {
			t.Errorf("%s: %q, on the fresh node %q", k, got[k], s.fresh[k])
		}
	}
}

// inventory is everything on a node that guests and files leave traces in.
type inventory map[string][]string

func (n *runningNode) inventory(t testing.TB) inventory {
	t.Helper()
	inv := inventory{
		"volumes":        n.lines(t, "lvs --noheadings -o lv_name joist | tr -d ' ' | sort"),
		"files of local": n.lines(t, everyFile("/var/lib/vz")),
		"files in /run":  n.lines(t, everyFile("/run/joist/guests")+everyFile("/run/joist/guest-configs")),
		"cgroups":        n.lines(t, "shopt -s globstar nullglob; for d in /sys/fs/cgroup/guests/**/ /sys/fs/cgroup/system/lxc-*/ /sys/fs/cgroup/tasks/**/; do echo $d; done"),
		"links":          n.lines(t, "ls /sys/class/net"),
		"mounts":         n.lines(t, "while read _ _ _ _ m _; do echo $m; done </proc/self/mountinfo | sort"),
		"qemu":           asText(n.guests(t, "qemu")),
		"lxc":            asText(n.guests(t, "lxc")),
		"keys":           n.keys(t),
		"processes":      nil,
		"content":        nil,
	}
	for _, p := range n.processes(t, qemuCommand+"|"+monitorCommand) {
		inv["processes"] = append(inv["processes"], p.command)
	}
	for _, v := range append(n.content(t, "local"), n.content(t, "local-lvm")...) {
		inv["content"] = append(inv["content"], v.ID)
	}
	return inv
}

// keys are those of the shared state.
func (n *runningNode) keys(t testing.TB) (out []string) {
	t.Helper()
	var rows []struct{ Key string }
	if err := n.API.Get(within(t, time.Minute), "/cluster/config/keys", nil, &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		out = append(out, r.Key)
	}
	if len(out) == 0 {
		t.Error("the store has no keys at all")
	}
	return out
}

// everyFile lists what is no folder below dir.
func everyFile(dir string) string {
	return fmt.Sprintf("(shopt -s globstar nullglob dotglob; for f in %s/**; do [ -d \"$f\" ] || echo \"$f\"; done)\n", dir)
}

func asText(ids []int) []string {
	var out []string
	for _, id := range ids {
		out = append(out, fmt.Sprint(id))
	}
	return out
}

const monitorCommand = `\[lxc monitor\]|joist-lxc`
