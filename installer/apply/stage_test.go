package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"joist/image/boot"
	"joist/installer/plan"
	"joist/installer/probe"
	"joist/internal/progress"
)

func TestStages(t *testing.T) {
	var got []string
	actions := []plan.Action{plan.Wipe{}, plan.Partition{}, plan.CreateLVM{VG: "g"}, plan.Mkfs{Device: "d", Type: "ext4"}, plan.Seed{},
		plan.WriteSlot{Slot: "A"}, plan.FormatESP{}, plan.Finish{}}
	for _, s := range stages(actions) {
		var lists []string
		for _, list := range s {
			var steps []string
			for _, act := range list {
				steps = append(steps, act.Step())
			}
			if len(steps) > 0 {
				lists = append(lists, strings.Join(steps, ", "))
			}
		}
		got = append(got, strings.Join(lists, " | "))
	}
	want := []string{"wipe ", "partition ", `create volume group "g", format d as ext4, write configuration | copy system image to slot A`,
		"write boot partition", "finish"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("stages:\n%s", strings.Join(got, "\n"))
	}
}

// TestStageFails: the failure of one list is what is told, and the other ends.
func TestStageFails(t *testing.T) {
	m, p := newMachine(t)
	m.fail = "vgcreate"
	// A medium that never ends: only the other list's failure ends the copy.
	file := m.Path(probe.MediumDir, "joist", p.Image.BuildID, boot.FileSystem)
	if err := errors.Join(os.Remove(file), os.Symlink("/dev/zero", file)); err != nil {
		t.Fatal(err)
	}
	var events []progress.Event
	a := &applier{h: m.Host, p: p}
	a.sink = func(e progress.Event) {
		a.mu.Lock()
		defer a.mu.Unlock()
		events = append(events, e)
	}
	if err := errors.Join(os.MkdirAll(m.Path(lvmDir), 0o755), a.open()); err != nil {
		t.Fatal(err)
	}
	defer a.close()
	var err error
	for _, s := range stages(p.Actions[1:]) { // without the check of the medium
		if err = a.stage(t.Context(), s); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), `create volume group "joist": scripted failure`) || strings.Contains(err.Error(), "another step") {
		t.Errorf("error: %v", err)
	}
	open := map[string]bool{}
	for _, e := range events {
		if e.State != progress.Running {
			open[e.Step] = e.State == progress.Started
		}
	}
	for step, is := range open {
		if is {
			t.Errorf("%s was begun and never ended", step)
		}
	}
}

func TestCancelled(t *testing.T) {
	m, p := newMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := Apply(ctx, m.Host, p, func(e progress.Event) {
		if strings.HasPrefix(e.Step, "partition") {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || len(m.script.Calls()) > 0 {
		t.Errorf("%v, ran %v", err, m.script.Calls())
	}
}

// target is a disk in memory that may fail.
type target struct {
	b    []byte
	fail int64 // offset from which nothing can be written, 0 for none
}

var errWorn = errors.New("worn out")

func (w *target) WriteAt(b []byte, off int64) (int, error) {
	if w.fail > 0 && off >= w.fail {
		return 0, errWorn
	}
	return copy(w.b[off:], b), nil
}

func TestPump(t *testing.T) {
	src := make([]byte, 3*bufferSize+12345)
	for i := range src {
		src[i] = byte(i >> 9)
	}
	sum := sha256.Sum256(src)
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(src), "halves": iotest.HalfReader(bytes.NewReader(src))} {
		w := &target{b: make([]byte, len(src))}
		last := int64(0)
		got, n, err := pump(t.Context(), r, w, func(n int64) { last = n })
		if err != nil || got != hex.EncodeToString(sum[:]) || n != int64(len(src)) || last != n || !bytes.Equal(w.b, src) {
			t.Errorf("%s: %d bytes, told %d: %v", name, n, last, err)
		}
	}
	broken := errors.New("scratched")
	if _, _, err := pump(t.Context(), io.MultiReader(bytes.NewReader(src), iotest.ErrReader(broken)), &target{b: make([]byte, len(src))}, func(int64) {}); !errors.Is(err, broken) {
		t.Error(err)
	}
	endless := zero{}
	if _, _, err := pump(t.Context(), endless, &target{b: make([]byte, 2*bufferSize), fail: bufferSize}, func(int64) {}); !errors.Is(err, errWorn) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, _, err := pump(ctx, endless, discard{}, func(int64) { cancel(errOther) }); !errors.Is(err, errOther) {
		t.Error(err)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { return len(p), nil }

type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func TestScript(t *testing.T) {
	for _, bad := range []string{"a b", "a\nb", "a#b", `a"b`, `a\b`, "", strings.Repeat("a", 256)} {
		if b, err := script([][]string{{"lvm", "vgs", bad}}); err == nil {
			t.Errorf("taken: %q", b)
		}
	}
}

// TestRelease deactivates what device-mapper says is there, and runs nothing
// when there is none.
func TestRelease(t *testing.T) {
	for name, want := range map[string]int{"": 0, "vg0-root": 0, "joist-state": 1} {
		m, p := newMachine(t)
		if name != "" {
			m.write(t, "/sys/block/dm-0/dm/name", []byte(name+"\n"))
		}
		a := &applier{h: m.Host, p: p}
		if err := a.release(t.Context(), plan.Release{}); err != nil || len(m.script.Calls()) != want {
			t.Errorf("%q: ran %v (%v)", name, m.script.Calls(), err)
		}
	}
}
