package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"joist/installer/answer"
	"joist/test/node"
	"joist/test/vm"
)

// TestShortInstallRefusals: the installer finds everything at once, says the
// cures, leaves with the status of docs/exit-codes.md and writes nothing.
func TestShortInstallRefusals(t *testing.T) {
	t.Parallel()
	t.Run("machine", func(t *testing.T) {
		refuse(t, refusal{
			diskSize: 10_000_000_000,
			memory:   1024,
			// Without SVM, QEMU's "max" has no CPUID leaf 0x80000008, Linux then
			// takes addresses for 48 bits wide, and five-level paging breaks it
			// (every path in mountinfo reads "xxx"): no LA57 either.
			cpu:    []string{"-svm", "-vmx", "-la57"},
			answer: answerFile(t),
			says:   []string{"[cpu-virtualisation]", "[memory-too-small]", "[disk-too-small]"},
		})
	})
	t.Run("answer", func(t *testing.T) {
		wrong := []byte(strings.NewReplacer(
			`timezone = "UTC"`, `timezone = "Europe/Atlantis"`,
			`fqdn = "`+fqdn+`"`, `fqdn = "no domain"`,
			`filesystem = "ext4"`, `filesystem = "ntfs"`,
			`country = "at"`, "country = \"at\"\ncolour = \"green\"",
		).Replace(string(answerFile(t))))
		_, findings := answer.Load(bytes.NewReader(wrong), "answer.toml")
		if !findings.Stops() || len(findings) < 3 {
			t.Fatalf("the answer is not wrong enough: %v", findings)
		}
		r := refusal{diskSize: node.DiskSize, memory: node.Memory, answer: wrong}
		for _, f := range findings {
			r.says = append(r.says, f.Text)
		}
		refuse(t, r)
	})
}

// refusal is an installation that must not happen.
type refusal struct {
	diskSize int64
	memory   int
	cpu      []string
	answer   []byte
	says     []string // a text of each finding that the console must show
	iso      string   // "" for the image under test
	firmware vm.Firmware
}

const findingsStatus = "2" // docs/exit-codes.md: findings stop the work

func refuse(t *testing.T, r refusal) {
	t.Helper()
	img, dir := medium(t), t.TempDir()
	disk := usedDisk(t, filepath.Join(dir, "disk.raw"), r.diskSize)
	before := sumOf(t, disk)
	volume := filepath.Join(dir, "answer.iso")
	ctx := within(t, 2*node.BootTime)
	if err := node.AnswerVolume(ctx, volume, r.answer); err != nil {
		t.Fatal(err)
	}
	if r.iso == "" {
		r.iso = img.path
	}
	m := vm.Run(t, vm.Config{
		Memory: r.memory, CPUFlags: r.cpu, Accel: img.accel, Firmware: r.firmware,
		Media: []vm.Medium{{Path: r.iso}, {Path: volume}},
		Disks: []vm.Disk{{Path: disk, Format: "raw"}},
		NICs:  []vm.NIC{{Port: vm.NewPort(t, vm.NewSwitch(t), "refused")}},
	})
	said, status := refusedText(ctx, t, m)
	for _, text := range r.says {
		if !strings.Contains(said, text) {
			t.Errorf("the console does not show the finding %s", text)
		}
	}
	if n := strings.Count(said, "cure: "); n < len(r.says) {
		t.Errorf("%d cures are shown, want one for each of %q", n, r.says)
	}
	if !strings.Contains(said, "Nothing was written.") {
		t.Error("the console does not say that nothing was written")
	}
	if status != findingsStatus {
		t.Errorf("exit status %s, want %s", status, findingsStatus)
	}
	if t.Failed() {
		t.Logf("it said:\n%s", said)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if after := sumOf(t, disk); after != before {
		t.Error("the disk was written to")
	}
}

// refusedText is what the installer said between its first line and its exit
// status.
func refusedText(ctx context.Context, t *testing.T, m *vm.Machine) (said, status string) {
	t.Helper()
	if err := node.ChooseUnattended(ctx, m); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitFor(ctx, node.InstallerLine); err != nil {
		t.Fatal(err)
	}
	found, err := m.WaitFor(ctx, `(?s)(.*?)`+node.ExitLine)
	if err != nil {
		t.Fatal(err)
	}
	return found[1], found[2]
}

// usedDisk is a sparse raw disk on which somebody has left something.
func usedDisk(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	left := make([]byte, 1<<20)
	for _, at := range []int64{0, size / 2, size - int64(len(left))} {
		if _, err := rand.Read(left); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(left, at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// sumOf hashes a sparse file: what is not zero, where it is, and how much room
// the file takes, so that zeros written into a hole count, too. Where its holes
// are says nothing: what was allocated and not written looks like data as soon
// as somebody has read it.
func sumOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := errors.Join(f.Sync(), unix.Fstat(int(f.Fd()), &st)); err != nil { // what waits to be written takes no room yet
		t.Fatal(err)
	}
	h := sha256.New()
	fmt.Fprintln(h, st.Size, st.Blocks)
	block := make([]byte, 64<<10)
	for at := int64(0); ; at += int64(len(block)) {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no data behind at, lseek(2)
			return hex.EncodeToString(h.Sum(nil))
		}
		at = data / int64(len(block)) * int64(len(block))
		n := 0
		if err == nil {
			n, err = f.ReadAt(block, at)
		}
		if err != nil && err != io.EOF {
			t.Fatal(fmt.Errorf("hash %q: %w", path, err))
		}
		if b := block[:n]; len(bytes.TrimLeft(b, "\x00")) > 0 {
			fmt.Fprintln(h, at)
			h.Write(b)
		}
	}
}
