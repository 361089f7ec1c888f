package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"joist/api/client"
	"joist/api/node"
	"joist/cluster/join"
	"joist/cluster/roster"
)

// TestMain gives peers' names to the resolver: on a node they are in
// /etc/hosts, which tests cannot write.
func TestMain(m *testing.M) {
	dns, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go serveNames(dns)
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", dns.LocalAddr().String())
	}}
	os.Exit(m.Run())
}

// serveNames answers n<i>.joist.internal with 127.0.1.<i>.
func serveNames(c net.PacketConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		q := m.Questions[0]
		var i byte
		if _, err := fmt.Sscanf(q.Name.String(), "n%d."+roster.Domain, &i); err != nil {
			m.RCode = dnsmessage.RCodeNameError
		} else if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body: &dnsmessage.AResource{A: [4]byte{127, 0, 1, i}}}}
		}
		if b, err := m.Pack(); err == nil {
			c.WriteTo(b, from)
		}
	}
}

// testPort is every node's API port: they differ by address.
const testPort = "18006"

// aNode is a whole daemon with an address of its own.
type aNode struct {
	t    *testing.T
	name string
	p    *paths
	api  *client.Client
	stop func()
}

func newANode(t *testing.T, i int) *aNode {
	t.Helper()
	n := &aNode{t: t, name: fmt.Sprintf("n%d", i), p: testPaths(t)}
	ip := fmt.Sprintf("127.0.1.%d", i)
	n.p.listen, n.p.peers = net.JoinHostPort(ip, testPort), net.JoinHostPort(ip, fmt.Sprint(roster.PeerPort))
	for name, v := range map[string]any{
		filepath.Join(n.p.root, node.ConfigFile): node.Config{Name: n.name, Timezone: "UTC", InstallationID: fmt.Sprintf("%016x", i)},
		n.p.netState:                             node.NetStatus{Up: true, Method: "static", Addresses: []string{ip + "/8"}},
	} {
		if err := node.WriteJSON(name, 0o600, v); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if n.api, err = client.New(client.Options{URL: "https://" + n.p.listen, Insecure: true}); err != nil {
		t.Fatal(err)
	}
	n.start()
	t.Cleanup(func() { n.end(); n.api.Close() })
	return n
}

// start runs the daemon and logs in.
func (n *aNode) start() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("on", n.name)
	go func() { done <- serve(ctx, log, n.p) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("%s: %v", n.name, err)
		}
	}
	n.until("log-in", func() error { return n.api.Login(n.t.Context(), "root@pam", password) })
}

func (n *aNode) end() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

// until repeats f until it succeeds.
func (n *aNode) until(what string, f func() error) {
	n.t.Helper()
	var err error
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		if strings.Contains(err.Error(), "(401)") { // another store has other tickets
			n.api.Login(n.t.Context(), "root@pam", password)
		}
	}
	n.t.Fatalf("%s: %s: %v", n.name, what, err)
}

// task makes a call, again while the API restarts, and waits for its task.
func (n *aNode) task(verb, path string, p client.Params) error {
	n.t.Helper()
	var upid string
	if err := n.api.Do(n.t.Context(), verb, path, p, &upid); err != nil {
		return err
	}
	if upid == "" { // done at once
		return nil
	}
	on := strings.Split(upid, ":")[1]
	var st struct{ Status, ExitStatus string }
	n.until("end of "+path, func() error {
		if err := n.api.Get(n.t.Context(), "/nodes/"+on+"/tasks/"+upid+"/status", nil, &st); err != nil {
			return err
		}
		if st.Status != "stopped" {
			return errors.New("runs")
		}
		return nil
	})
	if st.ExitStatus != "OK" {
		return errors.New(st.ExitStatus)
	}
	return nil
}

func (n *aNode) must(verb, path string, p client.Params) {
	n.t.Helper()
	if err := n.task(verb, path, p); err != nil {
		n.t.Fatalf("%s: %s %s: %v", n.name, verb, path, err)
	}
}

func (n *aNode) get(path string, out any) {
	n.t.Helper()
	n.until("GET "+path, func() error { return n.api.Get(n.t.Context(), path, nil, out) })
}

// guests are all of the cluster as the node lists them: "100@n1 stopped".
func (n *aNode) guests() []string {
	n.t.Helper()
	var rows []struct {
		VMID         int
		Node, Status string
	}
	n.until("list guests", func() error {
		return n.api.Get(n.t.Context(), "/cluster/resources", client.Params{"type": "vm"}, &rows)
	})
	out := []string{}
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%d@%s %s", r.VMID, r.Node, r.Status))
	}
	slices.Sort(out)
	return out
}

