package plan

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"joist/api/node"
	"joist/installer/answer"
	"joist/installer/preflight"
)

// VGUUIDSize is the length of a volume group's UUID in LVM's spelling; the
// UUID itself exists only after vgcreate.
const VGUUIDSize = 38

// HashSize is the length of the yescrypt hash that apply makes of a password:
// "$y$j9T$", 22 characters of salt, "$" and 43 of hash (crypt(5)).
const HashSize = 7 + 22 + 1 + 43

// SeedFile is one file of the node's configuration with its content.
type SeedFile struct {
	Path string // absolute, on the node
	Mode uint32
	Data []byte
}

// NodeConfig is what the node will know about itself.
func (p Plan) NodeConfig(vgUUID string) node.Config {
	a := p.Answer
	c := node.Config{
		Name: strings.ToLower(a.Global.Host()), Domain: strings.ToLower(a.Global.Domain()),
		InstallationID: p.InstallationID, Installed: p.Time.UTC().Format(time.RFC3339), Version: p.Image.Version,
		Timezone: a.Global.Timezone, Keyboard: a.Global.Keyboard, Country: strings.ToLower(a.Global.Country), MailTo: a.Global.MailTo,
		AptMirror: a.Install.AptMirror,
		Network:   node.Network{Bridge: "vmbr0", MAC: p.NIC.MAC, Link: p.nodeName(p.NIC), Pins: p.Pins, Method: "dhcp", Search: strings.ToLower(a.Global.Domain())},
		Storage:   p.storageConfig(vgUUID),
	}
	n := &c.Network
	if a.Network.Source == answer.FromAnswer {
		n.Method, n.CIDR, n.Gateway, n.DNS = "static", canonical(a.Network.CIDR), a.Network.Gateway, a.Network.DNS
	}
	n.SecondCIDR, n.SecondGateway, n.VLAN, n.MTU = canonical(a.Link.SecondCIDR), a.Link.SecondGateway, a.Link.VLAN, a.Link.MTU
	if len(p.Bond) > 0 {
		n.Bond = &node.Bond{Mode: a.Link.Bond.Mode, Hash: a.Link.Bond.Hash, LACPRate: a.Link.Bond.LACPRate}
		for _, card := range p.Bond {
			n.Bond.Cards = append(n.Bond.Cards, node.Card{MAC: card.MAC, Name: p.nodeName(card)})
		}
	}
	return c
}

// storageConfig says how the node finds its storage again. What is kept was
// made by us, so that it has the names that we give.
func (p Plan) storageConfig(id string) node.Storage {
	if p.ZFS() {
		return node.Storage{Layout: "zfs", PoolGUID: id, PoolName: PoolName, HostID: p.Identity.HostID(), ArcMax: p.ArcMax}
	}
	s := node.Storage{Layout: "lvm", VGUUID: id, VGName: VGName, ArrayUUID: p.arrayUUID()}
	if p.Answer.Disk.Filesystem == answer.XFS {
		s.FS = answer.XFS
	}
	for _, v := range p.Volumes {
		if v.Use == "thin-pool" {
			s.Thin = v.Name
		}
	}
	if p.Adopt != nil {
		s.Thin = "data"
	}
	return s
}

// canonical spells a prefix as Go does, so that everybody after us reads one form.
func canonical(cidr string) string {
	if x, err := netip.ParsePrefix(cidr); err == nil {
		return x.String()
	}
	return cidr
}

// Report is install-report.json: what was decided, without any secret.
type Report struct {
	Plan   Plan             `json:"plan"`
	Answer string           `json:"answer"`
	Checks preflight.Report `json:"checks"` // of the machine, as it was installed
}

// RSAKeySize is the length of the RSA host key's file: line ends fill it up.
const RSAKeySize = 2700

// NewRSAKey makes what RSAKeyFile will hold. It takes seconds on a slow machine,
// so that it is not made with the rest of the identity.
func NewRSAKey(r io.Reader) ([]byte, error) {
	key, err := rsa.GenerateKey(r, 3072)
	if err != nil {
		return nil, fmt.Errorf("make RSA host key: %w", err)
	}
	text, err := encodeKey(key)
	return append(text, bytes.Repeat([]byte("\n"), max(RSAKeySize-len(text), 0))...), err
}

