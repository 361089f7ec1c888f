package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// Times that things may take on a software CPU; on a real one they are a
// tenth.
const (
	taskTime    = 3 * time.Minute  // a task that moves little
	createTime  = 8 * time.Minute  // one that unpacks a template
	consoleTime = 6 * time.Minute  // a guest's boot up to its log-in
	packageTime = 15 * time.Minute // apt-get inside of a container
)

// guestOf is a guest of the node.
type guestOf struct {
	n    *runningNode // who is asked
	kind string       // "qemu" or "lxc"
	id   int
	on   string // the node that runs it, "" for n
}

// through is the same guest, with another node asked.
func (g guestOf) through(n *runningNode) guestOf {
	g.on, g.n = cmp.Or(g.on, g.n.Name), n
	return g
}

func (g guestOf) path() string {
	return fmt.Sprintf("/nodes/%s/%s/%d", cmp.Or(g.on, g.n.Name), g.kind, g.id)
}

func (g guestOf) cgroup() string { return fmt.Sprintf("/sys/fs/cgroup/guests/%d", g.id) }

// guestStatus is status/current.
type guestStatus struct {
	Status string `json:"status"`
	QMP    string `json:"qmpstatus"`
	Accel  string `json:"accel"`
	PID    int    `json:"pid"`
	Exit   string `json:"exit"`
	Lock   string `json:"lock"`
}

func (g guestOf) status(t testing.TB) guestStatus {
	t.Helper()
	var s guestStatus
	if err := g.n.API.Get(within(t, time.Minute), g.path()+"/status/current", nil, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (g guestOf) wantStatus(t testing.TB, want string) guestStatus {
	t.Helper()
	s := g.status(t)
	if s.Status != want {
		t.Errorf("%s is %q, want %q: %+v", g.path(), s.Status, want, s)
	}
	return s
}

// awaitStatus waits for a status and says how long after since it was seen.
func (g guestOf) awaitStatus(t testing.TB, want string, since time.Time, most time.Duration) guestStatus {
	t.Helper()
	for {
		s := g.status(t)
		after := time.Since(since).Round(10 * time.Millisecond)
		if s.Status == want {
			t.Logf("%s is %q after %s", g.path(), want, after)
			if after > most {
				t.Errorf("%s: seen after %s, want %s", g.path(), after, most)
			}
			return s
		}
		if after > most+time.Minute {
			t.Fatalf("%s is still %q after %s, want %q", g.path(), s.Status, after, want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (g guestOf) config(t testing.TB) map[string]any {
	t.Helper()
	c := map[string]any{}
	if err := g.n.API.Get(within(t, time.Minute), g.path()+"/config", nil, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// text is one value of the configuration.
func (g guestOf) text(t testing.TB, key string) string {
	t.Helper()
	s, _ := g.config(t)[key].(string)
	return s
}

// option is one "key=value" of a value such as "virtio=…,bridge=vmbr0".
func option(value, key string) string {
	for part := range strings.SplitSeq(value, ",") {
		if k, v, _ := strings.Cut(part, "="); k == key {
			return v
		}
	}
	return ""
}

func (g guestOf) create(t testing.TB, p client.Params) guestOf {
	t.Helper()
	p["vmid"] = fmt.Sprint(g.id)
	g.n.task(t, createTime, http.MethodPost, fmt.Sprintf("/nodes/%s/%s", g.n.Name, g.kind), p)
	return g
}

func (g guestOf) set(t testing.TB, p client.Params) {
	t.Helper()
	if err := g.n.API.Put(within(t, taskTime), g.path()+"/config", p, nil); err != nil {
		t.Fatal(err)
	}
}

func (g guestOf) start(t testing.TB) {
	t.Helper()
	g.n.task(t, taskTime, http.MethodPost, g.path()+"/status/start", nil)
}

func (g guestOf) stop(t testing.TB) {
	t.Helper()
	g.n.task(t, taskTime, http.MethodPost, g.path()+"/status/stop", nil)
}

func (g guestOf) destroy(t testing.TB) {
	t.Helper()
	g.n.task(t, taskTime, http.MethodDelete, g.path(), client.Params{"purge": "1"})
}

// task makes a request and waits for the end of its task.
func (n *runningNode) task(t testing.TB, most time.Duration, method, path string, p client.Params) {
	t.Helper()
	if err := n.API.Task(within(t, most), method, path, p); err != nil {
		t.Fatal(err)
	}
}

// guests lists the VMIDs of a kind.
func (n *runningNode) guests(t testing.TB, kind string) []int {
	t.Helper()
	var rows []struct {
		VMID int `json:"vmid"`
	}
	if err := n.API.Get(within(t, time.Minute), "/nodes/"+n.Name+"/"+kind, nil, &rows); err != nil {
		t.Fatal(err)
	}
	out := []int{}
	for _, r := range rows {
		out = append(out, r.VMID)
	}
	return out
}

// volume is a row of a storage's content.
type volume struct {
	ID      string `json:"volid"`
	Content string `json:"content"`
	Size    int64  `json:"size"`
}

// content lists what a storage holds.
func (n *runningNode) content(t testing.TB, storage string) []volume {
	t.Helper()
	out := []volume{}
	path := "/nodes/" + n.Name + "/storage/" + storage + "/content"
	if err := n.API.Get(within(t, time.Minute), path, nil, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// refused wants the node itself to have said no, in words that match.
func refused(t testing.TB, err error, words string) {
	t.Helper()
	var e *client.Error
	var failed *client.TaskError
	switch {
	case errors.As(err, &e), errors.As(err, &failed):
		if !strings.Contains(strings.ToLower(err.Error()), words) {
			t.Errorf("refused with %q, want it to say %q", err, words)
		}
	default:
		t.Errorf("got %v, want the node to refuse and say %q", err, words)
	}
}

// answers reports whether the API answers at once.
func (n *runningNode) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return n.API.Get(ctx, "/nodes", nil, nil)
}

// TestEmulation: on a CPU without virtualisation a machine runs all the same,
// by software, and its status says so.
func TestEmulation(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(c *vm.Config, _ *lan.Switch) { c.CPUFlags = []string{"-svm", "-vmx", "-la57"} })
	g := guestOf{n: n, kind: "qemu", id: 100}.create(t, client.Params{"memory": "64", "virtio0": "local-lvm:1", "net0": vmHardware})
	g.start(t)
	if st := g.wantStatus(t, "running"); st.Accel != "tcg" {
		t.Errorf("it runs by %q", st.Accel)
	}
	g.wantScreen(t, 2, "screen")
	g.stop(t)
}
