package sandbox

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"joist/internal/run"
)

// init keeps main on the first thread (package runtime, LockOSThread), so that
// TestMain knows of another.
func init() { runtime.LockOSThread() }

// TestMain has the sandbox entered on a thread that is not the first, as
// happens to any program of Go now and then.
func TestMain(m *testing.M) {
	entered := make(chan struct{})
	go func() {
		defer close(entered)
		Main()
	}()
	<-entered
	runtime.UnlockOSThread()
	if os.Getenv("SANDBOX_TEST_PROBE") != "" {
		os.Exit(probe())
	}
	os.Exit(m.Run())
}

// tree makes a root folder with the machine's own shell, cat and the like in
// it, or skips the test on a machine where they cannot be copied.
func tree(t *testing.T) Sandbox {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(root); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"sh", "cat", "id", "ls", "sleep", "touch", "stat"} {
		at, err := exec.LookPath(p)
		if err != nil {
			t.Skipf("no %s here", p)
		}
		copyProgram(t, root, at, filepath.Join("/usr/bin", p))
	}
	s := Sandbox{Root: root}
	if _, err := s.Run(t.Context(), run.Cmd{Path: "/usr/bin/sh", Args: []string{"-c", ":"}}); errors.Is(err, ErrNoNamespaces) && os.Getenv("JOIST_NEED_TOOLS") == "" {
		t.Skip(err)
	}
	return s
}

// copyProgram copies a program and what it is linked with.
func copyProgram(t *testing.T, root, from, to string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, to)); err == nil {
		return
	}
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Join(root, to)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, to), b, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(from)
	if err != nil {
		t.Skipf("%s is no ELF program", from)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			if err != nil {
				t.Fatal(err)
			}
			l := strings.TrimRight(string(name), "\x00")
			copyProgram(t, root, l, l)
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libs {
		found := false
		for _, d := range []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"} {
			if _, err := os.Stat(filepath.Join(d, l)); err == nil {
				copyProgram(t, root, filepath.Join(d, l), filepath.Join(d, l))
				found = true
				break
			}
		}
		if !found {
			t.Skipf("library %s is in no usual place", l)
		}
	}
}

