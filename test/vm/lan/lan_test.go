package lan

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"
)

func segment(t *testing.T) *Switch {
	t.Helper()
	dir, err := os.MkdirTemp("", "lan")
	if err != nil {
		t.Fatal(err)
	}
	sw, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sw.Close(); os.RemoveAll(dir) })
	return sw
}

// plug speaks QEMU's side of a port, without what the switch says by itself.
func plug(t *testing.T, p *Port) (write func([]byte), read func() ([]byte, error)) {
	t.Helper()
	write, all := plugAll(t, p)
	return write, func() ([]byte, error) {
		for {
			frame, err := all()
			if err != nil || binary.BigEndian.Uint16(frame[12:]) != etherLLDP {
				return frame, err
			}
		}
	}
}

func plugAll(t *testing.T, p *Port) (write func([]byte), read func() ([]byte, error)) {
	t.Helper()
	c, err := net.Dial("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	// Dial returns before the port has accepted: what it is sent until then is
	// lost, as behind a cable that is not in yet.
	for deadline := time.Now().Add(10 * time.Second); !p.plugged(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("port %s accepts nobody", p.path)
		}
	}
	write = func(frame []byte) {
		c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	}
	r := bufio.NewReader(c)
	read = func() ([]byte, error) {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		frame := make([]byte, binary.BigEndian.Uint32(head[:]))
		_, err := io.ReadFull(r, frame)
		return frame, err
	}
	return write, read
}

func (p *Port) plugged() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

// guest puts a TCP/IP stack behind a port.
func guest(t *testing.T, p *Port, mac MAC, ip string) *station {
	t.Helper()
	write, read := plug(t, p)
	g, err := newStation(t.Context(), mac[:], netip.MustParseAddr(ip), write)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	go func() {
		for {
			frame, err := read()
			if err != nil {
				return
			}
			g.input(frame)
		}
	}()
	return g
}

