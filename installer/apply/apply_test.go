package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-crypt/x/yescrypt"

	"joist/api/node"
	"joist/image/boot"
	"joist/image/boot/efivar"
	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/host"
	"joist/internal/progress"
	"joist/internal/run"
)

var update = flag.Bool("update", false, "rewrite golden files")

const uuid = "AbCdEf-0123-4567-89ab-cdef-0123-456789"

// bootOrder is the firmware's variable.
const bootOrder = efivar.Dir + "/BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// machine is a folder with a sparse disk image, a medium and firmware variables.
type machine struct {
	*host.Host
	script *run.Script
	disks  []string
	img    plan.Image
	own    bool // the system runs from a disk that is marked
	mounts []string
	fail   string   // substring of a command that fails
	lvm    string   // the last file of LVM commands
	open   []string // partitions of the pool that zpool shows
}

// answer is what programs do: nothing, or what LVM says of a file of commands.
func (m *machine) answer(c run.Cmd) ([]byte, error) {
	if m.fail != "" && strings.Contains(c.String(), m.fail) {
		return nil, errors.New("scripted failure")
	}
	if c.Path == "zpool" {
		return m.zpool(c.Args)
	}
	if c.Line == nil {
		return nil, nil
	}
	b, err := os.ReadFile(c.Args[0])
	if err != nil {
		return nil, err
	}
	m.lvm = string(b)
	for line := range strings.Lines(m.lvm) {
		switch words := strings.Fields(line); {
		case m.fail != "" && strings.Contains(line, m.fail):
			return nil, errors.New("scripted failure")
		case words[0] == "vgs":
			c.Line("  " + uuid)
		case !strings.HasPrefix(line, "#"):
			c.Line(words[0] + " successfully created.")
		}
	}
	return nil, nil
}

func (m *machine) Mount(x host.Mount) error {
	m.mounts = append(m.mounts, "mount "+x.FSType+" "+x.Source+" "+x.Target)
	return nil
}

func (m *machine) Unmount(t string) error {
	m.mounts = append(m.mounts, "unmount "+t)
	return nil
}

func (m *machine) Power(host.PowerAction) error { return errors.New("not in a test") }

func (m *machine) write(t *testing.T, name string, b []byte) boot.File {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.Path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.Path(name), b, 0o644); err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return boot.File{Size: int64(len(b)), SHA256: hex.EncodeToString(s[:])}
}

const diskSize = 32e9

func newMachine(t *testing.T) (*machine, plan.Plan) {
	t.Helper()
	m := emptyMachine(t, "vda")
	return m, m.plan(t, func(*answer.Answer) {})
}

