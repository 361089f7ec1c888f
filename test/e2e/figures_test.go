package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
)

// TestFigures measures what docs/benchmarks.md lists and writes
// build/figures.md. No figure is a gate here; one that cannot be had is.
func TestFigures(t *testing.T) {
	f := &figures{}
	img := medium(t)
	t.Run("iso", func(t *testing.T) { f.isoParts(t, img) })
	t.Run("install", func(t *testing.T) { f.install(t, img) })
	t.Run("copy", func(t *testing.T) { f.copyMedium(t, img) })
	t.Run("empty", func(t *testing.T) { f.emptyInit(t, img) })
	t.Run("node", func(t *testing.T) { f.node(t) })
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "build", "figures.md")
	if err := os.WriteFile(path, []byte(f.table(img)), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s:\n%s", path, f.table(img))
}

// figures are rows: what, how much.
type figures struct{ rows [][2]string }

func (f *figures) add(t *testing.T, what, format string, args ...any) {
	t.Helper()
	value := fmt.Sprintf(format, args...)
	t.Logf("%s: %s", what, value)
	f.rows = append(f.rows, [2]string{what, value})
}

func (f *figures) seconds(t *testing.T, what string, d time.Duration) {
	t.Helper()
	f.add(t, what, "%.1f s", d.Seconds())
}

func (f *figures) table(img isoImage) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Image %s, machines of %d MiB run by %s (one CPU where that is tcg, else two).\n\n| what | figure |\n|---|---|\n",
		filepath.Base(img.path), node.Memory, img.accel)
	for _, r := range f.rows {
		fmt.Fprintf(&b, "| %s | %s |\n", r[0], r[1])
	}
	return b.String()
}

func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// isoParts lists the files of the image that are larger than a megabyte, and
// the rest as one.
func (f *figures) isoParts(t *testing.T, img isoImage) {
	st, err := os.Stat(img.path)
	if err != nil {
		t.Fatal(err)
	}
	f.add(t, "ISO", "%s", mb(st.Size()))
	out, err := exec.CommandContext(within(t, time.Minute), "xorriso", "-report_about", "FAILURE", "-indev", img.path,
		"-find", "/", "-type", "f", "-exec", "lsdl", "--").Output()
	if err != nil {
		t.Fatal(err)
	}
	rest := st.Size()
	line := regexp.MustCompile(`^\S+\s+\d+\s+\S+\s+\S+\s+(\d+)\s.*'(.*)'$`)
	var parts []string
	sizes := map[string]int64{}
	for l := range strings.Lines(string(out)) {
		m := line.FindStringSubmatch(strings.TrimSpace(l))
		if m == nil {
			continue
		}
		size, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || size < 1e6 {
			continue
		}
		name := buildID.ReplaceAllString(m[2], "/…/")
		parts, sizes[name], rest = append(parts, name), size, rest-size
	}
	if len(parts) == 0 {
		t.Fatalf("no file found in the image:\n%s", out)
	}
	slices.SortFunc(parts, func(a, b string) int { return int(sizes[b] - sizes[a]) })
	for _, p := range parts {
		f.add(t, "ISO: "+p, "%s", mb(sizes[p]))
	}
	f.add(t, "ISO: everything else", "%s", mb(rest))
}

var buildID = regexp.MustCompile(`/[0-9a-f]{16}/`)

