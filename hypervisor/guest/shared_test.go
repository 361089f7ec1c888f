package guest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func sleeper(t *testing.T) (*exec.Cmd, Process) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p, err := FindProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, p
}

func TestProcess(t *testing.T) {
	cmd, p := sleeper(t)
	if !p.Alive() {
		t.Fatal("a running process is not alive")
	}
	if (Process{PID: p.PID, Start: p.Start + 1}).Alive() {
		t.Fatal("another process of the same pid is taken for ours")
	}
	cmd.Process.Kill()
	for range 100 {
		if !p.Alive() {
			break // though nobody has waited for it: a zombie
		}
		time.Sleep(10 * time.Millisecond)
	}
	if p.Alive() {
		t.Fatal("a zombie counts as alive")
	}
}

func TestWatch(t *testing.T) {
	cmd, p := sleeper(t)
	done, _, err := Watch(p)
	if err != nil {
		t.Fatal(err)
	}
	stopped, stop, err := Watch(p)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	select {
	case <-done:
		t.Fatal("done too early")
	case <-time.After(50 * time.Millisecond):
	}
	cmd.Process.Kill()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Fatal("end not seen within 2 s")
	}
	select {
	case <-stopped:
		t.Fatal("a stopped watch reported")
	default:
	}
	cmd.Wait()
	gone, _, err := Watch(p)
	if err != nil {
		t.Fatal(err)
	}
	<-gone
}

func TestRecords(t *testing.T) {
	r := Runs{filepath.Join(t.TempDir(), "guests")}
	if l, err := r.List(); err != nil || len(l) != 0 {
		t.Fatal(l, err)
	}
	rec := Record{VMID: 100, Kind: KVM, State: Starting, Hash: Spec{VMID: 100}.Hash(), UID: 200000, Created: time.Now().UTC().Round(0)}
	if err := os.MkdirAll(filepath.Join(r.Dir, ".100.new", "left"), 0o700); err != nil { // of a daemon that died here
		t.Fatal(err)
	}
	if err := r.Create(rec); err != nil {
		t.Fatal(err)
	}
	if err := r.Create(rec); err == nil {
		t.Fatal("the folder was made twice")
	}
	if err := r.Update(100, func(r *Record) { r.State = Running }); err != nil {
		t.Fatal(err)
	}
	rec.State = Running
	if l, err := r.List(); err != nil || len(l) != 1 || !reflect.DeepEqual(l[0], rec) {
		t.Fatal(l, err)
	}
	if err := r.Remove(100); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(100); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestLocks(t *testing.T) {
	r := Runs{t.TempDir()}
	var inside, entered atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				l, err := r.Lock(t.Context(), 100)
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two at once")
				}
				entered.Add(1)
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				l.Unlock()
			}
		})
	}
	wg.Wait()
	if entered.Load() != 40 {
		t.Error(entered.Load())
	}
	l, err := r.TryLock(100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.TryLock(100); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := r.Lock(ctx, 100); !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	l.Unlock()
	l.Unlock()
	for _, name := range []string{"all.lock", "100.lock", ".101.new"} { // of a daemon that was killed
		if err := os.WriteFile(filepath.Join(r.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.Sweep()
	if left, _ := os.ReadDir(r.Dir); len(left) != 0 {
		t.Errorf("stays behind: %v", left)
	}
}

// groups returns a place for groups: on the machine's own cgroup v2 tree when
// there is one that we may write to, else a plain folder.
func groups(t *testing.T, plain bool) Groups {
	if !plain {
		for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			if !onCgroup2(root) {
				continue
			}
			dir, err := os.MkdirTemp(root, "joist-test-")
			if err != nil {
				continue
			}
			t.Cleanup(func() { Group{dir}.Kill(time.Second); Group{dir}.Remove() })
			return Groups{dir}
		}
		t.Skip("no writable cgroup v2 tree here")
	}
	return Groups{t.TempDir()}
}

func TestGroups(t *testing.T) {
	for _, plain := range []bool{true, false} {
		t.Run(map[bool]string{true: "folder", false: "kernel"}[plain], func(t *testing.T) {
			gs := groups(t, plain)
			g, missing, err := gs.Create(100, Limits{Memory: 64 << 20, CPUs: 0.5, Weight: 100})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("not offered here: %v", missing)
			if ids, err := gs.List(); err != nil || !slices.Equal(ids, []int{100}) {
				t.Fatal(ids, err)
			}
			if g.Populated() {
				t.Fatal("populated while empty")
			}
			cmd, p := sleeper(t)
			if err := g.Add(p.PID); err != nil {
				t.Fatal(err)
			}
			if !g.Populated() || !slices.Equal(g.PIDs(), []int{p.PID}) {
				t.Fatal(g.PIDs())
			}
			reaped := make(chan struct{})
			go func() { cmd.Wait(); close(reaped) }()
			if err := g.Kill(5 * time.Second); err != nil {
				t.Fatal(err)
			}
			<-reaped
			if p.Alive() {
				t.Error("still alive")
			}
			if err := g.Remove(); err != nil || g.Exists() {
				t.Fatal(err)
			}
			if err := g.Remove(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