// emptyMachine has these disks and a medium.
func emptyMachine(t *testing.T, disks ...string) *machine {
	t.Helper()
	m := &machine{disks: disks}
	m.script = &run.Script{Answer: m.answer}
	m.Host = &host.Host{Root: t.TempDir(), Run: m.script, Sys: m, Now: func() time.Time { return time.Unix(1.8e9, 0) }, Log: slog.New(slog.DiscardHandler)}
	for _, d := range disks {
		m.write(t, "/dev/"+d, nil)
		if err := os.Truncate(m.Path("/dev/"+d), diskSize); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"1", "2", "3", "4", "5"} {
			m.write(t, "/dev/"+d+n, nil)
		}
	}
	const id = "0011223344556677"
	med, build := probe.MediumDir, probe.MediumDir+"/joist/"+id
	m.img = plan.Image{Loaders: map[string]int64{}, Manifest: boot.Manifest{BuildID: id, Version: "0.1.0", Kernel: "6.12", VerityRoot: strings.Repeat("a", 64), Built: time.Unix(1.7e9, 0)}}
	m.img.Files = map[string]boot.File{
		boot.FileKernel: m.write(t, med+"/boot/vmlinuz", noise(70_001)), boot.FileInitrd: m.write(t, med+"/boot/initrd", noise(90_002)),
		boot.FileSystem: m.write(t, build+"/system.sqfs", noise(9<<20+4096)),
	}
	grub := make([]byte, 512)
	grub[0x66], grub[510], grub[511] = 0xeb, 0x55, 0xaa
	core := noise(4096)
	binary.LittleEndian.PutUint16(core[0x1f4+8:], 7)
	binary.LittleEndian.PutUint16(core[0x1f4+10:], 0x820)
	for name, b := range map[string][]byte{plan.LoaderBoot: grub, plan.LoaderCore: core, plan.LoaderShim: noise(1001), plan.LoaderGrub: noise(1002), plan.LoaderMOK: noise(1003)} {
		f := m.write(t, build+"/boot/"+name, b)
		m.img.Loaders[name], m.img.Files[boot.LoaderFile(name)] = f.Size, f
	}
	m.write(t, strings.ReplaceAll(bootOrder, "BootOrder", "Boot0000"), []byte("\x07\x00\x00\x00\x01\x00\x00\x00\x04\x00S\x00h\x00e\x00l\x00l\x00\x00\x00"))
	m.write(t, bootOrder, []byte{7, 0, 0, 0, 0, 0})
	return m
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// plan is what the next start would do.
func (m *machine) facts(t *testing.T) probe.Facts {
	t.Helper()
	f := probe.Facts{
		Time: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), Firmware: probe.Firmware{Mode: probe.UEFI}, CPU: probe.CPU{Virtualisation: "svm", KVM: true},
		Memory: probe.Memory{Total: 4 << 30}, NICs: []probe.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}},
		ConsoleArgs: []string{"console=ttyS0,115200"},
	}
	for _, name := range m.disks {
		d := probe.Disk{Name: name, Size: diskSize, Sector: 512}
		r, err := os.Open(m.Path("/dev", name))
		if err != nil {
			t.Fatal(err)
		}
		probe.Contents(r, &d)
		if l, err := disk.ReadTable(r, diskSize, 512); m.own && f.InPlace == nil && err == nil && l.Marks()&disk.InPlace != 0 {
			f.InPlace = &probe.InPlace{Disk: name, Slot: "A", Table: l}
		}
		r.Close()
		f.Disks = append(f.Disks, d)
	}
	probe.Machine{Root: m.Root}.OwnDisks(&f)
	return f
}

// plan plans for the disks as they are.
func (m *machine) plan(t *testing.T, edit func(*answer.Answer)) plan.Plan {
	t.Helper()
	f := m.facts(t)
	swap := int64(1 << 30)
	a := answer.Answer{
		Global: answer.Global{Keyboard: "de", Country: "at", Timezone: "UTC", FQDN: "n1.example.com", MailTo: "a@example.com", RootPassword: "topsecret", RebootMode: "power-off"},
		Disk:   answer.Disk{Filesystem: "ext4", List: []string{"vda"}, SwapSize: &swap},
	}
	edit(&a)
	id0, err := plan.NewIdentity(bytes.NewReader(noise(1000)))
	if err != nil {
		t.Fatal(err)
	}
	p, fs := plan.Make(f, a, m.img, id0)
	if fs.Stops() {
		t.Fatal(fs)
	}
	return p
}