func port(t *testing.T, sw *Switch, name string) *Port {
	t.Helper()
	p, err := sw.NewPort(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTCPBothWays(t *testing.T) {
	sw := segment(t)
	g := guest(t, port(t, sw, "a"), MAC{2, 0, 0, 0, 0, 9}, "10.77.0.9")
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.Host) })

	inGuest, err := g.listen(netip.MustParseAddrPort("10.77.0.9:80"))
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(inGuest, hello)
	outside, err := sw.Listen("10.77.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(outside, hello)

	dialGuest := func(ctx context.Context, _, addr string) (net.Conn, error) {
		return g.dial(ctx, netip.MustParseAddrPort(addr))
	}
	sw.DNS("guest.example", netip.MustParseAddr("10.77.0.9"))
	for _, c := range []struct {
		url  string
		dial func(context.Context, string, string) (net.Conn, error)
	}{{"http://10.77.0.9:80", sw.Dial}, {"http://guest.example:80", sw.Dial}, {"http://10.77.0.5:80", dialGuest}} {
		hc := http.Client{Transport: &http.Transport{DialContext: c.dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		resp, err := hc.Get(c.url)
		if err != nil {
			t.Fatalf("%s: %v", c.url, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(body) < 6 {
			t.Errorf("%s: %q, %v", c.url, body, err)
		}
	}
}

func TestCutAndLoss(t *testing.T) {
	sw := segment(t)
	p := port(t, sw, "a")
	g := guest(t, p, MAC{2, 0, 0, 0, 0, 9}, "10.77.0.9")
	l, err := g.listen(netip.MustParseAddrPort("10.77.0.9:80"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	dial := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		c, err := sw.Dial(ctx, "tcp", "10.77.0.9:80")
		if err == nil {
			c.Close()
		}
		return err
	}
	p.Cut(true)
	if dial(300*time.Millisecond) == nil {
		t.Error("a cut port carried a connection")
	}
	p.Cut(false)
	p.SetLoss(20)
	// Three lost pairs of ARP frames in a row are a "no route", once in twenty.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if err = dial(20 * time.Second); err == nil {
			return
		}
	}
	t.Errorf("with loss: %v", err)
}

// TestLearning: a frame for a known address goes to its port only, one for an
// unknown address to all others.
// TestAnnounce: a port hears from its switch again and again, even when nobody
// else speaks and the cable is cut.
func TestAnnounce(t *testing.T) {
	t.Parallel()
	p := port(t, segment(t), "quiet")
	_, read := plugAll(t, p)
	p.Cut(true)
	want := "\x01\x80\xc2\x00\x00\x0e\x02\x77\x00\x00\x00\x01\x88\xcc" +
		"\x02\x07\x04\x02\x77\x00\x00\x00\x01" + "\x04\x06\x07quiet" + "\x06\x02\x00\x78" + "\x00\x00" + strings.Repeat("\x00", 23)
	for range 2 {
		if frame, err := read(); err != nil || string(frame) != want {
			t.Fatalf("heard %q, %v; want %q", frame, err, want)
		}
	}
}

func TestLearning(t *testing.T) {
	sw := segment(t)
	type end struct {
		write func([]byte)
		got   chan string
	}
	var ends []end
	for i := range 3 {
		write, read := plug(t, port(t, sw, fmt.Sprint(i)))
		e := end{write, make(chan string, 8)}
		go func() {
			for {
				f, err := read()
				if err != nil {
					return
				}
				e.got <- string(f[14:])
			}
		}()
		ends = append(ends, e)
	}
	frame := func(dst, src byte, text string) []byte {
		return append([]byte{2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xb5}, text...)
	}
	expect := func(i int, want string) {
		t.Helper()
		select {
		case got := <-ends[i].got:
			if got != want {
				t.Errorf("port %d got %q, want %q", i, got, want)
			}
		case <-time.After(3 * time.Second):
			t.Errorf("port %d got nothing, want %q", i, want)
		}
	}
	ends[0].write(frame(11, 10, "flood"))
	expect(1, "flood")
	expect(2, "flood")
	ends[1].write(frame(10, 11, "back"))
	expect(0, "back")
	ends[0].write(frame(11, 10, "known"))
	expect(1, "known")
	if len(ends[2].got) != 0 {
		t.Errorf("port 2 also got %q", <-ends[2].got)
	}
}

// TestLease walks a client through discover, request, a changed lease and its
// refused renewal.
func TestLease(t *testing.T) {
	sw := segment(t)
	write, read := plug(t, port(t, sw, "a"))
	mac := MAC{0x52, 0x54, 0, 1, 2, 3}
	ask := func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		t.Helper()
		frame := udpFrame(MAC{255, 255, 255, 255, 255, 255}, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes())
		copy(frame[6:], mac[:])
		write(frame)
		for {
			f, err := read()
			if err != nil {
				t.Fatal(err)
			}
			if p, ok := udpPayload(f, 68); ok {
				r, err := dhcpv4.FromBytes(p)
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
		}
	}
	discover, err := dhcpv4.NewDiscovery(mac[:])
	if err != nil {
		t.Fatal(err)
	}
	offer := ask(discover)
	if offer.MessageType() != dhcpv4.MessageTypeOffer || offer.YourIPAddr.String() != "10.77.0.100" {
		t.Fatalf("offer: %s", offer.Summary())
	}
	if _, ok := sw.Lease(mac); ok {
		t.Error("an offer is not a lease")
	}
	request, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		t.Fatal(err)
	}
	ack := ask(request)
	if ack.MessageType() != dhcpv4.MessageTypeAck || !ack.Router()[0].Equal(Gateway.AsSlice()) {
		t.Fatalf("ack: %s", ack.Summary())
	}
	if ip, ok := sw.Lease(mac); !ok || ip.String() != "10.77.0.100" {
		t.Errorf("lease: %v %v", ip, ok)
	}
	if err := sw.SetLease(mac, netip.MustParseAddr("10.77.0.50")); err != nil {
		t.Fatal(err)
	}
	renew, err := dhcpv4.NewRenewFromAck(ack)
	if err != nil {
		t.Fatal(err)
	}
	if nak := ask(renew); nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Fatalf("renewal of a changed lease: %s", nak.Summary())
	}
	if again := ask(discover); again.YourIPAddr.String() != "10.77.0.50" {
		t.Errorf("second offer: %s", again.Summary())
	}
}

// TestBoot: the DHCP server names a boot file, and a proxy answers beside it
// and before it.
func TestBoot(t *testing.T) {
	l := newLeases()
	l.setBoot(func(*dhcpv4.DHCPv4) []dhcpv4.Modifier {
		return []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptBootFileName("file"))}
	})
	proxy := net.IP{10, 77, 0, 5}
	l.setProxy(func(req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		r, err := dhcpv4.NewReplyFromRequest(req, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithServerIP(proxy))
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
	d, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 0, 0, 0, 0, 1})
	if err != nil {
		t.Fatal(err)
	}
	frames := l.handle(udpFrame(MAC{255, 255, 255, 255, 255, 255}, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), d.ToBytes()))
	if len(frames) != 2 {
		t.Fatalf("%d answers", len(frames))
	}
	for i, want := range []struct {
		dst  MAC
		from net.IP
		file string
	}{{MAC{255, 255, 255, 255, 255, 255}, proxy, ""}, {MAC{2, 0, 0, 0, 0, 1}, net.IP(Gateway.AsSlice()), "file"}} {
		payload, ok := udpPayload(frames[i], 68)
		if !ok {
			t.Fatal("no datagram for a client")
		}
		m, err := dhcpv4.FromBytes(payload)
		if err != nil || MAC(frames[i][:6]) != want.dst || !net.IP(frames[i][26:30]).Equal(want.from) || m.BootFileNameOption() != want.file || m.YourIPAddr.IsUnspecified() != (want.file == "") {
			t.Errorf("answer %d: %v, %s", i, err, m.Summary())
		}
	}
}

