package lxc

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
)

// TestReal takes a real container through its life. It needs root, a cgroup v2
// tree at /sys/fs/cgroup, and the names of a template and of a helper with
// liblxc:
//
//	JOIST_TEST_TEMPLATE=FILE JOIST_TEST_HELPER=FILE go test -run TestReal
func TestReal(t *testing.T) {
	template, helper := os.Getenv("JOIST_TEST_TEMPLATE"), os.Getenv("JOIST_TEST_HELPER")
	if template == "" || helper == "" {
		t.Skip("needs JOIST_TEST_TEMPLATE and JOIST_TEST_HELPER")
	}
	dir, err := os.MkdirTemp("/run", "joist-test-")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := Defaults(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	c.Runs.Dir, c.Helper = filepath.Join(dir, "guests"), helper
	for _, g := range []string{"guests", "system"} {
		os.Mkdir(filepath.Join(c.Cgroup, g), 0o755)
	}
	os.WriteFile(filepath.Join(c.Cgroup, "guests/cgroup.subtree_control"), []byte("+cpu +memory +io +pids"), 0)
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 2<<30); err != nil {
		t.Fatal(err)
	}
	config := map[string]string{"hostname": "ct1", "rootfs": "local:100/image,size=2G", "unprivileged": "1", "memory": "512"}
	if bridge := os.Getenv("JOIST_TEST_BRIDGE"); bridge != "" {
		config["net0"] = "name=eth0,bridge=" + bridge + ",ip=192.0.2.5/24,gw=192.0.2.1,hwaddr=BC:24:11:00:00:01"
	}
	d := New(c)
	begin := time.Now()
	err = d.Provision(t.Context(), ProvisionSpec{VMID: 100, Device: image, Template: template, Config: config, Password: "geheim", Unprivileged: true}, testLog{t})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("provisioned in %s", time.Since(begin))
	r := &real{t: t, c: c, d: d, spec: guest.Spec{VMID: 100, Config: config, Volumes: map[string]guest.Volume{"rootfs": {ID: "local:100/image", Path: image, Format: "raw"}}}}
	t.Run("life", r.life)
	t.Run("reboot", r.reboot)
	t.Run("monitor", r.monitor)
	t.Run("crash", r.crash)
	t.Run("fail", r.fail)
}

type testLog struct{ t *testing.T }

func (l testLog) Printf(f string, a ...any) { l.t.Logf(f, a...) }
func (l testLog) Warnf(f string, a ...any)  { l.t.Logf("warning: "+f, a...) }

type real struct {
	t    *testing.T
	c    Config
	d    *Driver
	spec guest.Spec
}

