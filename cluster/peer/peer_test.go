package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/cluster/store/storetest"
)

// authority signs the certificates of a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{key: newKey(t)}
	a.cert = a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, a.key)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a authority) sign(t *testing.T, tmpl *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	parent := a.cert
	if parent == nil {
		parent = tmpl
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// member writes a node's files and returns its roster entry.
func (a authority) member(t *testing.T, dir, name string, change func(*x509.Certificate)) (*Identity, roster.Node) {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{DNSNames: []string{roster.PeerName(name)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(tmpl)
	}
	cert := a.sign(t, tmpl, key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for f, b := range map[string]*pem.Block{
		CAFile: {Type: "CERTIFICATE", Bytes: a.cert.Raw}, CertFile: {Type: "CERTIFICATE", Bytes: cert.Raw}, KeyFile: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(filepath.Join(dir, f), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id, err := OpenIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id, roster.Node{Name: name, KeySHA256: KeySHA256(cert), State: roster.Member}
}

// host is one node on the loopback: its identity, what it knows, its server.
type host struct {
	*Identity
	book   *Book
	client *Client
	feed   *Feed
	port   int
}

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (a authority) host(t *testing.T, name string, port int, change func(*x509.Certificate)) (*host, roster.Node) {
	t.Helper()
	dir := t.TempDir()
	id, entry := a.member(t, dir, name, change)
	book, err := OpenBook(name, filepath.Join(dir, "peers.json"), discardLog())
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Identity: id, book: book, feed: NewFeed(), port: port, client: NewClient(book, id, port)}
	t.Cleanup(h.client.Close)
	return h, entry
}

// serve answers on ip like a node's API port does.
func (h *host) serve(t *testing.T, ip string) {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, fmt.Sprint(h.port)))
	if err != nil {
		t.Fatal(err)
	}
	if h.port == 0 {
		h.port = ln.Addr().(*net.TCPAddr).Port
		h.client.port = h.port
	}
	other := newAuthority(t)
	public := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{other.cert.Raw}, PrivateKey: other.key}}}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.ServerName == roster.PeerName(h.book.Self()) && r.URL.Path == LivePath {
			h.feed.ServeHTTP(w, r)
			return
		}
		who := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			who, _ = NodeOf(r.TLS.PeerCertificates[0])
		}
		fmt.Fprintf(w, "%s asked %s", who, h.book.Self())
	}), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go srv.Serve(tls.NewListener(ln, h.ServerConfig(public, h.book.Allowed)))
	t.Cleanup(func() { srv.Close() })
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// pair is two nodes that know each other, n2 listening on 127.0.0.2.
func pair(t *testing.T, change func(*x509.Certificate)) (n1, n2 *host) {
	t.Helper()
	a := newAuthority(t)
	n2, e2 := a.host(t, "n2", 0, nil)
	e2.Addresses = []string{"127.0.0.3", "127.0.0.2"} // nobody at the first
	n2.serve(t, "127.0.0.2")
	n1, e1 := a.host(t, "n1", n2.port, change)
	for _, h := range []*host{n1, n2} {
		h.book.set(roster.Cluster{ID: "c"}, []roster.Node{e1, e2})
	}
	return n1, n2
}

func TestTalk(t *testing.T) {
	n1, _ := pair(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), "GET", "/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := n1.client.RoundTrip("n2", r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := make([]byte, 64)
	n, _ := resp.Body.Read(b)
	if got := string(b[:n]); got != "n1 asked n2" {
		t.Errorf("%q", got)
	}
	if _, err := n1.client.Dial(t.Context(), "n3"); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("a node nobody knows: %v", err)
	}
}