// TestListenUDP: a datagram reaches a server at an address of its own.
func TestListenUDP(t *testing.T) {
	sw := segment(t)
	server, err := sw.ListenUDP("10.77.0.5:69")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := sw.ListenUDP("192.0.2.1:69"); err == nil {
		t.Error("an address of elsewhere was taken")
	}
	client, err := guest(t, port(t, sw, "a"), MAC{2, 0, 0, 0, 0, 7}, "10.77.0.7").listenUDP(netip.MustParseAddrPort("10.77.0.7:1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	deadline := time.Now().Add(10 * time.Second)
	if err := errors.Join(server.SetDeadline(deadline), client.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.WriteTo([]byte("ask"), &net.UDPAddr{IP: net.IP{10, 77, 0, 5}, Port: 69}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	n, from, err := server.ReadFrom(b)
	if err != nil || string(b[:n]) != "ask" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if _, err := server.WriteTo([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	if n, _, err = client.ReadFrom(b); err != nil || string(b[:n]) != "answer" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

func TestNames(t *testing.T) {
	n := newNames()
	n.set("Mirror.example.", netip.MustParseAddr("10.77.0.5"))
	for _, c := range []struct {
		name    string
		typ     dnsmessage.Type
		code    dnsmessage.RCode
		answers int
	}{
		{"mirror.EXAMPLE.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 1},
		{"mirror.example.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, 0},
		{"other.example.", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0},
	} {
		q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(c.name), Type: c.typ, Class: dnsmessage.ClassINET}}}
		raw, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		reply, ok := n.answer(raw)
		var m dnsmessage.Message
		if !ok || m.Unpack(reply) != nil {
			t.Fatalf("%s: no answer", c.name)
		}
		if m.ID != 7 || m.RCode != c.code || len(m.Answers) != c.answers {
			t.Errorf("%s %s: %v, %d answers", c.name, c.typ, m.RCode, len(m.Answers))
		}
	}
}

func TestTXT(t *testing.T) {
	n := newNames()
	n.setTXT("Answers.example.", []string{"https://10.77.0.2/a", "second"})
	for _, c := range []struct {
		name string
		typ  dnsmessage.Type
		code dnsmessage.RCode
		want int
	}{
		{"answers.example.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, 2}, {"answers.example.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 0},
		{"other.example.", dnsmessage.TypeTXT, dnsmessage.RCodeNameError, 0}, {"gateway.", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, 0},
	} {
		q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(c.name), Type: c.typ, Class: dnsmessage.ClassINET}}}
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		reply, ok := n.answer(b)
		var m dnsmessage.Message
		if err := m.Unpack(reply); !ok || err != nil || m.RCode != c.code || len(m.Answers) != c.want {
			t.Errorf("%s %v: %v %v", c.name, c.typ, m.GoString(), err)
		}
	}
}

func TestDHCPOption(t *testing.T) {
	l := newLeases()
	discover, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 0, 0, 0, 0, 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"https://10.77.0.2/answer", ""} {
		l.setOption(250, v)
		if got := string(l.reply(discover).Options.Get(dhcpv4.GenericOptionCode(250))); got != v {
			t.Errorf("option 250 is %q, want %q", got, v)
		}
	}
}

func FuzzHandle(f *testing.F) {
	f.Add(make([]byte, 60))
	d, _ := dhcpv4.NewDiscovery(net.HardwareAddr{2, 0, 0, 0, 0, 1})
	f.Add(udpFrame(MAC{255, 255, 255, 255, 255, 255}, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), d.ToBytes()))
	f.Fuzz(func(t *testing.T, frame []byte) { newLeases().handle(frame) })
}