func (r *real) start(t *testing.T) *Container {
	t.Helper()
	begin := time.Now()
	g, err := r.d.Start(t.Context(), r.spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %s", time.Since(begin))
	return g.(*Container)
}

// up waits until systemd has come to rest.
func (r *real) up(t *testing.T, c *Container) {
	t.Helper()
	for range 300 {
		res, err := c.Exec(t.Context(), Command{Argv: []string{"systemctl", "is-system-running"}})
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.TrimSpace(string(res.Stdout)); s == "running" || s == "degraded" {
			failed, _ := c.Exec(t.Context(), Command{Argv: []string{"systemctl", "--failed", "--no-legend", "--plain"}})
			t.Logf("%s %s", s, failed.Stdout)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the container did not come up")
}

// gone fails the test when anything of the container is left.
func (r *real) gone(t *testing.T) {
	t.Helper()
	left, _ := filepath.Glob(r.c.Runs.Dir + "/*")
	for _, p := range append(groups(100), "lxc.pivot") {
		if r.d.group(p).Exists() {
			left = append(left, p)
		}
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	left = append(left, mountsBelow(string(b), r.c.Runs.Dir)...)
	if there("/sys/class/net/veth100i0") {
		left = append(left, "veth100i0")
	}
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func (r *real) ended(t *testing.T, c *Container, exit string) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the end was not seen")
	}
	if c.Exit() != exit {
		t.Errorf("exit %q, want %q", c.Exit(), exit)
	}
	r.gone(t)
}

func (r *real) shutDown(t *testing.T, c *Container) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Stop(ctx, guest.Shutdown); err != nil {
		t.Fatal(err)
	}
	t.Logf("shut down in %s", time.Since(begin))
	r.ended(t, c, "")
}

func (r *real) life(t *testing.T) {
	c := r.start(t)
	if _, err := r.d.Start(t.Context(), r.spec); err == nil {
		t.Fatal("started twice")
	}
	r.up(t, c)
	st, _ := c.Status(t.Context())
	t.Logf("%+v", st)
	res, err := c.Exec(t.Context(), Command{Argv: []string{"/bin/sh", "-c", "id -u; hostname; cat /proc/self/uid_map /proc/self/cgroup /etc/resolv.conf; ip -br a; exit 7"}})
	if err != nil || res.Exit != 7 || !strings.HasPrefix(string(res.Stdout), "0\nct1\n") {
		t.Errorf("%+v %v", res, err)
	}
	t.Logf("%s", res.Stdout)
	logInOn(t, c)
	logInOn(t, c) // the terminal was given back
	r.shutDown(t, c)
}

// logInOn types a name and a password on the container's console.
func logInOn(t *testing.T, c *Container) {
	t.Helper()
	con, err := c.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer con.Close()
	if err := con.Resize(100, 30); err != nil {
		t.Error(err)
	}
	seen := make(chan byte, 1<<16)
	go func() {
		defer close(seen)
		for r := bufio.NewReader(con); ; {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			seen <- b
		}
	}()
	var all bytes.Buffer
	expect := func(s string) bool {
		t.Helper()
		from, end := all.Len(), time.After(10*time.Second)
		for !bytes.Contains(all.Bytes()[from:], []byte(s)) {
			select {
			case b, ok := <-seen:
				if !ok {
					t.Errorf("console closed before %q: %q", s, all.String())
					return false
				}
				all.WriteByte(b)
			case <-end:
				t.Errorf("no %q on the console: %q", s, all.String())
				return false
			}
		}
		return true
	}
	fmt.Fprint(con, "\r")
	for _, step := range [][2]string{{"login: ", "root\r"}, {"assword: ", "geheim\r"}, {"# ", "stty size; tty; echo $((40+2))x; exit\r"}, {"42x", ""}} {
		if !expect(step[0]) {
			return
		}
		time.Sleep(100 * time.Millisecond) // getty discards what comes before it is ready
		fmt.Fprint(con, step[1])
	}
	t.Logf("%q", all.String())
}

func (r *real) reboot(t *testing.T) {
	c := r.start(t)
	r.up(t, c)
	old := c.Record().Process
	c.Exec(t.Context(), Command{Argv: []string{"systemctl", "reboot"}})
	for range 100 {
		if p := c.Record().Process; p != old && c.Record().Process.Alive() {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if c.Ended() || c.Record().Process == old {
		t.Fatal("no reboot was seen")
	}
	r.up(t, c)
	c.Exec(t.Context(), Command{Argv: []string{"systemctl", "poweroff"}})
	time.Sleep(3 * time.Second)
	r.ended(t, c, ExitSelf)
}

func (r *real) monitor(t *testing.T) {
	c := r.start(t)
	r.up(t, c)
	unix.Kill(c.Record().Helper.PID, unix.SIGKILL)
	time.Sleep(time.Second)
	st, _ := c.Status(t.Context())
	if st.State != guest.Running || st.Note != NoMonitor {
		t.Errorf("%+v", st)
	}
	res, err := c.Exec(t.Context(), Command{Argv: []string{"/bin/sh", "-c", "id -u; hostname; cat /proc/self/cgroup; exit 3"}})
	if err != nil || res.Exit != 3 || !slices.Contains(strings.Split(string(res.Stdout), "\n"), "ct1") {
		t.Errorf("%+v %v", res, err)
	}
	logInOn(t, c)
	// Another daemon finds it.
	other := New(r.c)
	found, err := other.Find(t.Context())
	if err != nil || len(found) != 1 {
		t.Fatalf("%v %v", found, err)
	}
	st, _ = found[0].Status(t.Context())
	t.Logf("%+v", st)
	other.Close()
	r.shutDown(t, c)
}

func (r *real) crash(t *testing.T) {
	c := r.start(t)
	if err := c.Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	r.ended(t, c, "")
	c = r.start(t)
	unix.Kill(c.Record().Process.PID, unix.SIGKILL)
	r.ended(t, c, ExitSelf)
}

func (r *real) fail(t *testing.T) {
	bad := r.spec
	bad.Config = map[string]string{"net0": "name=eth0,bridge=nobridge,hwaddr=BC:24:11:00:00:01", "rootfs": r.spec.Config["rootfs"]}
	_, err := r.d.Start(t.Context(), bad)
	t.Log(err)
	if err == nil || !strings.Contains(err.Error(), "nobridge") && !strings.Contains(err.Error(), "network") {
		t.Errorf("%v", err)
	}
	r.gone(t)
}
