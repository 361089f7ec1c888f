package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"joist/api/client"
)

// pids are all processes of a guest, as its cgroup has them.
func (g guestOf) pids(t testing.TB) []string {
	t.Helper()
	out := g.n.lines(t, fmt.Sprintf("shopt -s globstar nullglob; cat %s/**/cgroup.procs | sort -n", g.cgroup()))
	return slices.Compact(out)
}

// killDaemon: guests do not notice, and within 15 seconds the API is back and
// knows them.
func (s *spine) killDaemon(t *testing.T) {
	machine, container := s.both(t)
	qemu := machine.status(t).PID
	inside := container.pids(t)[0] // the first process: others come and go
	daemon := s.n.process(t, daemonCommand).pid
	at := s.n.kill(t, daemon)
	ctx := within(t, 2*time.Minute)
	for s.n.answers(ctx) != nil {
		if ctx.Err() != nil {
			t.Fatal("the API did not come back")
		}
		time.Sleep(200 * time.Millisecond)
	}
	took := time.Since(at)
	t.Logf("the API was back after %s", took.Round(100*time.Millisecond))
	if took > 15*time.Second {
		t.Errorf("the API was back after %s, want 15 s", took)
	}
	if now := s.n.process(t, daemonCommand).pid; now == daemon {
		t.Error("the daemon was not killed")
	}
	if st := machine.wantStatus(t, "running"); st.PID != qemu || st.Accel != "kvm" {
		t.Errorf("the machine is %+v, want pid %d under kvm", st, qemu)
	}
	container.wantStatus(t, "running")
	if p := s.n.process(t, qemuCommand); p.pid != qemu {
		t.Errorf("QEMU is %d, was %d", p.pid, qemu)
	}
	if !slices.Contains(container.pids(t), inside) {
		t.Errorf("process %s of the container is gone", inside)
	}
	container.typeInto(t, rootInside).run(t, time.Minute, "true")
}

// TestStartKilled: the daemon is killed while it starts a machine, at any
// moment of it. Afterwards the machine runs once or not at all, as its status
// says, and can be started and stopped.
func TestStartKilled(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	g := guestOf{n: n, kind: "qemu", id: 100}.create(t, client.Params{"memory": "64", "scsi0": "local-lvm:1", "virtio0": "local-lvm:1", "net0": vmHardware})
	begun := time.Now()
	g.start(t)
	whole := time.Since(begun)
	g.stop(t)
	const moments = 10
	for i := range moments {
		after := whole * time.Duration(i) / (moments - 1)
		t.Run(fmt.Sprintf("after %d of %d", i, moments-1), func(t *testing.T) {
			daemon := n.process(t, daemonCommand).pid
			if err := n.API.Post(within(t, time.Minute), g.path()+"/status/start", nil, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			n.kill(t, daemon)
			var st guestStatus
			n.until(t, "the daemon is back and has done with it", func(ctx context.Context) error {
				st = guestStatus{}
				err := n.API.Get(ctx, g.path()+"/status/current", nil, &st)
				if err == nil && st.Lock != "" {
					err = fmt.Errorf("it is locked: %+v", st)
				}
				return err
			})
			want := map[string]int{"running": 1, "stopped": 0}
			if got := n.processes(t, qemuCommand); len(got) != want[st.Status] {
				t.Errorf("it is %s, processes are %+v", st.Status, got)
			}
			t.Logf("killed after %s: %s", after.Round(time.Millisecond), st.Status)
			if st.Status == "stopped" {
				g.start(t)
			}
			if got := n.processes(t, qemuCommand); len(got) != 1 || got[0].pid != g.wantStatus(t, "running").PID {
				t.Errorf("it runs as %+v", got)
			}
			g.stop(t)
			if got := n.processes(t, qemuCommand); len(got) != 0 {
				t.Errorf("it is stopped and runs as %+v", got)
			}
		})
	}
}

// seenWithin is how soon a death must be told.
const seenWithin = 2 * time.Second

// killQEMU: the end is seen and told, nothing stays, and the machine starts
// again, once.
func (s *spine) killQEMU(t *testing.T) {
	g := s.machine(t)
	at := s.n.kill(t, g.status(t).PID)
	if st := g.awaitStatus(t, "stopped", at, seenWithin); st.Exit == "" || st.PID != 0 {
		t.Errorf("status %+v, want it to say how QEMU ended", st)
	}
	if left := g.pids(t); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	g.start(t)
	if st := g.wantStatus(t, "running"); st.Exit != "" {
		t.Errorf("a running machine says how it ended: %+v", st)
	}
	s.n.process(t, qemuCommand)
}

// monitors are the processes that look after the container, not those that
// hold its terminals when they are gone.
func (g guestOf) monitors(t testing.TB) []string {
	t.Helper()
	return g.n.lines(t, fmt.Sprintf("cat /sys/fs/cgroup/system/lxc-%d/cgroup.procs 2>/dev/null; true", g.id))
}

// killMonitor: the container goes on without its monitor, and the status is
// what the kernel says.
func (s *spine) killMonitor(t *testing.T) {
	g := s.container(t)
	killed := g.monitors(t)
	if len(killed) == 0 {
		t.Fatal("there is no monitor")
	}
	before := g.pids(t)
	s.n.run(t, "kill -9 "+strings.Join(killed, " "))
	time.Sleep(seenWithin)
	alive := slices.DeleteFunc(g.pids(t), func(pid string) bool { return slices.Contains(killed, pid) })
	if len(alive) == 0 {
		t.Errorf("the container went down with its monitor; it had %v", before)
	}
	want := "stopped"
	if len(alive) > 0 {
		want = "running"
	}
	g.wantStatus(t, want)
	if want == "running" {
		g.typeInto(t, rootInside).run(t, time.Minute, "true")
	}
	g.stop(t)
	g.awaitStatus(t, "stopped", time.Now(), seenWithin)
	if left := g.pids(t); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	g.start(t)
	g.wantStatus(t, "running")
	if len(g.monitors(t)) == 0 {
		t.Error("the container was started without a monitor")
	}
}