func TestApply(t *testing.T) {
	m, p := newMachine(t)
	var steps, copying []string
	sink := func(e progress.Event) {
		switch line := string(e.State) + " " + e.Step; {
		case e.State == progress.Running:
		case strings.HasPrefix(e.Step, "copy system image"):
			copying = append(copying, line) // beside others
		default:
			if line == "started write boot partition" && len(copying) != 2 {
				t.Errorf("the boot partition is written before the slot is: %v", copying)
			}
			steps = append(steps, line)
		}
	}
	if err := Apply(context.Background(), m.Host, p, sink); err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile(m.Path(lvmDir, "lvm.conf"))
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, part := range []string{strings.Join(m.script.Calls(), "\n"), m.lvm, string(conf), strings.Join(m.mounts, "\n"),
		strings.Join(steps, "\n"), strings.Join(copying, "\n")} {
		got += strings.TrimSpace(strings.ReplaceAll(part, m.Root, "")) + "\n\n"
	}
	if *update {
		os.MkdirAll("testdata", 0o755)
		os.WriteFile("testdata/apply.golden", []byte(got), 0o644)
	}
	want, err := os.ReadFile("testdata/apply.golden")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("what was done differs:\n%s", got)
	}
	checkDisk(t, m, p)
	checkSeed(t, m)
	if done, err := ReadDone(m.Host); err != nil || done.MachineID != p.Identity.MachineID || !strings.HasPrefix(done.HostKeys["ed25519"], "ssh-ed25519 AAAA") || !strings.HasPrefix(done.HostKeys["ecdsa"], "ecdsa-sha2-nistp256 AAAA") {
		t.Errorf("what was installed: %+v %v", done, err)
	}
	if b, _ := os.ReadFile(m.Path(NextFile)); string(b) != "poweroff\n" {
		t.Errorf("next: %q", b)
	}
	if b, _ := os.ReadFile(m.Path(bootOrder)); !bytes.Equal(b, []byte{7, 0, 0, 0, 1, 0, 0, 0}) {
		t.Errorf("boot order: % x", b)
	}
	// A second run finds its own entry and gives the same order.
	if err := Apply(context.Background(), m.Host, p, progress.Discard); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(m.Path(bootOrder)); !bytes.Equal(b, []byte{7, 0, 0, 0, 1, 0, 0, 0}) {
		t.Errorf("boot order after the second run: % x", b)
	}
}