// TestRefused: whoever is not what it says is turned away, on either side.
func TestRefused(t *testing.T) {
	get := func(h *host) error {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := h.client.RoundTrip("n2", r)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for name, change := range map[string]func(n1, n2 *host){
		"removed from the roster": func(_, n2 *host) {
			e2, _ := n2.book.Node("n2")
			n2.book.set(roster.Cluster{ID: "c"}, []roster.Node{e2})
		},
		"another key under its name": func(_, n2 *host) {
			e1, _ := n2.book.Node("n1")
			e2, _ := n2.book.Node("n2")
			e1.KeySHA256 = strings.Repeat("0", 64)
			n2.book.set(roster.Cluster{ID: "c"}, []roster.Node{e1, e2})
		},
		"the server's key is another": func(n1, _ *host) {
			e1, _ := n1.book.Node("n1")
			e2, _ := n1.book.Node("n2")
			e2.KeySHA256 = strings.Repeat("0", 64)
			n1.book.set(roster.Cluster{ID: "c"}, []roster.Node{e1, e2})
		},
	} {
		t.Run(name, func(t *testing.T) {
			n1, n2 := pair(t, nil)
			if err := get(n1); err != nil {
				t.Fatalf("before: %v", err)
			}
			n1.client.Close()
			change(n1, n2)
			if err := get(n1); err == nil {
				t.Error("is let in")
			}
		})
	}
	t.Run("another authority", func(t *testing.T) {
		_, n2 := pair(t, nil)
		h, e1 := newAuthority(t).host(t, "n1", n2.port, nil)
		e2, _ := n2.book.Node("n2")
		h.book.set(roster.Cluster{ID: "c"}, []roster.Node{e1, e2})
		if err := get(h); err == nil {
			t.Error("is let in")
		}
	})
	t.Run("clock", func(t *testing.T) {
		for days, ok := range map[int]bool{0: true, 3: false} {
			n1, _ := pair(t, func(c *x509.Certificate) {
				c.NotAfter = time.Now().Add(-time.Minute).AddDate(0, 0, -days)
				c.NotBefore = c.NotAfter.AddDate(-1, 0, 0)
			})
			if err := get(n1); (err == nil) != ok {
				t.Errorf("ended %d days ago: %v", days, err)
			}
		}
	})
}

// TestNames: what a connection is for is in the name that it asks for.
func TestNames(t *testing.T) {
	_, n2 := pair(t, nil)
	addr := net.JoinHostPort("127.0.0.2", fmt.Sprint(n2.port))
	for name, want := range map[string]string{"": "public", "pve.example.org": "public", roster.JoinName: "cluster"} {
		c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		certs := c.ConnectionState().PeerCertificates
		got := "public"
		if len(certs) == 2 && slices.Equal(certs[1].Raw, n2.CA()) {
			got = "cluster"
		}
		if got != want {
			t.Errorf("%q shows %s", name, got)
		}
		c.Close()
	}
	// A node's own name without a certificate: the handshake is refused, in
	// TLS 1.3 after the client thinks it is done.
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: roster.PeerName("n2"), InsecureSkipVerify: true})
	if err == nil {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without a certificate: %v", err)
	}
}

func TestLive(t *testing.T) {
	n1, n2 := pair(t, nil)
	w := NewWatcher(n1.book, n1.client, discardLog())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	until(t, "online before there is a status", func() bool { return w.State("n2").Online })
	n2.feed.Publish(json.RawMessage(`{"load":1}`))
	until(t, "a status", func() bool { return string(w.State("n2").Data) == `{"load":1}` })
	n2.feed.Publish(json.RawMessage(`{"load":2}`))
	until(t, "the next", func() bool { return string(w.State("n2").Data) == `{"load":2}` })
	if away := w.Away(); len(away) != 0 {
		t.Errorf("away: %v", away)
	}
	e1, _ := n1.book.Node("n1")
	n1.book.set(roster.Cluster{ID: "c"}, []roster.Node{e1})
	until(t, "forgotten", func() bool { return w.State("n2").Data == nil })
	cancel()
	<-done
}

