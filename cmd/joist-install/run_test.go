package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/installer/probe"
	"joist/internal/host"
)

const goodAnswer = `[global]
keyboard = "de"
country = "at"
timezone = "UTC"
fqdn = "n1.example.com"
mailto = "a@example.com"
root-password = "topsecret"
[network]
source = "from-dhcp"
[disk-setup]
filesystem = "ext4"
disk-list = ["vda"]
`

// planning is a run of the installer that plans for a machine, with what was said
// and a person who types these lines.
func planning(t *testing.T, f probe.Facts, answer string, lines ...string) (*session, *strings.Builder) {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const id = "0123456789abcdef"
	hash := strings.Repeat("0", 64)
	write(buildFile, `{"build_id": "`+id+`"}`)
	dir := probe.MediumDir + "/joist/" + id
	write(dir+"/manifest.json", `{"build_id": "`+id+`", "version": "1.2.3", "built": "2026-01-02T03:04:05Z", "kernel": "6.12", "verity_root": "`+hash+`",
		"files": {"vmlinuz": {"size": 1, "sha256": "`+hash+`"}, "initrd": {"size": 1, "sha256": "`+hash+`"}, "system.sqfs": {"size": 1, "sha256": "`+hash+`"}}}`)
	for _, name := range []string{"grub-boot.img", "grub-core-disk.img", "shimx64.efi", "grubx64.efi", "mmx64.efi"} {
		write(dir+"/boot/"+name, "x")
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	o := options{facts: write("facts.json", string(b)), planOnly: true}
	if answer != "" {
		o.answer, o.unattended = write("answer.toml", answer), true
	}
	typed := bufio.NewReader(strings.NewReader(strings.Join(lines, "\n") + "\n"))
	return &session{o: o, h: &host.Host{Root: root, Now: time.Now, Log: slog.New(slog.DiscardHandler)},
		out: consoles{{name: "test", in: typed, out: &out}}, net: noNetwork{}}, &out
}

func fitMachine() probe.Facts {
	return probe.Facts{Time: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), Firmware: probe.Firmware{Mode: probe.UEFI},
		CPU: probe.CPU{Virtualisation: "svm", KVM: true}, Memory: probe.Memory{Total: 4 << 30},
		Disks: []probe.Disk{{Name: "vda", Size: 64e9, Sector: 512, Bus: "virtio", Udev: map[string]string{}}},
		NICs:  []probe.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: "up", Speed: 1000, Udev: map[string]string{}}}}
}

// Answer, machine and disks are judged at once, and nothing is said twice.
func TestInstallSaysAllAtOnce(t *testing.T) {
	f := fitMachine()
	f.Disks[0].InUse, f.CPU.KVM = []string{"/mnt"}, false
	s, out := planning(t, f, strings.Replace(goodAnswer, "keyboard", "keybord", 1))
	code, err := s.install(t.Context())
	if err != nil || code != exitFindings {
		t.Fatalf("%d, %v\n%s", code, err, out)
	}
	for _, c := range []string{"answer-unknown-key", "answer-missing-key", "cpu-virtualisation", "disk-in-use"} {
		if n := strings.Count(out.String(), "["+c+"]"); n != 1 {
			t.Errorf("%s is said %d times:\n%s", c, n, out)
		}
	}
	// a system that is there is not started by a wrong answer
	f = fitMachine()
	f.Disks[0].Installation = &probe.Installation{ID: "0123456789abcdef"}
	s, out = planning(t, f, strings.Replace(goodAnswer, "keyboard", "keybord", 1))
	if code, err := s.install(t.Context()); err != nil || code != exitFindings || strings.Contains(out.String(), "booted") {
		t.Errorf("%d, %v\n%s", code, err, out)
	}
	// without an answer there is the machine's part only
	s, out = planning(t, fitMachine(), "")
	s.o.unattended, s.o.answer = true, filepath.Join(s.h.Root, "none")
	if code, err := s.install(t.Context()); err != nil || code != exitFindings || !strings.Contains(out.String(), "[answer-unreadable]") || strings.Contains(out.String(), "[disk-") {
		t.Errorf("%d, %v\n%s", code, err, out)
	}
}

func TestInstallPlans(t *testing.T) {
	s, out := planning(t, fitMachine(), goodAnswer)
	if code, err := s.install(t.Context()); err != nil || code != exitOK || !strings.Contains(out.String(), "steps") {
		t.Errorf("%d, %v\n%s", code, err, out)
	}
}

// What the person accepted is waived in the plan: machine and disk.
func TestPersonWaives(t *testing.T) {
	f := fitMachine()
	f.CPU.KVM, f.Disks[0].Health = false, &probe.Health{Failing: true}
	s, out := planning(t, f, "", "", "1", "disk-failing", "n1.example.com", "", "", "", "", "longenough", "longenough", "")
	code, err := s.install(t.Context())
	if err != nil || code != exitOK || !strings.Contains(s.answer.String(), `codes = ["cpu-virtualisation", "disk-failing"]`) {
		t.Fatalf("%d, %v\n%s\n%s", code, err, s.answer, out)
	}
	for _, want := range []string{"(waived) [disk-failing]", "(waived) [cpu-virtualisation]", "\nsteps\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not said:\n%s", want, out)
		}
	}
}

// What is wrong with a disk is shown, and the exit status is the machine's.
func TestCheckShowsDisks(t *testing.T) {
	f := fitMachine()
	f.Disks[0].Health, f.Disks[0].InUse = &probe.Health{Failing: true}, []string{"/mnt"}
	f.Disks = append(f.Disks, probe.Disk{Name: "vdb", Size: 64e9, Sector: 512, Contents: []probe.Content{{Where: "vdb", Kind: "zfs", Name: "tank", ID: "7"}}})
	for _, running := range []bool{false, true} {
		s, _ := planning(t, f, "")
		s.onNode = running
		var stdout, stderr strings.Builder
		code := s.check(t.Context(), &stdout, &stderr)
		var again probe.Facts
		if err := json.Unmarshal([]byte(stdout.String()), &again); err != nil || len(again.Disks) != 2 || code != exitOK {
			t.Errorf("%d, %v\n%s", code, err, &stdout)
		}
		for code, want := range map[string]bool{"/dev/vda: error: the disk says of itself that it fails (SMART) [disk-failing]": true, "[disk-in-use]": !running, "[disk-pool-member]": !running} {
			if got := strings.Contains(stderr.String(), code); got != want {
				t.Errorf("on a node %v: %q is said: %v\n%s", running, code, got, &stderr)
			}
		}
	}
	f.NICs = nil
	s, _ := planning(t, f, "")
	if code := s.check(t.Context(), &strings.Builder{}, &strings.Builder{}); code != exitFindings {
		t.Error(code)
	}
}