func checkDisk(t *testing.T, m *machine, p plan.Plan) {
	t.Helper()
	f, err := os.Open(m.Path("/dev/vda"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := disk.ReadTable(f, diskSize, 512)
	if err != nil || l.DiskGUID != p.Identity.DiskGUID || len(l.Partitions) != 5 {
		t.Fatalf("table: %v %+v", err, l)
	}
	same := func(what string, off int64, file string) {
		want, err := os.ReadFile(m.Path(file))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from the medium (%v)", what, err)
		}
	}
	same("slot A", l.Partitions[2].Start, probe.MediumDir+"/joist/0011223344556677/system.sqfs")
	esp := l.Partitions[1]
	r := io.NewSectionReader(f, esp.Start, esp.Size)
	for path, file := range map[string]string{
		"/joist/A/vmlinuz": "/boot/vmlinuz", "/joist/A/initrd": "/boot/initrd", "/EFI/BOOT/BOOTX64.EFI": "/joist/0011223344556677/boot/shimx64.efi",
	} {
		e, err := disk.LocateFAT(r, path)
		if err != nil {
			t.Fatal(err)
		}
		same(path, esp.Start+e.Offset, probe.MediumDir+file)
	}
	// what was installed is what kexec would start; the boot partition as a
	// device of its own is cut out of the disk here
	b := make([]byte, 16<<20)
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	m.write(t, "/dev/esp", b)
	s, err := ReadInstalled(m.Host, "esp")
	if err != nil || s.Slot != boot.A || !strings.Contains(s.Args, "joist.mode=node joist.build=0011223344556677") ||
		!strings.Contains(s.Args, "joist.state=lvm:"+uuid) || !strings.Contains(s.Args, "console=ttyS0,115200") || len(s.Kernel) != 70_001 {
		t.Errorf("installed system: %v %s %q", err, s.Slot, s.Args)
	}
}

func checkSeed(t *testing.T, m *machine) {
	t.Helper()
	read := func(p string) string {
		b, err := os.ReadFile(m.Path(targetDir, "state", strings.TrimPrefix(p, "/var")))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	shadow := strings.TrimSpace(read(node.ShadowFile))
	if len(shadow) != plan.HashSize {
		t.Errorf("the hash has %d characters, the plan says %d", len(shadow), plan.HashSize)
	}
	if again, err := yescrypt.Hash([]byte("topsecret"), []byte(shadow)); err != nil || string(again) != shadow {
		t.Errorf("the hash does not verify: %v", err)
	}
	var c node.Config
	if err := json.Unmarshal([]byte(read(node.ConfigFile)), &c); err != nil || c.Storage.VGUUID != uuid || c.Name != "n1" || c.Storage.Thin != "data" {
		t.Errorf("node configuration: %v %+v", err, c)
	}
	if strings.Contains(read(node.ReportFile), "topsecret") {
		t.Error("the report holds the password")
	}
	st, err := os.Stat(m.Path(targetDir, "state/lib/joist/node"))
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("node folder: %v %v", err, st.Mode())
	}
}

// A failure in the middle lets go of everything and leaves no boot sector.
func TestApplyFails(t *testing.T) {
	for _, fail := range []string{"vgcreate", "mkswap", "thin-pool"} {
		m, p := newMachine(t)
		m.fail = fail
		err := Apply(context.Background(), m.Host, p, progress.Discard)
		if err == nil {
			t.Fatalf("%s: no error", fail)
		}
		b := make([]byte, 440)
		f, _ := os.Open(m.Path("/dev/vda"))
		f.ReadAt(b, 0)
		f.Close()
		if !bytes.Equal(b, make([]byte, 440)) {
			t.Errorf("%s: a boot sector was written", fail)
		}
		var j Journal
		raw, _ := os.ReadFile(m.Path(JournalFile))
		if err := json.Unmarshal(raw, &j); err != nil || !slices.ContainsFunc(j.Steps, func(s Step) bool { return s.State == progress.Failed }) ||
			slices.ContainsFunc(j.Steps, func(s Step) bool { return s.State == progress.Started }) {
			t.Errorf("%s: journal %s", fail, raw)
		}
		if _, err := os.Stat(m.Path(NextFile)); err == nil {
			t.Errorf("%s: the machine would go on", fail)
		}
	}
}

// A damaged medium is seen before anything is written or run.
func TestDamagedMedium(t *testing.T) {
	const build = "/joist/0011223344556677/"
	for _, c := range []struct {
		files []string
		spoil func(name string, b []byte) error
		want  string
	}{
		{[]string{build + "system.sqfs"}, flip, "damaged"},
		{[]string{"/boot/initrd"}, flip, "damaged"},
		{[]string{build + "boot/" + plan.LoaderShim}, flip, "damaged"},
		{[]string{"/boot/vmlinuz", build + "boot/" + plan.LoaderBoot}, flip, "damaged"},
		{[]string{build + "system.sqfs"}, func(name string, _ []byte) error { return os.Truncate(name, 4096) }, "damaged"},
		{[]string{build + "system.sqfs"}, func(name string, _ []byte) error { return os.Truncate(name, 0) }, "damaged"},
		{[]string{"/boot/vmlinuz"}, func(name string, _ []byte) error { return os.Remove(name) }, "read vmlinuz of the medium"},
	} {
		m, p := newMachine(t)
		for _, file := range c.files {
			name := m.Path(probe.MediumDir, file)
			b, err := os.ReadFile(name)
			if err = errors.Join(err, c.spoil(name, b)); err != nil {
				t.Fatal(err)
			}
		}
		err := Apply(context.Background(), m.Host, p, progress.Discard)
		if err == nil {
			t.Errorf("%v: no error", c.files)
			continue
		}
		for _, file := range c.files {
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), filepath.Base(file)) {
				t.Errorf("%s: %v", file, err)
			}
		}
		if st, err := os.Stat(m.Path("/dev/vda")); err != nil || st.Sys().(*syscall.Stat_t).Blocks != 0 {
			t.Errorf("%v: the disk was written to (%v)", c.files, err)
		}
		if calls := m.script.Calls(); len(calls) > 0 {
			t.Errorf("%v: %v was run", c.files, calls)
		}
	}
}

func flip(name string, b []byte) error {
	b[len(b)/2] ^= 1
	return os.WriteFile(name, b, 0o644)
}

