package guestapi

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/luthermonson/go-proxmox"

	"joist/api/client"
	"joist/hypervisor/guest"
)

func ours(t *testing.T, n *node) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{URL: n.url, Insecure: true})
	if err == nil {
		err = c.Login(t.Context(), "root@pam", password)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// finished calls a method that answers a task and waits for its end.
func finished(t *testing.T, c *client.Client, verb, path string, p client.Params) error {
	t.Helper()
	var upid string
	var err error
	switch verb {
	case "POST":
		err = c.Post(t.Context(), path, p, &upid)
	case "PUT":
		err = c.Put(t.Context(), path, p, &upid)
	default:
		err = c.Delete(t.Context(), path, p, &upid)
	}
	if err != nil {
		return err
	}
	for range 500 {
		var st struct{ Status, ExitStatus string }
		if err := c.Get(t.Context(), "/nodes/n1/tasks/"+upid+"/status", nil, &st); err != nil {
			return err
		}
		if st.Status == "stopped" {
			if st.ExitStatus != "OK" {
				return errors.New(st.ExitStatus)
			}
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("task does not end")
}

// TestForeignClient lets a client library that exists do a machine's and a
// container's life.
func TestForeignClient(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	c := proxmox.NewClient(n.url+"/api2/json", proxmox.WithInsecureSkipVerify(),
		proxmox.WithCredentials(&proxmox.Credentials{Username: "root@pam", Password: password}))
	nd, err := c.Node(ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	done := func(task *proxmox.Task, err error) {
		t.Helper()
		if err == nil {
			err = task.Wait(ctx, 10*time.Millisecond, 5*time.Second)
		}
		if err == nil && task.IsFailed {
			err = errors.New(task.ExitStatus)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	done(nd.NewVirtualMachine(ctx, 100, proxmox.VirtualMachineOption{Name: "name", Value: "web"}, proxmox.VirtualMachineOption{Name: "scsi0", Value: "disks:2"},
		proxmox.VirtualMachineOption{Name: "memory", Value: 1024}, proxmox.VirtualMachineOption{Name: "onboot", Value: true},
		proxmox.VirtualMachineOption{Name: "net0", Value: "virtio,bridge=vmbr0"}))
	vm, err := nd.VirtualMachine(ctx, 100)
	if err != nil {
		t.Fatal(err)
	}
	if vm.Name != "web" || vm.Status != "stopped" || vm.VirtualMachineConfig.SCSIs["scsi0"] != "disks:vm-100-disk-0,size=2G" || int(vm.VirtualMachineConfig.Memory) != 1024 || bool(vm.Template) {
		t.Errorf("machine %+v %+v", vm, vm.VirtualMachineConfig)
	}
	done(vm.Start(ctx))
	if err := vm.Ping(ctx); err != nil || vm.Status != "running" || vm.CPUs != 1 {
		t.Errorf("started: %+v %v", vm, err)
	}
	done(vm.Config(ctx, proxmox.VirtualMachineOption{Name: "cores", Value: 2}))
	done(vm.ResizeDisk(ctx, "scsi0", "+1G"))
	if err := vm.SendKey(ctx, "ctrl-alt-delete"); err != nil || <-n.guest.Guest(100).Keys != "ctrl-alt-delete" {
		t.Error(err)
	}
	if p, err := vm.Pending(ctx); err != nil || len(*p) == 0 {
		t.Errorf("pending %v %v", p, err)
	}
	if vms, err := nd.VirtualMachines(ctx); err != nil || len(vms) != 1 || vms[0].Name != "web" {
		t.Errorf("machines %v %v", vms, err)
	}
	cl, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if rs, err := cl.Resources(ctx, "vm"); err != nil || len(rs) != 1 || rs[0].ID != "qemu/100" || rs[0].Status != "running" {
		t.Errorf("resources %v %v", rs, err)
	}
	if id, err := cl.NextID(ctx); err != nil || id != 101 {
		t.Errorf("next id %d %v", id, err)
	}
	done(vm.Stop(ctx))
	done(vm.Delete(ctx, nil))
	if _, err := nd.VirtualMachine(ctx, 100); err == nil || !strings.Contains(err.Error(), "Configuration file 'nodes/n1/qemu-server/100.conf' does not exist") {
		t.Errorf("deleted: %v", err)
	}

	done(nd.NewContainer(ctx, 101, proxmox.ContainerOption{Name: "ostemplate", Value: "disks:vztmpl/debian.tar.zst"}, proxmox.ContainerOption{Name: "rootfs", Value: "disks:1"},
		proxmox.ContainerOption{Name: "password", Value: "s3cret"}, proxmox.ContainerOption{Name: "hostname", Value: "box"}, proxmox.ContainerOption{Name: "memory", Value: 256}))
	ct, err := nd.Container(ctx, 101)
	if err != nil || ct.ContainerConfig.Hostname != "box" || *ct.ContainerConfig.Memory != 256 || !bool(ct.ContainerConfig.Unprivileged) {
		t.Fatalf("container %+v %v", ct, err)
	}
	done(ct.Start(ctx))
	if cts, err := nd.Containers(ctx); err != nil || len(cts) != 1 || cts[0].Status != "running" {
		t.Errorf("containers %v %v", cts, err)
	}
	done(ct.Stop(ctx))
	done(ct.Delete(ctx, nil))
	if v := n.ctl.All(); len(v) != 0 {
		t.Errorf("left %v", v)
	}
}

// TestShapes compares whole answers: clients fail on a wrong JSON type.
func TestShapes(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	if err := finished(t, c, "POST", "/nodes/n1/qemu", client.Params{"vmid": "100", "memory": "1024", "cores": "2", "cpulimit": "0.5", "onboot": "1",
		"ide2": "disks:iso/x.iso,media=cdrom", "vmgenid": "0", "smbios1": "uuid=11111111-2222-3333-4444-555555555555", "agent": "1", "tags": "B,a", "start": "1"}); err != nil {
		t.Fatal(err)
	}
	get := func(path string) any {
		t.Helper()
		var v any
		if err := c.Get(t.Context(), path, nil, &v); err != nil {
			t.Fatal(path, err)
		}
		return v
	}
	for range 200 {
		if get("/nodes/n1/qemu/100/status/current").(map[string]any)["pid"] != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	conf := get("/nodes/n1/qemu/100/config").(map[string]any)
	digest := conf["digest"]
	delete(conf, "meta")
	want := map[string]any{"memory": "1024", "cores": 2.0, "cpulimit": "0.5", "onboot": 1.0, "ide2": "disks:iso/x.iso,media=cdrom,size=1M",
		"smbios1": "uuid=11111111-2222-3333-4444-555555555555", "agent": "1", "tags": "a;b", "boot": "order=ide2", "digest": digest}
	if d := cmp.Diff(want, conf); d != "" || len(digest.(string)) != 40 {
		t.Error(d)
	}
	cur := get("/nodes/n1/qemu/100/status/current")
	if d := cmp.Diff(map[string]any{"vmid": 100.0, "name": "VM 100", "status": "running", "qmpstatus": "running", "pid": 4711.0, "cpu": 0.25, "cpus": 2.0,
		"mem": 1048576.0, "maxmem": 1073741824.0, "disk": 0.0, "maxdisk": 0.0, "uptime": 60.0, "netin": 0.0, "netout": 0.0, "diskread": 0.0,
		"diskwrite": 0.0, "tags": "a;b", "agent": 1.0, "accel": "tcg", "ha": map[string]any{"managed": 0.0}}, cur); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]any{}, get("/nodes/n1/qemu/100/firewall/options")); d != "" {
		t.Error(d)
	}
	for _, path := range []string{"/nodes/n1/qemu/100", "/nodes/n1/qemu/100/status", "/nodes/n1/lxc"} {
		if _, ok := get(path).([]any); !ok {
			t.Errorf("%s is no list", path)
		}
	}
	if got := get("/nodes/n1/lxc"); len(got.([]any)) != 0 {
		t.Errorf("containers %v", got)
	}
}

func TestErrors(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	if err := finished(t, c, "POST", "/nodes/n1/qemu", client.Params{"vmid": "100", "scsi0": "disks:1"}); err != nil {
		t.Fatal(err)
	}
	const one = "/nodes/n1/qemu/100"
	for _, x := range []struct {
		verb, path string
		p          client.Params
		want       string
	}{
		{"POST", "/nodes/n1/qemu", client.Params{"vmid": "100"}, "unable to create VM 100 - VM 100 already exists on node 'n1'"},
		{"POST", "/nodes/n1/qemu", client.Params{"vmid": "200", "colour": "red"}, "property is not defined in schema and the schema does not allow additional properties"},
		{"POST", "/nodes/n1/qemu", client.Params{"vmid": "200", "ostype": "dos"}, "value 'dos' does not have a value in the enumeration"},
		{"POST", "/nodes/n1/qemu", client.Params{"vmid": "200", "pool": "x"}, "pool 'x' does not exist"},
		{"POST", "/nodes/n1/qemu", client.Params{"vmid": "200", "unused0": "disks:vm-100-disk-0"}, "property is not defined"},
		{"POST", "/nodes/n1/lxc", client.Params{"vmid": "200"}, "property is missing and it is not optional"},
		{"POST", one + "/status/stop", nil, "VM 100 not running"},
		{"POST", one + "/status/reset", nil, "VM 100 not running"},
		{"POST", one + "/vncproxy", nil, "VM 100 not running"},
		{"PUT", one + "/sendkey", client.Params{"key": "a"}, "VM 100 not running"},
		{"POST", one + "/agent/ping", nil, "No QEMU guest agent configured"},
		{"PUT", one + "/config", client.Params{"digest": strings.Repeat("0", 40), "cores": "2"}, "checksum mismatch (file change by other user?)"},
		{"PUT", one + "/config", client.Params{"delete": "nonsense"}, "unknown option 'nonsense'"},
		{"PUT", one + "/resize", client.Params{"disk": "scsi0", "size": "1M"}, "shrinking disks is not supported"},
		{"POST", "/nodes/n1/qemu/999/status/start", nil, "Configuration file 'nodes/n1/qemu-server/999.conf' does not exist"},
		{"POST", "/nodes/n1/lxc/100/status/start", nil, "Configuration file 'nodes/n1/lxc/100.conf' does not exist"},
		{"DELETE", "/nodes/n1/qemu/999", nil, "Configuration file 'nodes/n1/qemu-server/999.conf' does not exist"},
	} {
		err := finished(t, c, x.verb, x.path, x.p)
		text := fmt.Sprint(err)
		var e *client.Error
		if errors.As(err, &e) {
			text = fmt.Sprintf("%+v", *e)
		}
		if err == nil || !strings.Contains(text, x.want) {
			t.Errorf("%s %s %v: %v, want %q", x.verb, x.path, x.p, text, x.want)
		}
	}
	if err := c.Put(t.Context(), one+"/config", client.Params{"agent": "1"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Post(t.Context(), one+"/agent/ping", nil, nil); err == nil || !strings.Contains(err.Error(), "VM 100 is not running") {
		t.Error(err)
	}
	if err := finished(t, c, "POST", one+"/status/start", nil); err != nil {
		t.Fatal(err)
	}
	if err := finished(t, c, "DELETE", one, nil); err == nil || err.Error() != "VM 100 is running - destroy failed" {
		t.Error(err)
	}
}

func TestConsoles(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	if err := finished(t, c, "POST", "/nodes/n1/qemu", client.Params{"vmid": "100", "serial0": "socket"}); err != nil {
		t.Fatal(err)
	}
	const one = "/nodes/n1/qemu/100"
	if err := finished(t, c, "POST", one+"/status/start", nil); err != nil {
		t.Fatal(err)
	}
	term, err := c.Term(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	if err := term.Resize(120, 40); err != nil || <-n.guest.Guest(100).Sizes != [2]uint16{120, 40} {
		t.Error(err)
	}
	if _, err := term.Write([]byte("hello: 1:2\n")); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 11)
	if _, err := io.ReadFull(term, buf); err != nil || string(buf) != "hello: 1:2\n" {
		t.Errorf("%q %v", buf, err)
	}
	term.Close()
	for range 200 {
		var rows []map[string]any
		if err := c.Get(t.Context(), "/nodes/n1/tasks", client.Params{"typefilter": "vncproxy"}, &rows); err != nil {
			t.Fatal(err)
		}
		if len(rows) == 1 && rows[0]["status"] == "OK" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	conn, ticket, err := c.VNC(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := authenticate(conn, ticket); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "framebuffer")
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "framebuffer" {
		t.Errorf("%q %v", buf, err)
	}
	conn.Close()
	if conn, _, err = c.VNC(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if err := authenticate(conn, "PVEVNC:0"); err == nil {
		t.Error("a wrong password opens the screen")
	}
	conn.Close()
	var px struct {
		Ticket, Password string
		Port             int
	}
	if err := c.Post(t.Context(), one+"/vncproxy", client.Params{"generate-password": "1"}, &px); err != nil || px.Port < 5900 || len(px.Password) != 8 {
		t.Errorf("%+v %v", px, err)
	}
	err = c.Get(t.Context(), one+"/vncwebsocket", client.Params{"port": fmt.Sprint(px.Port), "vncticket": strings.Replace(px.Ticket, "::", "::A", 1)}, nil)
	if err == nil || !strings.Contains(err.Error(), "invalid PVEVNC ticket") {
		t.Errorf("forged ticket: %v", err)
	}
}

// authenticate is a VNC client's part.
func authenticate(c net.Conn, password string) error {
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b[:12]); err != nil {
		return err
	}
	io.WriteString(c, rfb38)
	if _, err := io.ReadFull(c, b[:2]); err != nil || b[1] != rfbVNCAuth {
		return fmt.Errorf("security types %v: %v", b[:2], err)
	}
	c.Write(b[1:2])
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	a := vncAnswer(password, [16]byte(b))
	c.Write(a[:])
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint32(b[:4]); n != 0 {
		return fmt.Errorf("result %d", n)
	}
	return nil
}

func TestExec(t *testing.T) {
	n := start(t)
	c := ours(t, n)
	if err := finished(t, c, "POST", "/nodes/n1/lxc", client.Params{"vmid": "101", "ostemplate": "disks:vztmpl/debian.tar.zst", "rootfs": "disks:1", "password": "s3cret"}); err != nil {
		t.Fatal(err)
	}
	if err := finished(t, c, "POST", "/nodes/n1/lxc/101/status/start", nil); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := c.Post(t.Context(), "/nodes/n1/lxc/101/exec", client.Params{"command": "id"}, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]any{"exitcode": 3.0, "out-data": "101 [id]", "err-data": "e"}, got); d != "" {
		t.Error(d)
	}
}

// TestVNCAnswer: the vector was made with another implementation (OpenSSL's
// DES with mirrored key bytes).
func TestVNCAnswer(t *testing.T) {
	var challenge [16]byte
	for i := range challenge {
		challenge[i] = byte(i)
	}
	got := vncAnswer("password", challenge)
	if fmt.Sprintf("%x", got) != "b866924125c8eebb9debc1db61c538e2" {
		t.Errorf("%x", got)
	}
	if vncAnswer("password-and-more", challenge) != got {
		t.Error("more than eight characters count")
	}
}

type sink struct {
	bytes.Buffer
	sizes []string
}

func (s *sink) Resize(c, r uint16) error {
	s.sizes = append(s.sizes, fmt.Sprint(c, "x", r))
	return nil
}
func (s *sink) Close() error { return nil }

var _ guest.Console = (*sink)(nil)

func TestTerminalFrames(t *testing.T) {
	for in, want := range map[string]string{
		"0:3:a:b":        "a:b",
		"20:1:x2\n0:1:y": "xy",
		"0:0:0:1:z":      "z",
	} {
		var s sink
		if err := typed(bufio.NewReader(strings.NewReader(in)), &s); !errors.Is(err, io.EOF) || s.String() != want {
			t.Errorf("%q: %q %v", in, s.String(), err)
		}
	}
	var s sink
	if typed(bufio.NewReader(strings.NewReader("1:80:24:1:1:2:")), &s); !slices.Equal(s.sizes, []string{"80x24", "1x2"}) {
		t.Errorf("sizes %v", s.sizes)
	}
	for _, bad := range []string{"3", "0x", "0:-1:a", "0:9999999:a", "0:200000:a", "1:80:99999:", "0:12345678901:"} {
		if err := typed(bufio.NewReader(strings.NewReader(bad)), &s); err == nil || errors.Is(err, io.EOF) && len(bad) > 3 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzTerminal(f *testing.F) {
	f.Add([]byte("0:3:abc1:80:24:2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sink
		if err := typed(bufio.NewReader(bytes.NewReader(b)), &s); err == nil {
			t.Error("no error at the end")
		}
		if s.Len() > len(b) {
			t.Error("more came out than went in")
		}
	})
}
