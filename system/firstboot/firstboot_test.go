package firstboot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/api/node"
	"joist/internal/run"
)

// Every state of every step, with every kind of program: whatever is seen, the
// table ends, runs a program at most once, and not before its moment.
func TestTable(t *testing.T) {
	names := observed()
	for mask := range 1 << len(names) {
		for _, request := range []*node.FirstBootRequest{nil, {Ordering: node.OrderingBefore}, {Ordering: node.OrderingNetwork}, {Ordering: node.OrderingUp}} {
			for _, cut := range []bool{false, true} {
				f := Facts{Seen: map[string]Seen{}, Request: request}
				for i, n := range names {
					if mask&(1<<i) != 0 {
						f.Seen[n] = Seen{Waits: "for it"}
					}
				}
				network := f.Seen[Network].Waits == ""
				j, runs := New(1), 0
				for step := range 6 {
					next, act := Next(j, f, int64(step))
					j = next
					if act == RunProgram {
						before := request.Ordering == node.OrderingBefore
						if runs++; request.Ordering == node.OrderingUp && mask != 0 && step == 0 || !network && !before || before && step > 0 {
							t.Fatalf("mask %b: the program of %q runs", mask, request.Ordering)
						}
						if j = Began(j, 5); !cut {
							j = Ran(j, nil, 6)
						}
					}
					if act == EraseAll {
						j = Erased(j, 7)
					}
					if step == 2 { // in the end all is there
						f.Seen, network = map[string]Seen{}, true
					}
				}
				want := 0
				if request != nil {
					want = 1
				}
				failed := state(j, Program) == Failed
				if j.Ended == 0 || runs != want || failed != (cut && request != nil) {
					t.Fatalf("mask %b, %+v, cut %v: %d runs, %+v", mask, request, cut, runs, j)
				}
				if _, act := Next(j, Facts{}, 9); act != Nothing {
					t.Fatalf("after the end: %s", act)
				}
			}
		}
	}
}

// A join that came to nothing is shown, and the rest goes on.
func TestFailedStep(t *testing.T) {
	f := Facts{Seen: map[string]Seen{Cluster: {Waits: "no token", Failed: true}}, Request: &node.FirstBootRequest{Ordering: node.OrderingUp}}
	j, act := Next(New(1), f, 2)
	if act != RunProgram || state(j, Cluster) != Failed {
		t.Errorf("%s %+v", act, j)
	}
}

// rig is a node in a folder.
type rig struct {
	Boot
	said []string
	look map[string]Seen
	text string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{look: map[string]Seen{}, text: "#!/bin/sh\necho hello; echo there >&2\n"}
	r.Boot = Boot{Root: t.TempDir(), Run: run.OS{}, Now: time.Now, Every: time.Millisecond, Say: func(l string) { r.said = append(r.said, l) },
		Look:  func(_ context.Context, step string) Seen { return r.look[step] },
		Fetch: func(context.Context, node.FirstBootRequest) ([]byte, error) { return []byte(r.text), nil }}
	for _, name := range []string{node.HostIDFile, node.TLSDir + "/node.crt", node.TLSDir + "/node.key"} {
		r.write(t, name, "x")
	}
	r.write(t, node.ConfigFile, `{"installation_id": "0011223344556677"}`)
	r.write(t, node.FirstBootFile, `{"url": "https://example.com/secret", "ordering": "fully-up"}`)
	return r
}

