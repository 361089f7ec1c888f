package bench

import (
	"os"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	a := []usage{{wall: 2 * time.Second, size: 1}, {wall: 8 * time.Second, size: 3}, {wall: 4 * time.Second, size: 2}}
	if m := median(a); m.wall != 4*time.Second || m.size != 2 {
		t.Errorf("median %+v", m)
	}
	b := []usage{{wall: 4 * time.Second}, {wall: 8 * time.Second}, {wall: time.Second}}
	if r := ratios(a, b, wall); r != "1.00 (0.50 to 4.00)" {
		t.Errorf("ratios %s", r)
	}
	if s := a[0].plus(usage{wall: time.Second, memory: 5, size: 9}); s.wall != 3*time.Second || s.memory != 5 || s.size != 9 {
		t.Errorf("sum %+v", s)
	}
}

// The memory of a child's child counts, and so does its processor time.
func TestCommand(t *testing.T) {
	out := t.TempDir() + "/out"
	u, err := command{name: "sh", args: []string{"-c", `(x=$(head -c 30000000 /dev/zero | tr '\0' a); sleep 1; echo ${#x} > "$OUT"); true`}, env: []string{"OUT=" + out}, out: out}.run(t.Context())
	if err != nil || u.size != 9 || u.wall < time.Second || u.cpu <= 0 || u.memory < 25<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := (command{name: "sh", args: []string{"-c", "echo why >&2; exit 3"}}).run(t.Context()); err == nil {
		t.Error("a failure was measured")
	}
	if memoryBelow(os.Getpid()) < 1<<20 {
		t.Error("this process has no memory")
	}
}
