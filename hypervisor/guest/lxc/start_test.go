package lxc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/lxc/wire"
	"joist/internal/run"
)

// The tests below start no container: the helper is this very program, which
// leaves two processes behind, a "monitor" and its child, an "init".

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-fake-monitor" {
		fakeMonitor()
	}
	if filepath.Base(os.Args[0]) == "joist-lxc" {
		fakeHelper()
	}
	os.Exit(m.Run())
}

func fakeHelper() {
	var r wire.Request
	json.NewDecoder(os.Stdin).Decode(&r)
	folder := filepath.Join(r.Path, r.Name)
	conf, err := os.ReadFile(filepath.Join(folder, configFile))
	reply := wire.Reply{}
	switch {
	case err != nil:
		reply.Error = err.Error()
	case r.Op == wire.Hold:
	case strings.Contains(string(conf), "= broken\n"):
		os.WriteFile(filepath.Join(folder, logFile), []byte("lxc 100 1.2 ERROR    x - ../x.c:y:1 - no such bridge\n"), 0o600)
		reply.Error = "start container: failed"
	case strings.Contains(string(conf), "= slow\n"):
		time.Sleep(time.Minute)
	default:
		cmd := exec.Command("/proc/self/exe", "-fake-monitor", filepath.Join(filepath.Dir(r.Path), "cgroup"), r.Name, "exec sleep 60")
		if strings.Contains(string(conf), "= deaf\n") {
			cmd.Args[4] = `trap : PWR; sleep 1; trap "exit 0" PWR; while :; do sleep 0.1; done`
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, _ := cmd.StdoutPipe()
		cmd.Start()
		fmt.Fscan(out, &reply.Init)
	}
	json.NewEncoder(os.Stdout).Encode(reply)
	os.Exit(0)
}

func fakeMonitor() {
	cgroup, vmid := os.Args[2], os.Args[3]
	init := exec.Command("sh", "-c", os.Args[4])
	init.Start()
	for group, pid := range map[string]int{"system/lxc-" + vmid: os.Getpid(), "guests/" + vmid: init.Process.Pid} {
		os.MkdirAll(filepath.Join(cgroup, group), 0o755)
		os.WriteFile(filepath.Join(cgroup, group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
	}
	fmt.Println(init.Process.Pid)
	os.Stdout.Close()
	init.Wait()
	os.Exit(0)
}

// fakeMounts makes a folder with a given owner look mounted.
type fakeMounts struct {
	mounted map[string]bool
	fail    error
}

func (f *fakeMounts) Mount(source, target string, _, _ bool) error {
	if f.fail != nil {
		return f.fail
	}
	f.mounted[target] = true
	return os.Chown(target, FirstID, FirstID)
}

func (f *fakeMounts) UnmountBelow(_ context.Context, folder string) error {
	for m := range f.mounted {
		if strings.HasPrefix(m, folder+"/") {
			delete(f.mounted, m)
		}
	}
	return nil
}

func fakeDriver(t *testing.T) (*Driver, *fakeMounts) {
	t.Helper()
	needRoot(t)
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	helper := filepath.Join(root, "joist-lxc")
	if err := os.Symlink(self, helper); err != nil {
		t.Fatal(err)
	}
	m := &fakeMounts{mounted: map[string]bool{}}
	d := New(Config{Runs: guest.Runs{Dir: filepath.Join(root, "guests")}, Cgroup: filepath.Join(root, "cgroup"), Helper: helper, Mount: m,
		Host: func() Host { return Host{} }})
	return d, m
}

func spec(hostname string) guest.Spec {
	return guest.Spec{VMID: 100, Config: map[string]string{"hostname": hostname}, Volumes: volumes("rootfs")}
}

func nothing(t *testing.T, d *Driver, m *fakeMounts) {
	t.Helper()
	if left, _ := os.ReadDir(d.Runs.Dir); len(left) > 0 {
		t.Errorf("left in the run folder: %v", left)
	}
	for _, g := range groups(100) {
		if d.group(g).Exists() {
			t.Errorf("left group %s", g)
		}
	}
	if len(m.mounted) > 0 {
		t.Errorf("left mounted: %v", m.mounted)
	}
}

func startFake(t *testing.T, d *Driver) *Container {
	t.Helper()
	g, err := d.Start(t.Context(), spec("ct"))
	if err != nil {
		t.Fatal(err)
	}
	return g.(*Container)
}

func wait(t *testing.T, c *Container, exit string) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(2 * time.Second):
		t.Fatal("the end was not seen within 2 s")
	}
	if c.Exit() != exit {
		t.Errorf("exit %q, want %q", c.Exit(), exit)
	}
}

func TestStart(t *testing.T) {
	d, m := fakeDriver(t)
	c := startFake(t, d)
	if _, err := d.Start(t.Context(), spec("ct")); !errors.Is(err, guest.ErrRunning) {
		t.Fatalf("second start: %v", err)
	}
	st, err := c.Status(t.Context())
	if err != nil || st.State != guest.Running || st.PID == 0 || st.Note != "" || st.Uptime > time.Minute {
		t.Errorf("%+v %v", st, err)
	}
	if fi, _ := os.Stat(d.Runs.Folder(100)); fi.Mode().Perm() != 0o710 || fi.Sys().(*syscall.Stat_t).Gid != FirstID {
		t.Errorf("run folder: %v", fi.Mode())
	}
	other := New(d.Config) // the daemon after a restart
	found, err := other.Find(t.Context())
	if err != nil || len(found) != 1 || found[0].VMID() != 100 {
		t.Fatalf("%v %v", found, err)
	}
	if err := found[0].Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	wait(t, found[0].(*Container), "")
	<-c.Done()
	nothing(t, d, m)
}

func TestShutdown(t *testing.T) {
	d, m := fakeDriver(t)
	c := startFake(t, d)
	if err := c.Stop(t.Context(), guest.Shutdown); err != nil { // sleep(1) gets SIGTERM
		t.Fatal(err)
	}
	wait(t, c, "")
	nothing(t, d, m)
}

// TestShutdownWhileItStarts: the first request falls on deaf ears.
func TestShutdownWhileItStarts(t *testing.T) {
	d, m := fakeDriver(t)
	g, err := d.Start(t.Context(), spec("deaf"))
	if err != nil {
		t.Fatal(err)
	}
	c := g.(*Container)
	init := c.Record().Process.PID
	for end := time.Now().Add(10 * time.Second); haltSignal(init) != unix.SIGPWR; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the init waits for no signal")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Stop(ctx, guest.Shutdown); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "")
	nothing(t, d, m)
}

func TestEndOfItself(t *testing.T) {
	d, m := fakeDriver(t)
	c := startFake(t, d)
	syscall.Kill(c.Record().Process.PID, syscall.SIGKILL)
	wait(t, c, ExitSelf)
	nothing(t, d, m)
}

func TestMonitorDies(t *testing.T) {
	d, m := fakeDriver(t)
	c := startFake(t, d)
	syscall.Kill(c.Record().Helper.PID, syscall.SIGKILL)
	for range 200 {
		if c.Note() != "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	st, _ := c.Status(t.Context())
	if st.Note != NoMonitor || st.State != guest.Running || c.Ended() {
		t.Errorf("%+v", st)
	}
	found, err := New(d.Config).Find(t.Context())
	if err != nil || len(found) != 1 {
		t.Fatalf("%v %v", found, err)
	}
	if err := c.Stop(t.Context(), guest.Shutdown); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "")
	nothing(t, d, m)
}

func TestStartFails(t *testing.T) {
	d, m := fakeDriver(t)
	_, err := d.Start(t.Context(), spec("broken"))
	if err == nil || !strings.Contains(err.Error(), "start guest 100: no such bridge") {
		t.Error(err)
	}
	nothing(t, d, m)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := d.Start(ctx, spec("slow")); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	nothing(t, d, m)
	m.fail = errors.New("bad superblock")
	if _, err := d.Start(t.Context(), spec("ct")); err == nil || !strings.Contains(err.Error(), "rootfs: bad superblock") {
		t.Error(err)
	}
	nothing(t, d, m)
}

// TestStartInterrupted finds what a daemon left that died in a start.
func TestStartInterrupted(t *testing.T) {
	d, m := fakeDriver(t)
	for _, step := range []string{"claimed", "mounted", "written", "started", "done"} {
		d.Step = func(name string) {
			if name == step {
				panic(step)
			}
		}
		func() {
			defer func() { recover() }()
			d.Start(t.Context(), spec("ct"))
		}()
		other := New(d.Config)
		other.Step = func(string) {}
		found, err := other.Find(t.Context())
		if err != nil || len(found) > 1 || len(found) == 1 && step != "done" {
			t.Errorf("%s: %v %v", step, found, err)
		}
		for _, g := range found {
			if err := g.Stop(t.Context(), guest.Kill); err != nil {
				t.Error(err)
			}
			<-g.Done()
		}
		nothing(t, d, m)
	}
}

func TestProvisionMountPoint(t *testing.T) {
	script := &run.Script{}
	d := New(Config{Run: script})
	log := testLog{t}
	for _, s := range []ProvisionSpec{{VMID: 101, Device: "/dev/joist/x", FSType: "ext4", Unprivileged: true}, {VMID: 101, Device: "/dev/joist/x"}} {
		if err := d.Provision(t.Context(), s, log); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Grow(t.Context(), "/dev/joist/x"); err != nil {
		t.Fatal(err)
	}
	golden(t, "commands", strings.Join(script.Calls(), "\n")+"\n")
	for _, s := range []ProvisionSpec{{VMID: 101, Device: "-x"}, {VMID: 101, Device: "/dev/x", FSType: "xfs"}} {
		if err := d.Provision(t.Context(), s, log); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