func (r *rig) write(t *testing.T, name, text string) {
	t.Helper()
	name = r.path(name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) has(name string) bool {
	_, err := os.Stat(r.path(name))
	return err == nil
}

func (r *rig) carry(t *testing.T) node.FirstBoot {
	t.Helper()
	if err := r.Carry(t.Context()); err != nil {
		t.Fatal(err)
	}
	j, err := Load(r.Root)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestCarry(t *testing.T) {
	r := newRig(t)
	if Over(r.Root) {
		t.Error("over before it began")
	}
	j := r.carry(t)
	if !Over(r.Root) || j.Program == nil || j.Program.Error != "" || r.has(node.FirstBootFile) || r.has(node.ProgramFile) {
		t.Errorf("%+v", j)
	}
	said := strings.Join(r.said, "\n")
	if !strings.Contains(said, "program: hello") || !strings.Contains(said, "program: there") || strings.Contains(said, "secret\"") {
		t.Errorf("%s", said)
	}
	r.said = nil
	if r.carry(t); len(r.said) > 0 {
		t.Errorf("the second start: %q", r.said)
	}
	// installed over, with the data kept
	r.write(t, node.ConfigFile, `{"installation_id": "8899aabbccddeeff"}`)
	if Over(r.Root) {
		t.Error("another installation's first start is over")
	}
	if j := r.carry(t); !Over(r.Root) || j.Program != nil {
		t.Errorf("%+v", j)
	}
}

// A program that the installer left is run where it lies, before there is a
// network, which waits for it and for nothing that cannot be read.
func TestBeforeNetwork(t *testing.T) {
	r := newRig(t)
	if HoldsNetwork(r.Root) {
		t.Error("a program that is fetched later holds the network")
	}
	r.write(t, node.FirstBootFile, `{"ordering": "before-network"}`)
	r.write(t, node.ProgramFile, "#!/bin/sh\necho early\n")
	if err := os.Chmod(r.path(node.ProgramFile), 0o700); err != nil {
		t.Fatal(err)
	}
	r.Fetch = func(context.Context, node.FirstBootRequest) ([]byte, error) { return nil, errors.New("fetched") }
	up := false
	r.look[Network] = Seen{Waits: "for an address"}
	look := r.Look
	r.Look = func(ctx context.Context, step string) Seen {
		if step == Network && !HoldsNetwork(r.Root) {
			up = true
			return Seen{}
		}
		return look(ctx, step)
	}
	if !HoldsNetwork(r.Root) {
		t.Error("the network does not wait")
	}
	if j := r.carry(t); j.Program == nil || j.Program.Error != "" || !up || HoldsNetwork(r.Root) || r.has(node.ProgramFile) {
		t.Errorf("up %v, %+v", up, j)
	}
	if said := strings.Join(r.said, "\n"); !strings.Contains(said, "program: early") || strings.Index(said, "program: done") > strings.Index(said, "network: done") {
		t.Error(said)
	}
	// of another installation: its first start has not begun
	r.write(t, node.FirstBootFile, `{"ordering": "before-network"}`)
	if HoldsNetwork(r.Root) {
		t.Error("what was done is waited for")
	}
	r.write(t, node.ConfigFile, `{"installation_id": "8899aabbccddeeff"}`)
	if !HoldsNetwork(r.Root) {
		t.Error("another installation's network does not wait")
	}
	for _, broken := range []string{node.FirstBootState, node.FirstBootFile, node.ConfigFile} {
		r.write(t, broken, "{")
		if HoldsNetwork(r.Root) {
			t.Errorf("a damaged %s keeps the node off the network", broken)
		}
	}
}

func TestProgramFails(t *testing.T) {
	r := newRig(t)
	r.text = "#!/bin/sh\ni=0; while [ $i -lt 9000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; exit 3\n"
	j := r.carry(t)
	if !strings.Contains(j.Program.Error, "status 3") || !r.has(node.ProgramFile) || r.has(node.FirstBootFile) || !Over(r.Root) {
		t.Errorf("%+v", j)
	}
	size := 0
	for _, l := range r.said {
		size += len(l)
	}
	if size > 400<<10 || !strings.Contains(strings.Join(r.said, "\n"), "more lines were not kept") {
		t.Errorf("%d bytes of output", size)
	}
	if err := Settle(r.Root, time.Unix(9, 0)); err != nil || r.has(node.ProgramFile) {
		t.Error(err)
	}
	if j, err := Load(r.Root); err != nil || state(j, Program) != Done {
		t.Errorf("%+v %v", j, err)
	}
}

// The journal says that the program runs before it does.
func TestProgramCut(t *testing.T) {
	r := newRig(t)
	ctx, cut := context.WithCancel(t.Context())
	r.text = "#!/bin/sh\nexec sleep 60\n"
	fetch := r.Fetch
	r.Fetch = func(ctx context.Context, q node.FirstBootRequest) ([]byte, error) {
		time.AfterFunc(50*time.Millisecond, cut)
		return fetch(ctx, q)
	}
	if err := r.Carry(ctx); err != nil {
		t.Fatal(err)
	}
	if err := Settle(r.Root, time.Now()); err == nil {
		t.Error("settled before the end")
	}
	r.Fetch = func(context.Context, node.FirstBootRequest) ([]byte, error) {
		return nil, errors.New("it is fetched again")
	}
	j := r.carry(t)
	if !strings.Contains(j.Program.Error, "not run again") || j.Ended == 0 {
		t.Errorf("%+v", j)
	}
}

// Neither the address nor one that a server leads to is said, only the host.
func TestFetchSaysNoAddress(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	var to string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}))
	defer s.Close()
	for name, c := range map[string]struct{ to, want string }{
		"nobody answers":  {closed.URL + "/bucket?X-Signature=secret", "connection refused"},
		"no address":      {"http://[::secret/", "no address"},
		"other protocol":  {"ftp://user:secret@example.com/", "protocol"},
		"around in rings": {s.URL + "/again?secret", "10 redirects"},
	} {
		to = c.to
		var said []string
		h := HTTP{For: 100 * time.Millisecond, Pause: 160 * time.Millisecond, Say: func(l string) { said = append(said, l) }}
		_, err := h.Fetch(t.Context(), node.FirstBootRequest{URL: s.URL + "/program?secret"})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error()+strings.Join(said, ""), "secret") {
			t.Errorf("%s: %v, said %q", name, err, said)
		}
	}
}