// TestMoved: a node that moved is found again at what it announces.
func TestMoved(t *testing.T) {
	a := newAuthority(t)
	n2, e2 := a.host(t, "n2", 0, nil)
	n2.serve(t, "127.0.0.4")
	n1, e1 := a.host(t, "n1", n2.port, nil)
	e2.Addresses = []string{"127.0.0.9"}
	for _, h := range []*host{n1, n2} {
		h.book.set(roster.Cluster{ID: "c"}, []roster.Node{e1, e2})
	}
	w := NewWatcher(n1.book, n1.client, discardLog())
	go w.Run(t.Context())
	until(t, "n2 is away", func() bool { return w.State("n2").Error != "" })
	say := &Announcer{Book: n2.book, Identity: n2.Identity}
	packet, err := say.seal([]string{"127.0.0.4"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	hear := &Announcer{Book: n1.book, Identity: n1.Identity, Log: discardLog()}
	if err := hear.take(packet); err != nil {
		t.Fatal(err)
	}
	until(t, "n2 is back", func() bool { return w.State("n2").Online })
	if got, want := n1.book.Hosts(), "127.0.0.4 n2.joist.internal n2\n"; got != want {
		t.Errorf("hosts: %q, want %q", got, want)
	}
	// An older announcement, played again by somebody, moves nothing.
	old, err := say.seal([]string{"127.0.0.5"}, time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := hear.take(old); err != nil {
		t.Fatal(err)
	}
	if got := n1.book.Addresses("n2"); got[0] != "127.0.0.4" {
		t.Errorf("addresses %v", got)
	}
	for name, bad := range map[string][]byte{
		"noise": []byte("x"), "changed": []byte(strings.Replace(string(packet), `"127.0.0.4"`, `"127.0.0.6"`, 1)),
	} {
		if hear.take(bad) == nil {
			t.Errorf("%s is believed", name)
		}
	}
	stranger, se := newAuthority(t).host(t, "n2", n2.port, nil)
	stranger.book.set(roster.Cluster{ID: "c"}, []roster.Node{se})
	packet, err = (&Announcer{Book: stranger.book, Identity: stranger.Identity}).seal([]string{"127.0.0.7"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if hear.take(packet) == nil {
		t.Error("a stranger with a node's name is believed")
	}
}

// TestMulticast sends a real announcement over the loopback interface of a
// network namespace, where it takes multicast.
func TestMulticast(t *testing.T) {
	n1, n2 := pair(t, nil)
	announcer := func(h *host) *Announcer {
		return &Announcer{Book: h.book, Identity: h.Identity, Log: discardLog(), Interface: func() string { return "lo" }}
	}
	from, to := announcer(n2), announcer(n1)
	socks := make(chan []*net.UDPConn, 2)
	failed := make(chan error, 1)
	go func() {
		// A socket belongs to the namespace of the thread that made it; the
		// thread ends with the goroutine, because it stays locked.
		runtime.LockOSThread()
		if err := ownNetwork(); err != nil {
			failed <- err
			return
		}
		socks <- to.listen(t.Context(), "lo")
		socks <- from.listen(t.Context(), "lo")
	}()
	var theirs []*net.UDPConn
	for range 2 {
		select {
		case theirs = <-socks:
			if len(theirs) != len(groups) {
				t.Errorf("%d sockets, want %d", len(theirs), len(groups))
			}
			t.Cleanup(func() { closeAll(theirs) })
		case err := <-failed:
			if errors.Is(err, unix.EPERM) && os.Getenv("JOIST_NEED_TOOLS") == "" {
				t.Skip("a network namespace needs root")
			}
			t.Fatal(err)
		}
	}
	// Over IPv4: lo has no route to IPv6 groups. Both go out in the tests with
	// machines, whose addresses change at once.
	for i, g := range groups {
		if g.network == "udp4" {
			from.send(theirs[i:i+1], []string{"10.0.0.2"})
		}
	}
	until(t, "n1 hears n2", func() bool { return slices.Contains(n1.book.Addresses("n2"), "10.0.0.2") })
}

// TestCutOff: a connection to a machine that says nothing any more, not even
// that it goes, ends soon, whether something is sent on it or awaited.
func TestCutOff(t *testing.T) {
	const dead = 2 * time.Second
	failed := make(chan error, 1)
	took := make(chan time.Duration, 2)
	go func() {
		runtime.LockOSThread() // as in TestMulticast
		failed <- func() error {
			if err := ownNetwork(); err != nil {
				return err
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer ln.Close()
			var conns []net.Conn
			for range 2 {
				c, err := dialer(dead).Dial("tcp", ln.Addr().String())
				if err != nil {
					return err
				}
				defer c.Close()
				conns = append(conns, c)
			}
			if err := setLo(0); err != nil {
				return err
			}
			if _, err := conns[0].Write([]byte("a call")); err != nil {
				return err
			}
			cut := time.Now()
			for _, c := range conns {
				c.SetReadDeadline(cut.Add(30 * time.Second))
				go func() {
					c.Read(make([]byte, 1))
					took <- time.Since(cut)
				}()
			}
			for range conns {
				if d := <-took; d > 4*dead {
					return fmt.Errorf("it was given up after %s", d)
				}
			}
			return nil
		}()
	}()
	err := <-failed
	if errors.Is(err, unix.EPERM) && os.Getenv("JOIST_NEED_TOOLS") == "" {
		t.Skip("a network namespace needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ownNetwork gives this thread a network of its own, with lo up.
func ownNetwork() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return setLo(unix.IFF_UP | unix.IFF_MULTICAST | unix.IFF_LOOPBACK)
}

// setLo sets the flags of this thread's lo.
func setLo(flags uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

func TestBook(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peers.json")
	open := func() *Book {
		b, err := OpenBook("n1", file, discardLog())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	s := storetest.NewMemory()
	put := func(ops ...store.Op) {
		if _, err := s.Txn(t.Context(), nil, ops...); err != nil {
			t.Fatal(err)
		}
	}
	n2 := roster.Node{Name: "n2", ID: 2, KeySHA256: "k", Addresses: []string{"192.0.2.2"}, State: roster.Member}
	put(store.Op{Key: roster.ClusterKey, Value: roster.Cluster{ID: "c", Name: "lab"}.Encode()},
		store.Op{Key: roster.NodeKey("n2"), Value: n2.Encode()}, store.Op{Key: roster.NodeKey("odd"), Value: []byte("{")})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go b.Follow(ctx, s)
	until(t, "n2 is known", func() bool { return b.Allowed("n2", "k") && b.Cluster().Name == "lab" })
	if b.Allowed("n2", "j") || b.Allowed("n3", "k") {
		t.Error("allows others")
	}
	b.Seen("n2", netip.MustParseAddr("::ffff:192.0.2.77"))
	b.Learn("n2", []string{"192.0.2.99", "fe80::1", "nonsense"}, 5)
	b.Learn("n2", []string{"192.0.2.98"}, 4)
	want := []string{"192.0.2.99", "192.0.2.2"}
	if got := b.Addresses("n2"); !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	n2.Addresses = []string{"192.0.2.3"}
	put(store.Op{Key: roster.NodeKey("n2"), Value: n2.Encode()})
	until(t, "the store's new address", func() bool { return slices.Contains(b.Addresses("n2"), "192.0.2.3") })
	if again := open(); !again.Allowed("n2", "k") || !slices.Equal(again.Addresses("n2"), b.Addresses("n2")) {
		t.Errorf("after a restart: %+v", again.Nodes())
	}
	put(store.Op{Key: roster.NodeKey("n2")})
	until(t, "n2 is gone", func() bool { return !b.Allowed("n2", "k") })
	if got := b.Addresses("n2"); len(got) != 0 {
		t.Errorf("a removed node has addresses: %v", got)
	}
}
