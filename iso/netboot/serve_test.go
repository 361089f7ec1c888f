package netboot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/pin/tftp/v3"
)

var offers = Offers{Server: netip.MustParseAddr("192.0.2.5"), Web: "http://192.0.2.5:8080"}

func request(t *testing.T, kind dhcpv4.MessageType, class string, arch iana.Arch, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	mods := append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 7}),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, bytes.Repeat([]byte{0, 7}, 9)[:17])}, more...)
	if class != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)), dhcpv4.WithOption(dhcpv4.OptClientArch(arch)))
	}
	m, err := dhcpv4.New(mods...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOffers(t *testing.T) {
	ipxe := dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE"))
	discover, ask := dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest
	for name, c := range map[string]struct {
		req    *dhcpv4.DHCPv4
		direct bool
		kind   dhcpv4.MessageType
		class  string
		file   string
		why    string
	}{
		"BIOS":                         {request(t, discover, "PXEClient:Arch:00000:UNDI:002001", iana.INTEL_X86PC), false, dhcpv4.MessageTypeOffer, "PXEClient", "grub.pxe", ""},
		"UEFI":                         {request(t, discover, "PXEClient:Arch:00007:UNDI:003001", iana.EFI_BC), false, dhcpv4.MessageTypeOffer, "PXEClient", "shimx64.efi", ""},
		"UEFI, other id":               {request(t, discover, "PXEClient:Arch:00009", iana.EFI_X86_64), false, dhcpv4.MessageTypeOffer, "PXEClient", "shimx64.efi", ""},
		"HTTP boot":                    {request(t, discover, "HTTPClient:Arch:00016:UNDI:003001", iana.EFI_X86_64_HTTP), false, dhcpv4.MessageTypeOffer, "HTTPClient", "http://192.0.2.5:8080/shimx64.efi", ""},
		"iPXE":                         {request(t, discover, "PXEClient:Arch:00000", iana.INTEL_X86PC, ipxe), false, dhcpv4.MessageTypeOffer, "PXEClient", "http://192.0.2.5:8080/boot.ipxe", ""},
		"boot server port":             {request(t, ask, "PXEClient:Arch:00007", iana.EFI_BC), true, dhcpv4.MessageTypeAck, "PXEClient", "shimx64.efi", ""},
		"ARM":                          {request(t, discover, "PXEClient:Arch:00011", iana.EFI_ARM64), false, 0, "", "", "nothing here is for"},
		"UEFI of 32 bits":              {request(t, discover, "PXEClient:Arch:00006", iana.EFI_IA32), false, 0, "", "", "nothing here is for"},
		"an installed system's client": {request(t, discover, "", 0), false, 0, "", "", ""},
		"a request to the DHCP server": {request(t, ask, "PXEClient:Arch:00007", iana.EFI_BC), false, 0, "", "", ""},
	} {
		reply, text := offers.Reply(c.req, c.direct)
		if c.file == "" {
			if reply != nil || !strings.Contains(text, c.why) || (text == "") != (c.why == "") {
				t.Errorf("%s: got %v, %q", name, reply, text)
			}
			continue
		}
		if reply == nil {
			t.Errorf("%s: no answer, %q", name, text)
			continue
		}
		got, err := dhcpv4.FromBytes(reply.ToBytes())
		if err != nil {
			t.Fatal(err)
		}
		if got.MessageType() != c.kind || got.ClassIdentifier() != c.class || got.BootFileName != c.file || got.BootFileNameOption() != c.file ||
			!got.YourIPAddr.IsUnspecified() || got.TransactionID != c.req.TransactionID || !got.ServerIdentifier().Equal(net.IP{192, 0, 2, 5}) ||
			!bytes.Equal(got.GetOneOption(dhcpv4.OptionClientMachineIdentifier), c.req.GetOneOption(dhcpv4.OptionClientMachineIdentifier)) {
			t.Errorf("%s: got %s", name, got.Summary())
		}
		if vendor := got.GetOneOption(dhcpv4.OptionVendorSpecificInformation); (string(vendor) == "\x06\x01\x08\xff") != (c.class == classPXE) {
			t.Errorf("%s: option 43 is %x", name, vendor)
		}
	}
}

func TestReplyTo(t *testing.T) {
	req := request(t, dhcpv4.MessageTypeDiscover, "PXEClient", 0)
	if got := replyTo(req, &net.UDPAddr{IP: net.IPv4zero, Port: 68}).String(); got != "255.255.255.255:68" {
		t.Errorf("a new client: %s", got)
	}
	if got := replyTo(req, &net.UDPAddr{IP: net.IP{192, 0, 2, 9}, Port: 4011}).String(); got != "192.0.2.9:4011" {
		t.Errorf("a client with an address: %s", got)
	}
	req.GatewayIPAddr = net.IP{198, 51, 100, 1}
	if got := replyTo(req, &net.UDPAddr{IP: net.IP{198, 51, 100, 1}, Port: 67}).String(); got != "198.51.100.1:67" {
		t.Errorf("a relay: %s", got)
	}
}

// folder is one as `joist build netboot` makes it, with little inside.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ipxe, err := spec().IPXE()
	if err != nil {
		t.Fatal(err)
	}
	grub, err := spec().Grub()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{IPXEFile: string(ipxe), GrubFile: string(grub), "grub.cfg": string(grub), UEFIFile: "shim", BIOSFile: strings.Repeat("core ", 1000),
		InitrdFile: "initrd", "system.sqfs": strings.Repeat("image", 100_000)} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start runs a server on loopback.
func start(t *testing.T, answers *Answers) (web, tftpAt, dhcpAt string) {
	t.Helper()
	var at Sockets
	var err error
	if at.Web, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.PacketConn{&at.TFTP, &at.DHCP, &at.Direct} {
		if *c, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	web = "http://" + at.Web.Addr().String()
	f, err := OpenFolder(folder(t), web, web+AnswerPath)
	if err != nil {
		t.Fatal(err)
	}
	s := Server{Folder: f, Offers: Offers{netip.MustParseAddr("127.0.0.1"), web}, Answers: answers, Say: func(string, ...any) {}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, at) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the server does not end")
		}
		f.Close()
	})
	return web, at.TFTP.LocalAddr().String(), at.Direct.LocalAddr().String()
}