// install times an installation of its own.
func (f *figures) install(t *testing.T, img isoImage) {
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := vm.CreateDisk(t.Context(), disk, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	at := install(t, img, disk, filepath.Join(t.TempDir(), "install.log"))
	f.seconds(t, "install: installer's first line → installed", at.Installed.Sub(at.Installer))
	f.seconds(t, "install: menu → restart", at.Ended.Sub(at.Chosen))
}

// copyMedium copies what an installation copies from the same medium to the
// same disk, with fsync, in the rescue system.
func (f *figures) copyMedium(t *testing.T, img isoImage) {
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := vm.CreateDisk(t.Context(), disk, node.DiskSize); err != nil {
		t.Fatal(err)
	}
	m := vm.Run(t, vm.Config{Memory: node.Memory, Accel: img.accel, Media: []vm.Medium{{Path: img.path}}, Disks: []vm.Disk{{Path: disk}}})
	ctx := within(t, 2*node.BootTime)
	if err := node.ChooseRescue(ctx, m); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitFor(ctx, "rescue system"); err != nil {
		t.Fatal(err)
	}
	shell := &terminal{Console: m.Serial(0)}
	if err := shell.login(ctx, ""); err != nil {
		t.Fatal(err)
	}
	out := shell.run(t, node.InstallTime, `cd /run/joist/medium && time -p cat boot/vmlinuz boot/initrd joist/*/system.sqfs | dd of=/dev/vda bs=1M iflag=fullblock conv=fsync 2>&1`)
	took := regexp.MustCompile(`(?m)^real ([0-9.]+)`).FindStringSubmatch(out)
	if took == nil {
		t.Fatalf("no time in %q", out)
	}
	f.add(t, "copying the same bytes from the same medium to the same disk, with fsync", "%s s", took[1])
}

// emptyInit starts the image's kernel in the node's machine with a PID 1 that
// says how long it took to get there, and does nothing else.
func (f *figures) emptyInit(t *testing.T, img isoImage) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinuz")
	if err := vm.ExtractFile(t.Context(), img.path, "/boot/vmlinuz", kernel); err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, cpioFile("init", buildEmpty(t, dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	c := n.config(img)
	over := filepath.Join(dir, "disk.qcow2")
	if err := vm.Overlay(t.Context(), base(t), over); err != nil {
		t.Fatal(err)
	}
	c.Disks = []vm.Disk{{Path: over}}
	c.Kernel, c.Initrd, c.Append, c.NoReboot = kernel, initrd, "console=tty0 console=ttyS0,115200", true
	m := vm.Run(t, c)
	found, err := m.WaitFor(within(t, node.BootTime), `EMPTY ([0-9.]+)`)
	if err != nil {
		t.Fatal(err)
	}
	f.add(t, "kernel start → empty PID 1", "%s s", found[1])
}

// buildEmpty compiles testdata/empty, the PID 1 that does nothing.
func buildEmpty(t *testing.T, dir string) []byte {
	t.Helper()
	out := filepath.Join(dir, "init")
	cmd := exec.CommandContext(within(t, 5*time.Minute), "go", "build", "-buildvcs=false", "-o", out, "./testdata/empty")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the empty PID 1: %v\n%s", err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cpioFile is an archive with /dev/console and one executable, in the format
// that the kernel takes (driver-api/early-userspace/buffer-format.rst).
func cpioFile(name string, content []byte) []byte {
	var b []byte
	entry := func(ino int, mode uint32, major, minor int, name string, content []byte) {
		b = fmt.Appendf(b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			ino, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
		b = append(b, make([]byte, -len(b)&3)...)
		b = append(b, content...)
		b = append(b, make([]byte, -len(b)&3)...)
	}
	entry(1, 0o040755, 0, 0, "dev", nil)
	entry(2, 0o020600, 5, 1, "dev/console", nil)
	entry(3, 0o100755, 0, 0, name, content)
	entry(0, 0, 0, 0, "TRAILER!!!", nil)
	return b
}

// node measures an idle node: its boot, its memory, and guests' starts.
func (f *figures) node(t *testing.T) {
	n := startNode(t, nil)
	f.seconds(t, "kernel start → API answers", f.apiAfterKernel(t, n))
	time.Sleep(time.Minute) // what the boot left behind settles
	f.memory(t, n)
	g := guestOf{n: n, kind: "qemu", id: 100}.create(t, client.Params{"memory": guestMemory, "scsihw": "virtio-scsi-single", "scsi0": "local-lvm:1", "net0": vmHardware})
	f.starts(t, g, "virtual machine")
	id := n.upload(t, "vztmpl", "debian-13-standard_test_amd64.tar.zst", template(t))
	g = guestOf{n: n, kind: "lxc", id: 101}.create(t, client.Params{"ostemplate": id, "rootfs": "local-lvm:4", "memory": guestMemory, "net0": ctNetwork})
	f.starts(t, g, "container")
}

// apiAfterKernel restarts the node and asks its API until it answers; when its
// kernel started is found out afterwards, from its uptime.
func (f *figures) apiAfterKernel(t *testing.T, n *runningNode) time.Duration {
	t.Helper()
	boot := n.bootID(t)
	n.Serial(0).Skip()
	n.restart(t)
	ctx := within(t, 2*node.BootTime)
	if _, err := n.WaitFor(ctx, "Linux version"); err != nil { // until then the old API answers
		t.Fatal(err)
	}
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		err := n.API.Get(try, "/version", nil, nil)
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	answered := time.Now()
	n.awaitBoot(t, boot)
	up := strings.Fields(n.run(t, "cat /proc/uptime"))[0]
	read := time.Now()
	seconds, err := strconv.ParseFloat(up, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(seconds*1e9) - read.Sub(answered)
}

// memory sums the proportional set sizes of all processes but those of this
// session (proc_pid_smaps(5)), and says what the kernel has given away.
func (f *figures) memory(t *testing.T, n *runningNode) {
	t.Helper()
	var sum int64
	perName := map[string]int64{}
	for _, l := range n.lines(t, `for p in /proc/[0-9]*; do
  [ "${p#/proc/}" = $$ ] && continue
  pss=
  while read -r k v _; do [ "$k" = Pss: ] && pss=$v; done <$p/smaps_rollup
  [ -n "$pss" ] && echo "$pss $(tr '\0\n' '  ' <$p/cmdline)"
done 2>/dev/null; true`) {
		text, command, _ := strings.Cut(l, " ")
		kib, err := strconv.ParseInt(text, 10, 64)
		if err != nil || strings.HasPrefix(command, "sshd-session") || strings.HasPrefix(command, "sshd: root") || strings.HasPrefix(command, "/bin/bash -s") {
			continue
		}
		sum += kib << 10
		name, rest, _ := strings.Cut(filepath.Base(strings.TrimSpace(command)), " ")
		if name == "joistd" {
			name += " " + strings.Fields(rest + " ")[0]
		}
		perName[name] += kib << 10
	}
	f.add(t, "idle memory: PSS of all processes", "%s", mb(sum))
	for _, name := range slices.SortedFunc(maps.Keys(perName), func(a, b string) int { return int(perName[b] - perName[a]) }) {
		if perName[name] >= 1e6 {
			f.add(t, "idle memory: "+name, "%s", mb(perName[name]))
		}
	}
	info := map[string]int64{}
	for _, l := range n.lines(t, "cat /proc/meminfo") {
		k, v, _ := strings.Cut(l, ":")
		if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64); err == nil {
			info[k] = kib << 10
		}
	}
	f.add(t, "idle memory: MemTotal − MemAvailable", "%s", mb(info["MemTotal"]-info["MemAvailable"]))
}

// starts starts a guest five times and gives the median from the request to
// the end of the task.
func (f *figures) starts(t *testing.T, g guestOf, what string) {
	t.Helper()
	var all []time.Duration
	for range 5 {
		all = append(all, timedStart(t, g))
		g.stop(t)
	}
	slices.Sort(all)
	f.add(t, "start of a "+what+": request → task ended (median of 5)", "%.2f s", all[2].Seconds())
}

func timedStart(t *testing.T, g guestOf) time.Duration {
	t.Helper()
	ctx, begun := within(t, taskTime), time.Now()
	var upid string
	if err := g.n.API.Post(ctx, g.path()+"/status/start", nil, &upid); err != nil {
		t.Fatal(err)
	}
	for {
		var s client.TaskStatus
		if err := g.n.API.Get(ctx, "/nodes/"+g.n.Name+"/tasks/"+upid+"/status", nil, &s); err != nil {
			t.Fatal(err)
		}
		if s.Status == "stopped" {
			if s.Exit != "OK" {
				t.Fatalf("start of %s: %s", g.path(), s.Exit)
			}
			return time.Since(begun)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
