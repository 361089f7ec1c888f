package rescue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"joist/system/module"
)

// fake notes what commands ask of the machine.
type fake struct {
	calls []string
	only  string // the one file system type that mounts
}

func (f *fake) Mount(source, target, fstype string, flags uintptr, data string) error {
	f.calls = append(f.calls, fmt.Sprintf("mount %s %s %q %#x %q", source, target, fstype, flags, data))
	if f.only != "" && fstype != f.only {
		return unix.EINVAL
	}
	return nil
}

func (f *fake) Unmount(target string, flags int) error {
	f.calls = append(f.calls, fmt.Sprintf("umount %s %#x", target, flags))
	return nil
}

func (f *fake) Insert(file, params string) error {
	f.calls = append(f.calls, "insert "+filepath.Base(file)+" "+params)
	return nil
}

func (f *fake) KernelLog() ([]byte, error) {
	return []byte("<6>[    0.1] Linux version\n<3>[    0.2] sda: I/O error\nplain\n"), nil
}

func (f *fake) End(off bool) error {
	f.calls = append(f.calls, fmt.Sprint("end ", off))
	return nil
}

// script is Input from a text.
type script struct {
	lines   []string
	prompts []string
	cancel  bool // every command is interrupted at once
}

func (s *script) Line(prompt string) (string, error) {
	s.prompts = append(s.prompts, prompt)
	if len(s.lines) == 0 {
		return "", io.EOF
	}
	l := s.lines[0]
	s.lines = s.lines[1:]
	return l, nil
}

func (s *script) Interrupts(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if s.cancel {
		cancel()
	}
	return ctx, cancel
}

// shell runs lines in a fresh folder and returns what was printed.
func shell(t *testing.T, f *fake, dir string, lines ...string) (stdout, stderr string, s *script) {
	t.Helper()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out, bad bytes.Buffer
	s = &script{lines: lines}
	sh := &Shell{Box: Box{System: f, Root: dir}, Dir: dir, Env: []string{"PATH=/nowhere", "NAME=joist"}}
	if err := sh.Run(t.Context(), s, in, &out, &bad); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return out.String(), bad.String(), s
}

func TestCommandsWorkTogether(t *testing.T) {
	for _, c := range []struct{ name, lines, out, bad string }{
		{"files", "mkdir -p a/b; echo hi >a/b/x; cp a/b/x y; mv y z; cat z; rm -r a; ls", "hi\nz\n", ""},
		{"pipe", "dmesg | grep -i error", "[    0.2] sda: I/O error\n", ""},
		{"grep -v with files", "echo one >f; echo two >g; grep -v one f g", "g:two\n", ""},
		{"no match is a status", "if grep nothing /dev/null; then echo yes; else echo $?; fi", "1\n", ""},
		{"tail", "for i in 1 2 3; do echo $i; done | tail -n 2", "2\n3\n", ""},
		{"gzip", "echo text >f; gzip f; ls; gunzip f.gz; cat f; echo pipe | gzip | gzip -d", "f.gz\ntext\npipe\n", ""},
		{"tar", "mkdir d e; echo in >d/f; tar -c -f t.tar d; tar tf t.tar; tar -x -f t.tar -C e; cat e/d/f", "d\nd/f\nin\n", ""},
		{"tar, zipped", "mkdir d e; echo in >d/f; tar czf t.tgz -C d f; tar -tzf t.tgz; tar xzf t.tgz -C e; cat e/f", "f\nin\n", ""},
		{"tar, misused", "tar cx f; tar -f x", "", "tar: usage: tar -c|-x|-t"},
		{"folder and variables", "mkdir d; cd d; touch $NAME; cd ..; ls d", "joist\n", ""},
		{"touch, chmod", "touch s; chmod 0700 s; find -name s -mode 448 . | tail -n 1", "", ""},
		{"unknown", "nothere; echo $?", "127\n", `"nothere": executable file not found in $PATH`},
		{"errors are said", "cat nothere; echo $?", "1\n", "cat: open "},
		{"usage", "umount; modprobe", "", "umount: usage: umount [-l] DIR...\nmodprobe: usage: modprobe MODULE...\n"},
		{"syntax", "echo )", "", "rescue: "},
		{"help is ours", "help | grep -i lsblk", "  lsblk     \n", ""},
		{"exit", "exit; echo never", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, bad, _ := shell(t, &fake{}, t.TempDir(), strings.Split(c.lines, "|||")...)
			if c.name == "touch, chmod" { // find prints whole paths
				if !strings.Contains(out, "/") {
					t.Errorf("got %q, %q", out, bad)
				}
				out = ""
			}
			if out != c.out || !strings.Contains(bad, c.bad) || c.bad == "" && bad != "" {
				t.Errorf("got %q, %q; want %q, %q", out, bad, c.out, c.bad)
			}
		})
	}
}

func TestLinesThatGoOn(t *testing.T) {
	out, _, s := shell(t, &fake{}, t.TempDir(), "for i in a b; do", "echo $i", "done", "", "echo end")
	if out != "a\nb\nend\n" || strings.Join(s.prompts, "|") != "rescue# |> |> |rescue# |rescue# |rescue# " {
		t.Errorf("got %q, %q", out, s.prompts)
	}
}