func get(t *testing.T, url string, head map[string]string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range head {
		req.Header.Set(k, v)
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestServeHTTP(t *testing.T) {
	web, _, _ := start(t, nil)
	if code, text := get(t, web+"/boot.ipxe", nil); code != 200 || !strings.HasPrefix(text, "#!ipxe\nset joist-url "+web+"\nset joist-answer "+web+"/answer\n# Joist") {
		t.Errorf("%d %q", code, text)
	}
	if code, text := get(t, web+"/grub/grub.cfg", nil); code != 200 || !strings.HasPrefix(text, "set joist_url="+web+"\nset joist_answer="+web+"/answer\n# Joist") {
		t.Errorf("%d %q", code, text)
	}
	// shim asks so, and does not follow a redirection
	if code, text := get(t, web+"//shimx64.efi", nil); code != 200 || text != "shim" {
		t.Errorf("%d %q", code, text)
	}
	if code, text := get(t, web+"/system.sqfs", map[string]string{"Range": "bytes=499995-"}); code != http.StatusPartialContent || text != "image" {
		t.Errorf("%d %q", code, text)
	}
	for _, name := range []string{"/", "/grub", "/link", "/../../etc/passwd", "/%2e%2e/x", "/answer"} {
		if code, text := get(t, web+name, nil); code != http.StatusNotFound {
			t.Errorf("%s: %d %q", name, code, text)
		}
	}
}

func TestServeTFTP(t *testing.T) {
	_, at, _ := start(t, nil)
	c, err := tftp.NewClient(at)
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(name string) (string, error) {
		from, err := c.Receive(name, "octet")
		if err != nil {
			return "", err
		}
		var b bytes.Buffer
		_, err = from.WriteTo(&b)
		return b.String(), err
	}
	for _, name := range []string{"grub.pxe", "/grub.pxe", `\grub.pxe`} {
		if text, err := fetch(name); err != nil || text != strings.Repeat("core ", 1000) {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
	}
	if text, err := fetch("/grub/grub.cfg"); err != nil || !strings.HasPrefix(text, "set joist_url=http://") {
		t.Errorf("%q, %v", text, err)
	}
	for _, name := range []string{"link", "../../etc/passwd", "grub", "none"} {
		if text, err := fetch(name); err == nil {
			t.Errorf("%s: got %q", name, text)
		}
	}
}

func TestServeDHCP(t *testing.T) {
	web, _, at := start(t, nil)
	c, err := net.Dial("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	for _, b := range [][]byte{[]byte("nonsense"), request(t, dhcpv4.MessageTypeRequest, "HTTPClient", iana.EFI_X86_64_HTTP).ToBytes()} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := dhcpv4.FromBytes(buf[:n]); err != nil || m.BootFileName != web+"/shimx64.efi" {
		t.Errorf("got %v, %v", m, err)
	}
}

const answerText = `[global]
keyboard = "en-us"
country = "at"
timezone = "UTC"
fqdn = "%s.test.example"
mailto = "root@test.example"
root-password = "correct horse"

[network]
source = "from-dhcp"

[disk-setup]
filesystem = "ext4"
disk-list = ["vda"]
`

func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("52-54-00-AA-00-01.toml", fmt.Sprintf(answerText, "one"))
	a, fl, err := LoadAnswers(dir)
	if err != nil || fl.Stops() {
		t.Fatal(err, fl)
	}
	web, _, _ := start(t, &a)
	post := func(body string) (int, string) {
		resp, err := http.Post(web+AnswerPath, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	of := func(macs ...string) string {
		var m machine
		for _, s := range macs {
			m.Cards = append(m.Cards, struct {
				MAC string `json:"mac"`
			}{s})
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if code, text := post(of("52:54:00:00:00:99", "52:54:00:aa:00:01")); code != 200 || !strings.Contains(text, "one.test.example") {
		t.Errorf("%d %q", code, text)
	}
	if code, text := post(of("52:54:00:00:00:99")); code != http.StatusNotFound || strings.Contains(text, "correct horse") {
		t.Errorf("%d %q", code, text)
	}
	if code, _ := post("["); code != http.StatusBadRequest {
		t.Errorf("nonsense: %d", code)
	}
	write(DefaultAnswer, fmt.Sprintf(answerText, "any"))
	if a, _, err = LoadAnswers(dir); err != nil {
		t.Fatal(err)
	}
	if text, by, err := a.choose(machine{}); err != nil || by != "default" || !strings.Contains(string(text), "any.test.example") {
		t.Errorf("%s, %q, %v", text, by, err)
	}
	write("server7.toml", fmt.Sprintf(answerText, "seven"))
	write("52-54-00-aa-00-02.toml", "[global]\nkeybord = \"de\"\n")
	if _, fl, err = LoadAnswers(dir); err != nil || !fl.Stops() || !strings.Contains(fl.Err().Error(), "no hardware address") || !strings.Contains(fl.Err().Error(), "keybord") {
		t.Errorf("%v, %v", fl, err)
	}
	if _, _, err := LoadAnswers(t.TempDir()); err == nil {
		t.Error("an empty folder was taken")
	}
}

func TestOpenFolder(t *testing.T) {
	dir := folder(t)
	for _, bad := range []string{"http://x y", "http://x\nset", "$x"} {
		if _, err := OpenFolder(dir, bad, ""); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := os.Remove(filepath.Join(dir, InitrdFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFolder(dir, "http://x", ""); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "joist build netboot") {
		t.Errorf("got %v", err)
	}
}