// TestChecked: what is written is what was checked, whether it is kept or not,
// and a medium that changes in between is noticed where it is read again.
func TestChecked(t *testing.T) {
	m, p := newMachine(t)
	a := &applier{h: m.Host, p: p}
	if err := a.checkMedium(t.Context(), func(_, _ int64) {}); err != nil || len(a.parts) != len(p.Image.Files) {
		t.Fatalf("%v; kept %d of %d parts", err, len(a.parts), len(p.Image.Files))
	}
	defer a.parts.release()
	src, err := a.source(plan.LoaderShim)
	if err != nil || src.Size() != 1001 {
		t.Errorf("shim: %v", err)
	}
	for _, kept := range []bool{true, false} {
		if !kept {
			a.parts.release()
		}
		if err := a.open(); err != nil {
			t.Fatal(err)
		}
		slot := p.Layout.Partitions[2]
		var last int64
		act := plan.WriteSlot{Slot: "A", Partition: slot, Bytes: p.Image.Files[boot.FileSystem].Size, SHA256: p.Image.Files[boot.FileSystem].SHA256}
		if err := a.writeSlot(t.Context(), act, func(n, _ int64) { last = n }); err != nil || last != act.Bytes {
			t.Errorf("kept %v: %v after %d bytes", kept, err, last)
		}
		got := make([]byte, act.Bytes)
		if _, err := a.drives[0].ReadAt(got, slot.Start); err != nil {
			t.Error(err)
		}
		if want, err := os.ReadFile(a.part(boot.FileSystem)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("kept %v: the slot differs (%v)", kept, err)
		}
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}
	name := a.part(boot.FileSystem)
	b, err := os.ReadFile(name)
	if err = errors.Join(err, flip(name, b), a.open()); err != nil {
		t.Fatal(err)
	}
	defer a.close()
	act := plan.WriteSlot{Slot: "A", Partition: p.Layout.Partitions[2], Bytes: int64(len(b)), SHA256: p.Image.Files[boot.FileSystem].SHA256}
	if err := a.writeSlot(t.Context(), act, func(_, _ int64) {}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a changed file: %v", err)
	}
}

// TestKeepLog: the node has the journal, with the times of the steps, and the
// end of the installer's log.
func TestKeepLog(t *testing.T) {
	m, p := newMachine(t)
	m.write(t, node.LogDir+"/joist-install.log", append(bytes.Repeat([]byte("old\n"), logMax/4), "the end\n"...))
	if err := Apply(t.Context(), m.Host, p, progress.Discard); err != nil {
		t.Fatal(err)
	}
	state := func(p string) string { return m.Path(targetDir, "state", strings.TrimPrefix(p, "/var")) }
	var j Journal
	b, err := os.ReadFile(state(node.InstallJournal))
	if err = errors.Join(err, json.Unmarshal(b, &j)); err != nil {
		t.Fatal(err)
	}
	for i, s := range j.Steps {
		last := i == len(j.Steps)-1
		if s.Name == "" || s.Begun.IsZero() || s.Ended.IsZero() != last || (s.Name == plan.KeepLog{}.Step()) != last {
			t.Errorf("step %d: %+v", i, s)
		}
	}
	if j.InstallationID != p.InstallationID || len(j.Steps) != len(p.Actions)-2 {
		t.Errorf("journal of %q with %d of %d steps", j.InstallationID, len(j.Steps), len(p.Actions))
	}
	b, err = os.ReadFile(state(node.InstallLog))
	if err != nil || len(b) != logMax || !bytes.HasSuffix(b, []byte("old\nthe end\n")) {
		t.Errorf("log of %d bytes: %v", len(b), err)
	}
	for path, mode := range map[string]os.FileMode{node.InstallDir: 0o700, node.InstallJournal: 0o600, node.InstallLog: 0o600} {
		if st, err := os.Stat(state(path)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSectionStaysInside(t *testing.T) {
	s := &section{base: 100, size: 10}
	for _, c := range []struct{ off, n int64 }{{10, 1}, {5, 6}, {-1, 1}, {1 << 62, 1}} {
		if _, err := s.WriteAt(make([]byte, c.n), c.off); !errors.Is(err, errPastEnd) {
			t.Errorf("write of %d at %d: %v", c.n, c.off, err)
		}
	}
}