func TestRun(t *testing.T) {
	s := tree(t)
	defer syscall.Umask(syscall.Umask(0o077)) // of the person who builds
	in, out := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(in, "f"), []byte("from outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	s = s.With(Bind{Host: in, Inside: "/host/in", ReadOnly: true}, Bind{Host: out, Inside: "/host/out"}, Bind{Host: filepath.Join(in, "f"), Inside: "/host/one/file", ReadOnly: true})
	for _, c := range []struct {
		name, script, stdin, want string
		exit                      int
	}{
		{name: "only uid 0", script: `id -u; cat /proc/self/uid_map`, want: fmt.Sprintf("0\n         0 %10d          1\n", os.Getuid())},
		{name: "first process", script: `echo $$`, want: "1\n"},
		{name: "read-only tree", script: `touch /x 2>/dev/null || touch /usr/bin/x 2>/dev/null || echo refused`, want: "refused\n"},
		{name: "tmp is writable", script: `echo x >/tmp/x && cat /tmp/x`, want: "x\n"},
		{name: "bind in", script: `cat /host/in/f /host/one/file; touch /host/in/x 2>/dev/null || echo " refused"`, want: "from outsidefrom outside refused\n"},
		{name: "bind out", script: `echo result >/host/out/r`},
		{name: "nothing else of the machine", script: `ls -A /host /; ls -d /etc /root /home 2>/dev/null || :`, want: "/host: in one out"},
		{name: "devices", script: `echo x >/dev/null; ls -A /dev; cat /dev/stdin`, stdin: "in", want: "fd full null random stderr stdin stdout urandom zero in"},
		{name: "exit status", script: `exit 7`, exit: 7},
		{name: "killed", script: `kill -9 $$; kill -15 $$; exit 3`, exit: 3}, // the first process of a PID namespace is spared by itself
		{name: "modes of Debian", script: `umask; : >/tmp/x; stat -c %a /tmp /var/tmp /run /host /tmp/x`, want: "0022 1777 1777 755 755 644"},
		{name: "stdin", script: `cat`, stdin: "typed", want: "typed"},
		{name: "folder and environment", script: `echo $PWD $A`, want: "/host/out 1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := run.Cmd{Path: "sh", Args: []string{"-c", c.script}, Stdin: strings.NewReader(c.stdin)}
			if strings.HasPrefix(c.name, "folder") {
				cmd.Dir, cmd.Env = "/host/out", []string{"A=1"}
			}
			got, err := s.Run(t.Context(), cmd)
			if (err != nil) != (c.exit != 0) || err != nil && run.ExitCode(err) != c.exit {
				t.Fatalf("exit status %d, want %d: %v", run.ExitCode(err), c.exit, err)
			}
			if words := strings.Join(strings.Fields(string(got)), " "); string(got) != c.want && !strings.Contains(words, c.want) {
				t.Errorf("says %q, want %q", got, c.want)
			}
			if strings.HasPrefix(c.name, "nothing") && (strings.Contains(string(got), "/root") || strings.Contains(string(got), "/etc") || strings.Contains(string(got), "/home")) {
				t.Errorf("the machine's folders are seen:\n%s", got)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(out, "r")); err != nil || string(b) != "result\n" {
		t.Errorf("what was written below /host/out is %q, %v", b, err)
	}
	if l, err := os.ReadDir(filepath.Join(s.Root, "host")); err != nil || len(l) != 0 {
		t.Errorf("mount points stay in the tree: %v, %v", l, err)
	}
}

func TestCheck(t *testing.T) {
	tree(t) // or no namespaces here
	if err := Check(t.Context(), t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestRunWritableAndFiles(t *testing.T) {
	s := tree(t)
	s.Writable = true
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The caller's first file is descriptor 3, and the order is gone.
	out, err := s.Run(t.Context(), run.Cmd{Path: "/usr/bin/sh", Args: []string{"-c", "echo new >/kept; cd /proc/self/fd; for i in 3 4 5 6 7 8 9 251; do [ ! -e $i ] || echo $i; done"}, Files: []*os.File{f}})
	if err != nil || string(out) != "3\n" {
		t.Errorf("descriptors are %q, %v", out, err)
	}
	if b, err := os.ReadFile(filepath.Join(s.Root, "kept")); err != nil || string(b) != "new\n" {
		t.Errorf("the writable tree has %q, %v", b, err)
	}
}

func TestRunRefuses(t *testing.T) {
	s := tree(t)
	for _, b := range []Bind{{Host: "/tmp", Inside: "/tmp"}, {Host: "/tmp", Inside: "/host/../etc"}, {Host: "tmp", Inside: "/host/x"}, {Host: "/tmp", Inside: "/host/"}} {
		if _, err := s.With(b).Run(t.Context(), run.Cmd{Path: "sh"}); err == nil {
			t.Errorf("bind %+v was taken", b)
		}
	}
	_, err := s.Run(t.Context(), run.Cmd{Path: "absent"})
	if run.ExitCode(err) != exitFailed || !strings.Contains(err.Error(), "start /usr/sbin/absent: no such file") {
		t.Errorf("a program that is not there: %v", err)
	}
	_, err = Sandbox{Root: filepath.Join(s.Root, "absent")}.Run(t.Context(), run.Cmd{Path: "sh"})
	if run.ExitCode(err) != exitFailed || !strings.Contains(err.Error(), "enter the sandbox: mount") {
		t.Errorf("a tree that is not there: %v", err)
	}
	// An order larger than a pipe for a process that never reads it.
	_, err = s.With(Bind{Host: "/absent", Inside: "/host/x"}).Run(t.Context(), run.Cmd{Path: "sh", Args: []string{"-c", ":", strings.Repeat("x", 1<<20)}})
	if err == nil {
		t.Error("a bind of nothing was taken")
	}
}

// Cancelling ends every process of the sandbox, those in the background too.
func TestRunCancel(t *testing.T) {
	s := tree(t)
	out := t.TempDir()
	s = s.With(Bind{Host: out, Inside: "/host/out"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(out, "ready")); err == nil {
				cancel()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	begin := time.Now()
	_, err := s.Run(ctx, run.Cmd{Path: "sh", Args: []string{"-c", "sleep 61.25 & sleep 61.25 & touch /host/out/ready; wait"}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("it took %v to end", d)
	}
	if n := sleepers(t, "61.25"); n != 0 {
		t.Errorf("%d processes are left", n)
	}
}

// sleepers counts processes that sleep for so many seconds; it waits a little
// for those that are on their way out.
func sleepers(t *testing.T, seconds string) int {
	t.Helper()
	n := 0
	for range 100 {
		n = 0
		list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range list {
			if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), "sleep\x00"+seconds) {
				n++
			}
		}
		if n == 0 {
			return 0
		}
		time.Sleep(20 * time.Millisecond)
	}
	return n
}

// A builder that is killed takes its sandbox with it.
func TestParentKilled(t *testing.T) {
	s := tree(t)
	out := t.TempDir()
	x := exec.Command("/proc/self/exe")
	x.Env = append(os.Environ(), "SANDBOX_TEST_PROBE=sleep", "SANDBOX_TEST_ROOT="+s.Root, "SANDBOX_TEST_OUT="+out)
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if _, err := os.Stat(filepath.Join(out, "ready")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	x.Process.Kill()
	x.Wait()
	if _, err := os.Stat(filepath.Join(out, "ready")); errors.Is(err, fs.ErrNotExist) {
		t.Fatal("the sandbox never began")
	}
	if n := sleepers(t, "62.25"); n != 0 {
		t.Errorf("%d processes are left", n)
	}
}

// A machine without user namespaces is told from a broken program. The test
// makes such a machine of a user namespace of its own, whose limit it sets
// to 0 (namespaces(7), /proc/sys/user).
func TestNoNamespaces(t *testing.T) {
	s := tree(t)
	x := exec.Command("/proc/self/exe")
	x.Env = append(os.Environ(), "SANDBOX_TEST_PROBE=limit", "SANDBOX_TEST_ROOT="+s.Root)
	x.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := x.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// Under AppArmor's restriction clone works and the first mount does not.
	st := &os.ProcessState{}
	if err := explain(errors.New("exit"), st); errors.Is(err, ErrNoNamespaces) {
		t.Error("status 0 was taken for missing rights")
	}
}

// probe is what the test program does in a process of its own.
func probe() int {
	s := Sandbox{Root: os.Getenv("SANDBOX_TEST_ROOT")}
	switch os.Getenv("SANDBOX_TEST_PROBE") {
	case "limit":
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			fmt.Println("set the limit:", err)
			return 1
		}
		_, err := s.Run(context.Background(), run.Cmd{Path: "sh", Args: []string{"-c", ":"}})
		if !errors.Is(err, ErrNoNamespaces) || !strings.Contains(err.Error(), "sysctl") {
			fmt.Println("the error does not say it:", err)
			return 1
		}
		dir, err := os.MkdirTemp("", "check")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := Check(context.Background(), dir); !errors.Is(err, ErrNoNamespaces) {
			fmt.Println("Check says", err)
			return 1
		}
	case "sleep":
		s = s.With(Bind{Host: os.Getenv("SANDBOX_TEST_OUT"), Inside: "/host/out"})
		s.Run(context.Background(), run.Cmd{Path: "sh", Args: []string{"-c", "sleep 62.25 & touch /host/out/ready; sleep 62.25"}})
	}
	return 0
}