func TestMachineCommands(t *testing.T) {
	dir := t.TempDir()
	release, err := module.Release()
	if err != nil {
		t.Fatal(err)
	}
	mods := filepath.Join(dir, "lib/modules", release)
	os.MkdirAll(mods, 0o755)
	os.WriteFile(mods+"/modules.dep", []byte("kernel/xfs.ko: kernel/crc.ko\nkernel/crc.ko:\nkernel/isofs.ko.xz:\n"), 0o644)
	for _, c := range []struct{ line, want string }{
		{"mount -t ext4 -o ro,noatime,noload,rw /dev/sda1 mnt", `mount /dev/sda1 DIR/mnt "ext4" 0x400 "noload"`},
		{"mount -o bind,nosuid /a /b", `mount /a /b "" 0x1002 ""`},
		{"mount -r /dev/sr0 /mnt", `mount /dev/sr0 /mnt "ext4" 0x1 "", insert crc.ko , insert xfs.ko , mount /dev/sr0 /mnt "xfs" 0x1 "", ` +
			`mount /dev/sr0 /mnt "squashfs" 0x1 "", insert isofs.ko.xz , mount /dev/sr0 /mnt "iso9660" 0x1 ""`},
		{"umount -l mnt /x", "umount DIR/mnt 0xa, umount /x 0xa"},
		{"modprobe xfs", "insert crc.ko , insert xfs.ko "},
		{"insmod f.ko a=1 b=2", "insert f.ko a=1 b=2"},
		{"reboot", "end false"},
		{"poweroff", "end true"},
	} {
		f := &fake{}
		if strings.Contains(c.line, "sr0") {
			f.only = "iso9660"
		}
		_, bad, _ := shell(t, f, dir, c.line)
		if got := strings.ReplaceAll(strings.Join(f.calls, ", "), dir, "DIR"); got != c.want || bad != "" {
			t.Errorf("%s:\n got %s\nwant %s\n%s", c.line, got, c.want, bad)
		}
	}
}

func TestMountList(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(dir+"/proc", 0o755)
	os.WriteFile(dir+"/proc/mounts", []byte("proc /proc proc rw 0 0\n"), 0o644)
	if out, _, _ := shell(t, &fake{}, dir, "mount"); out != "proc /proc proc rw 0 0\n" {
		t.Errorf("got %q", out)
	}
}

func TestLsblk(t *testing.T) {
	dir := t.TempDir()
	d := dir + "/sys/class/block/joisttest0"
	os.MkdirAll(d, 0o755)
	os.WriteFile(d+"/size", []byte("4194304\n"), 0o644)
	out, bad, _ := shell(t, &fake{}, dir, "lsblk")
	want := "NAME                   SIZE  CONTENT  PARTITION\njoisttest0               2G\n"
	if out != want || bad != "" {
		t.Errorf("got %q, %q", out, bad)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1536: "1.5K", 1 << 20: "1M", 500107862016: "465.8G"} {
		if got := size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

// A command that never looks at its context ends all the same, and the shell
// goes on with the next line.
func TestInterrupt(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var out, bad bytes.Buffer
	s := &script{lines: []string{"cat; echo never", "echo never"}, cancel: true}
	sh := &Shell{Box: Box{System: &fake{}, Root: "/"}, Dir: t.TempDir()}
	begun := time.Now()
	if err := sh.Run(t.Context(), s, r, &out, &bad); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if strings.Contains(out.String(), "never") || len(s.lines) != 0 || time.Since(begun) > time.Minute {
		t.Errorf("got %q, %q, left %q", out.String(), bad.String(), s.lines)
	}
}

func TestKeysTurnCtrlC(t *testing.T) {
	b, _ := io.ReadAll(keys{strings.NewReader("rm x\x03ls\r")})
	if string(b) != "rm x\x15ls\r" {
		t.Errorf("got %q", b)
	}
}

func TestOnTerminalWithoutOne(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	sh := &Shell{Box: Box{System: &fake{}, Root: "/"}, Dir: t.TempDir()}
	if err := OnTerminal(t.Context(), sh, r, 20*time.Millisecond); !errors.Is(err, ErrIdle) {
		// Nobody types: a reader that stays behind must not keep it.
		t.Errorf("got %v", err)
	}
	r.Close()
}

func TestOnce(t *testing.T) {
	f := &fake{}
	if err := Once(t.Context(), Box{System: f, Root: "/"}, []string{"reboot"}); err != nil || strings.Join(f.calls, "") != "end false" {
		t.Errorf("got %q, %v", f.calls, err)
	}
	if err := Once(t.Context(), Box{System: f, Root: "/"}, []string{"sudo"}); err == nil || !strings.Contains(err.Error(), `"sudo"`) {
		t.Errorf("got %v", err)
	}
}

func TestEveryCommandIsFresh(t *testing.T) {
	b := Box{System: &fake{}, Root: "/"}
	for _, e := range b.table() {
		one, _ := b.Command(e.name)
		two, ok := b.Command(e.name)
		if !ok || one == two {
			t.Errorf("%s is shared between calls", e.name)
		}
	}
}