func TestFetch(t *testing.T) {
	tries := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/later":
			if tries++; tries < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			fmt.Fprint(w, "program")
		case "/empty":
		case "/large":
			w.Write(make([]byte, maxProgram+1))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	sum := sha256.Sum256(s.Certificate().Raw)
	pin := hex.EncodeToString(sum[:])
	var said []string
	h := HTTP{For: 2 * time.Second, Pause: 160 * time.Millisecond, Say: func(l string) { said = append(said, l) }}
	for path, c := range map[string]struct{ pin, err string }{
		"/later": {strings.ToUpper(pin), ""},
		"/empty": {pin, "empty"}, "/large": {pin, "larger"}, "/no": {pin, "404"},
		"/later?token=secret": {strings.Repeat("0", 64), "not the one that is expected"}, "/later?secret": {"", "certificate"},
	} {
		b, err := h.Fetch(t.Context(), node.FirstBootRequest{URL: s.URL + path, Fingerprint: c.pin})
		if c.err == "" && (err != nil || string(b) != "program") || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %q %v", path, b, err)
		}
		if err != nil && strings.Contains(err.Error()+strings.Join(said, ""), "secret") {
			t.Errorf("the address is shown: %v %q", err, said)
		}
	}
}

// A server may lead on, but not to one that need not prove who it is: what
// comes back is run as root.
func TestFetchKeepsTLS(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "#!/bin/sh") }))
	defer plain.Close()
	to := plain.URL
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/end" {
			io.WriteString(w, "#!/bin/sh")
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	defer secure.Close()
	sum := sha256.Sum256(secure.Certificate().Raw)
	h := HTTP{For: 5 * time.Second, Pause: time.Millisecond, Say: func(string) {}}
	r := node.FirstBootRequest{URL: secure.URL + "/begin", Fingerprint: hex.EncodeToString(sum[:])}
	if b, err := h.Fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), "from https to an address without it") {
		t.Errorf("led to http: %q %v", b, err)
	}
	to = secure.URL + "/end"
	if b, err := h.Fetch(t.Context(), r); err != nil || string(b) != "#!/bin/sh" {
		t.Errorf("led on by https: %q %v", b, err)
	}
}