func (n *aNode) wantGuests(want ...string) {
	n.t.Helper()
	n.until(fmt.Sprintf("the guests are %v", want), func() error {
		if got := n.guests(); !slices.Equal(got, want) {
			return fmt.Errorf("they are %v", got)
		}
		return nil
	})
}

// members are the nodes with their part: "n1 voter".
func (n *aNode) wantMembers(want ...string) {
	n.t.Helper()
	n.until(fmt.Sprintf("the members are %v", want), func() error {
		var rows []struct{ Node, Member, State string }
		if err := n.api.Get(n.t.Context(), "/cluster/config/nodes", nil, &rows); err != nil {
			return err
		}
		got := []string{}
		for _, r := range rows {
			got = append(got, r.Node+" "+r.Member)
			if r.State != "member" {
				return fmt.Errorf("%s is %s", r.Node, r.State)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v", got)
		}
		return nil
	})
}

func (n *aNode) token() (t struct{ Token, Fingerprint, Address string }) {
	n.t.Helper()
	if err := n.api.Post(n.t.Context(), "/cluster/config/token", nil, &t); err != nil {
		n.t.Fatal(err)
	}
	return t
}

// join asks for it; settled waits for how it went.
func (n *aNode) join(by *aNode, more client.Params) error {
	n.t.Helper()
	tok := by.token()
	p := client.Params{"hostname": by.p.listen, "token": tok.Token, "fingerprint": tok.Fingerprint}
	for k, v := range more {
		p[k] = v
	}
	// A cluster of one that was made by the token restarts its API.
	var err error
	n.until("reach "+by.name, func() error {
		if err = n.task(http.MethodPost, "/cluster/config/join", p); err == nil {
			return nil
		}
		for _, restarting := range []string{"the fingerprint does not match", "cannot be reached"} {
			if strings.Contains(err.Error(), restarting) {
				return err
			}
		}
		return nil
	})
	return err
}

type operation struct {
	Operation, State, Reason, Error, Cluster string
	Running, Member                          int
}

func (n *aNode) settled() (o operation) {
	n.t.Helper()
	n.until("the operation ends", func() error {
		o = operation{}
		if err := n.api.Get(n.t.Context(), "/nodes/"+n.name+"/membership", nil, &o); err != nil {
			return err
		}
		if o.Running == 1 || o.State == "" {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	return o
}

func (n *aNode) wantState(want string) {
	n.t.Helper()
	if o := n.settled(); o.State != want {
		n.t.Fatalf("%s: operation %+v, want it to be %s", n.name, o, want)
	}
}

func (n *aNode) vm(id int) client.Params { return client.Params{"vmid": fmt.Sprint(id)} }

// TestCluster leads three whole daemons through the life of a cluster.
func TestCluster(t *testing.T) {
	n1, n2, n3 := newANode(t, 1), newANode(t, 2), newANode(t, 3)
	n1.must("POST", "/nodes/n1/qemu", n1.vm(100))
	n2.must("POST", "/nodes/n2/qemu", n2.vm(100))
	n2.must("POST", "/nodes/n2/qemu", n2.vm(101))

	// Two tokens at once make one cluster.
	both := make(chan string, 2)
	for range cap(both) {
		go func() {
			var tok struct{ Fingerprint string }
			if err := n1.api.Post(t.Context(), "/cluster/config/token", nil, &tok); err != nil {
				tok.Fingerprint = err.Error()
			}
			both <- tok.Fingerprint
		}()
	}
	if a, b := <-both, <-both; a != b || len(a) != 95 {
		t.Fatalf("two tokens at once are of the clusters %q and %q", a, b)
	}

	err := n2.join(n1, nil)
	if err == nil || !strings.Contains(err.Error(), "100") {
		t.Fatalf("a join with a clash of VMIDs: %v", err)
	}
	n2.wantGuests("100@n2 stopped", "101@n2 stopped")
	if err := n2.join(n1, client.Params{"renumber": "auto"}); err != nil {
		t.Fatal(err)
	}
	n2.wantState("done")
	for _, n := range []*aNode{n1, n2} {
		n.wantGuests("100@n1 stopped", "101@n2 stopped", "102@n2 stopped")
		n.wantMembers("n1 voter", "n2 learner")
	}
	if a := n2.token().Address; a != "127.0.1.1" {
		t.Errorf("a token that n2 makes leads to %s, which must be n1", a)
	}
	if err := n3.join(n2, nil); err == nil || !strings.Contains(err.Error(), "voter") {
		t.Fatalf("a join through a node that does not decide: %v", err)
	}
	if err := n3.join(n1, nil); err != nil {
		t.Fatal(err)
	}
	n3.wantState("done")
	n1.wantMembers("n1 voter", "n2 voter", "n3 voter")

	t.Run("any node answers for all", func(t *testing.T) {
		n1.must("POST", "/nodes/n3/qemu", n1.vm(300))
		n3.must("POST", "/nodes/n2/qemu", n3.vm(200))
		n2.must("PUT", "/nodes/n3/qemu/300/config", client.Params{"name": "renamed"})
		var c map[string]any
		n1.get("/nodes/n3/qemu/300/config", &c)
		if c["name"] != "renamed" {
			t.Errorf("configuration through n1: %v", c)
		}
		n3.must("DELETE", "/nodes/n2/qemu/200", nil)
		var st []map[string]any
		n2.get("/cluster/status", &st)
		if len(st) != 4 || st[0]["quorate"] != float64(1) || st[0]["name"] != "joist" || st[1]["online"] != float64(1) || st[3]["online"] != float64(1) {
			t.Errorf("status: %v", st)
		}
		var upids []struct{ UPID, Node string }
		n2.get("/cluster/tasks", &upids)
		if !slices.ContainsFunc(upids, func(u struct{ UPID, Node string }) bool { return u.Node == "n3" }) {
			t.Errorf("tasks: %v", upids)
		}
	})

	t.Run("one of three is away", func(t *testing.T) {
		n1.end()
		begun := time.Now()
		n2.until("a change", func() error { return n2.task("POST", "/nodes/n2/qemu", n2.vm(210)) })
		t.Logf("changes go on after %v", time.Since(begun).Round(time.Millisecond))
		n3.until("n1 is known to be away", func() error {
			err := n3.api.Get(t.Context(), "/nodes/n1/status", nil, nil)
			if err == nil || !strings.Contains(err.Error(), "595") || !strings.Contains(err.Error(), "n1") {
				return fmt.Errorf("it answers %v", err)
			}
			return nil
		})
		n3.wantGuests("100@n1 unknown", "101@n2 stopped", "102@n2 stopped", "210@n2 stopped", "300@n3 stopped")
		n1.start()
		n1.wantGuests("100@n1 stopped", "101@n2 stopped", "102@n2 stopped", "210@n2 stopped", "300@n3 stopped")
	})

	t.Run("no quorum", func(t *testing.T) {
		n2.end()
		n3.end()
		n1.until("changes are refused", func() error {
			err := n1.task("PUT", "/nodes/n1/qemu/100/config", client.Params{"name": "x"})
			if err == nil || !strings.Contains(err.Error(), "no quorum") || !strings.Contains(err.Error(), "n2, n3") {
				return fmt.Errorf("answer: %v", err)
			}
			return nil
		})
		if err := n1.api.Login(t.Context(), "root@pam", password); err != nil {
			t.Errorf("log-in: %v", err)
		}
		n1.end()
		n1.start() // also a daemon that begins without a quorum
		n1.wantGuests("100@n1 stopped", "101@n2 unknown", "102@n2 unknown", "210@n2 unknown", "300@n3 unknown")
		n2.start()
		n3.start()
		n1.until("changes are possible", func() error { return n1.task("POST", "/nodes/n1/qemu", n1.vm(400)) })
	})

	t.Run("leave", func(t *testing.T) {
		n3.must("POST", "/nodes/n3/membership/leave", nil)
		n3.wantState("done")
		n3.wantGuests("300@n3 stopped")
		n1.wantGuests("100@n1 stopped", "101@n2 stopped", "102@n2 stopped", "210@n2 stopped", "400@n1 stopped")
		n3.must("POST", "/nodes/n3/qemu", n3.vm(301))
		var m []any
		n3.get("/cluster/config/nodes", &m)
		if len(m) != 0 {
			t.Errorf("n3 still sees %v", m)
		}
		// Two nodes are a voter and a learner again.
		n1.until("one of two decides", func() error { return oneVoter(n1) })
	})

	t.Run("the only one that decides leaves", func(t *testing.T) {
		leaver, stays := n1, n2
		if decider(n1, n2) == n2 {
			leaver, stays = n2, n1
		}
		leaver.must("POST", "/nodes/"+leaver.name+"/membership/leave", nil)
		leaver.wantState("done")
		stays.wantMembers(stays.name + " voter")
		// It can still let others in: it holds the authority.
		if err := leaver.join(stays, nil); err != nil {
			t.Fatal(err)
		}
		leaver.wantState("done")
		stays.wantGuests("100@n1 stopped", "101@n2 stopped", "102@n2 stopped", "210@n2 stopped", "400@n1 stopped")
	})

	t.Run("and come back", func(t *testing.T) {
		if err := n3.join(decider(n1, n2), nil); err != nil {
			t.Fatal(err)
		}
		n3.wantState("done")
		n1.wantGuests("100@n1 stopped", "101@n2 stopped", "102@n2 stopped", "210@n2 stopped", "300@n3 stopped", "301@n3 stopped", "400@n1 stopped")
		n1.wantMembers("n1 voter", "n2 voter", "n3 voter")
	})

	t.Run("removed while it was away", func(t *testing.T) {
		n3.end()
		n1.until("n3 is away", func() error {
			err := n1.task("DELETE", "/cluster/config/nodes/n3", nil)
			if err == nil || !strings.Contains(err.Error(), "300, 301") {
				return fmt.Errorf("removal says %v", err)
			}
			return nil
		})
		n1.must("DELETE", "/cluster/config/nodes/n3", client.Params{"force": "1"})
		n1.wantGuests("100@n1 stopped", "101@n2 stopped", "102@n2 stopped", "210@n2 stopped", "400@n1 stopped")
		n3.start()
		n3.until("it knows", func() error {
			err := n3.task("POST", "/nodes/n3/qemu", n3.vm(500))
			if err == nil || !strings.Contains(err.Error(), "was removed from cluster") {
				return fmt.Errorf("a change: %v", err)
			}
			return nil
		})
		n3.must("POST", "/nodes/n3/membership/leave", nil)
		n3.wantState("done")
		n3.wantGuests("300@n3 stopped", "301@n3 stopped")
	})

	t.Run("the one that decides is lost", func(t *testing.T) {
		n1.until("one of two decides", func() error { return oneVoter(n1) })
		voter, learner := n1, n2
		if decider(n1, n2) == n2 {
			voter, learner = n2, n1
		}
		voter.end()
		learner.until("it notices", func() error {
			if err := learner.task("POST", "/nodes/"+learner.name+"/qemu", learner.vm(600)); err == nil || !strings.Contains(err.Error(), "no quorum") {
				return fmt.Errorf("a change: %v", err)
			}
			return nil
		})
		if err := learner.task("POST", "/nodes/"+learner.name+"/membership/leave", nil); err == nil || !strings.Contains(err.Error(), "joist node recover") {
			t.Errorf("leaving what cannot let it go: %v", err)
		}
		// The same at the worst moments: it has just lost its vote, and whoever
		// would give it a new place is gone.
		for _, state := range []join.State{join.Asked, join.Swapped} {
			learner.end()
			op := join.Op{Kind: join.Demote, State: state, Since: time.Now()}
			if err := join.File(filepath.Join(learner.p.cluster, "op.json")).Save(op); err != nil {
				t.Fatal(err)
			}
			if state == join.Swapped {
				if err := os.Rename(learner.p.etcd, learner.p.etcd+".aside"); err != nil {
					t.Fatal(err)
				}
			}
			learner.start()
			if got := learner.guests(); len(got) != 5 {
				t.Errorf("%s: without a place it shows %v", state, got)
			}
		}
		learner.must("POST", "/nodes/"+learner.name+"/membership/recover", nil)
		learner.wantState("done")
		learner.wantMembers(learner.name + " voter")
		learner.must("POST", "/nodes/"+learner.name+"/qemu", learner.vm(600))
		if got := learner.guests(); len(got) != 6 {
			t.Errorf("all configuration is there, and 600: %v", got)
		}
		// The lost one, installed anew, does not inherit guests it has no
		// volumes of.
		i := 1
		if voter == n2 {
			i = 2
		}
		again := newANode(t, i)
		if err := again.join(learner, nil); err == nil || !strings.Contains(err.Error(), "still has the guests") {
			t.Errorf("joining under the name of a node that was lost with guests: %v", err)
		}
		learner.must("DELETE", "/cluster/config/nodes/"+voter.name, client.Params{"force": "1"})
		if err := again.join(learner, nil); err != nil {
			t.Fatal(err)
		}
		again.wantState("done")
		learner.wantMembers("n1 "+voterIf(learner == n1), "n2 "+voterIf(learner == n2))
	})
}

// voterIf is the part of a node among two.
func voterIf(decides bool) string {
	if decides {
		return "voter"
	}
	return "learner"
}

// decider is the first of the nodes that votes.
func decider(nodes ...*aNode) *aNode {
	var rows []struct{ Node, Member string }
	nodes[0].get("/cluster/config/nodes", &rows)
	for _, r := range rows {
		for _, n := range nodes {
			if r.Node == n.name && r.Member == "voter" {
				return n
			}
		}
	}
	return nil
}

func oneVoter(n *aNode) error {
	var rows []struct{ Node, Member string }
	if err := n.api.Get(n.t.Context(), "/cluster/config/nodes", nil, &rows); err != nil {
		return err
	}
	voters := 0
	for _, r := range rows {
		if r.Member == "voter" {
			voters++
		}
	}
	if len(rows) != 2 || voters != 1 {
		b, _ := json.Marshal(rows)
		return errors.New(string(b))
	}
	return nil
}