// hostKeys makes the files of the node's SSH host keys. Without an RSA key in
// the identity the node makes one itself.
func (p Plan) hostKeys() ([]SeedFile, error) {
	ed, err := encodeKey(ed25519.NewKeyFromSeed(p.Identity.HostKey[:]))
	if err != nil {
		return nil, err
	}
	// a number between 1 and the order, which is so near to 2^256 that taking
	// 512 bits modulo it shows nothing (FIPS 186-5, A.2.1)
	sum := sha512.Sum512(append([]byte("joist ecdsa host key\x00"), p.Identity.HostKey[:]...))
	one := big.NewInt(1)
	d := new(big.Int).SetBytes(sum[:])
	d.Mod(d, new(big.Int).Sub(elliptic.P256().Params().N, one)).Add(d, one)
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d.FillBytes(make([]byte, 32)))
	if err != nil {
		return nil, fmt.Errorf("make ECDSA host key: %w", err)
	}
	ec, err := encodeKey(key)
	files := []SeedFile{{node.HostKeyFile, 0o600, ed}, {node.ECDSAKeyFile, 0o600, ec}}
	if p.Identity.RSAKey != nil {
		files = append(files, SeedFile{node.RSAKeyFile, 0o600, p.Identity.RSAKey})
	}
	return files, err
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, fmt.Errorf("encode host key: %w", err)
	}
	return pem.EncodeToMemory(block), nil
}

// Seed makes the files of the state volume. shadow is the hash of root's
// password.
func (p Plan) Seed(vgUUID, shadow string) ([]SeedFile, error) {
	conf, err := json.MarshalIndent(p.NodeConfig(vgUUID), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode node configuration: %w", err)
	}
	report, err := json.MarshalIndent(Report{Plan: p, Answer: p.Answer.String(), Checks: p.Checks}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode installation report: %w", err)
	}
	hostKeys, err := p.hostKeys()
	if err != nil {
		return nil, err
	}
	keys := ""
	for _, k := range p.Answer.Global.RootSSHKeys {
		keys += strings.TrimSpace(k) + "\n"
	}
	files := []SeedFile{
		{node.ConfigFile, 0o644, append(conf, '\n')},
		{node.ShadowFile, 0o600, []byte(shadow + "\n")},
		{node.KeysFile, 0o600, []byte(keys)},
		{node.HostIDFile, 0o444, []byte(p.Identity.MachineID + "\n")},
		{node.ReportFile, 0o600, append(report, '\n')},
	}
	files = append(files, hostKeys...)
	if f := p.Answer.FirstBoot; f.Source != "" {
		r := node.FirstBootRequest{URL: f.URL.Reveal(), Fingerprint: f.Fingerprint, Ordering: or(f.Ordering, node.OrderingUp)}
		if text := p.program(); text != nil {
			r.URL, r.Fingerprint = "", ""
			files = append(files, SeedFile{node.ProgramFile, 0o700, text})
		}
		request, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("encode first-boot program: %w", err)
		}
		files = append(files, SeedFile{node.FirstBootFile, 0o600, append(request, '\n')})
	}
	if c := p.Answer.Cluster; c.Address != "" {
		join, err := json.MarshalIndent(node.JoinRequest{Address: c.Address, Token: c.Token.Reveal(), Fingerprint: c.Fingerprint}, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("encode request to join: %w", err)
		}
		files = append(files, SeedFile{node.JoinFile, 0o600, append(join, '\n')})
	}
	return files, nil
}

// seedFiles lists them with their sizes: UUID and hash have fixed ones.
func (p Plan) seedFiles() ([]File, error) {
	shadow := p.Answer.Global.RootPasswordHashed.Reveal()
	if shadow == "" {
		shadow = strings.Repeat("x", HashSize)
	}
	files, err := p.Seed(p.placeholder(), shadow)
	if err != nil {
		return nil, err
	}
	var out []File
	for _, f := range files {
		out = append(out, File{Path: f.Path, Bytes: int64(len(f.Data))})
	}
	if p.Identity.RSAKey == nil { // it is in the making
		at := slices.IndexFunc(out, func(f File) bool { return f.Path == node.ECDSAKeyFile })
		out = slices.Insert(out, at+1, File{Path: node.RSAKeyFile, Bytes: RSAKeySize})
	}
	return out, nil
}
