// Package node is what a node knows about itself: the configuration that the
// installer seeds, that every boot reads before any network or API, and the
// places where it and its neighbours lie. Everything here is node-local; what
// the cluster shares is in the store.
package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Places on the node. State is the volume mounted at /var.
const (
	StateDir       = "/var/lib/joist"                  // 0755 root
	NodeDir        = StateDir + "/node"                // 0700 root: the files named below
	EtcdDir        = StateDir + "/etcd"                // 0700 root: the cluster store's data
	ClusterDir     = StateDir + "/cluster"             // 0700 root: what makes this node one of a cluster
	JoinFile       = ClusterDir + "/request.json"      // 0600: JoinRequest, until it is taken up
	FirstBootDir   = StateDir + "/firstboot"           // 0700 root: the first start's journal, and its program
	FirstBootFile  = FirstBootDir + "/request.json"    // 0600: FirstBootRequest, until it is carried out
	FirstBootState = FirstBootDir + "/state.json"      // FirstBoot
	ProgramFile    = FirstBootDir + "/program"         // 0700: what the request names, while it runs and after it failed
	TaskDir        = StateDir + "/tasks"               // 0750 root: task status and logs
	TLSDir         = NodeDir + "/tls"                  // 0700 root: node.crt, node.key
	LocalDir       = "/var/lib/vz"                     // the volume behind storage "local"
	LogDir         = "/var/log/joist"                  // one bounded log per service
	RunDir         = "/run/joist"                      // 0755 root, tmpfs
	GuestRun       = RunDir + "/guests"                // 0711 root: a folder per running guest, named by VMID
	InitSocket     = RunDir + "/init.sock"             // PID 1's control socket
	NetState       = RunDir + "/network.json"          // what `joistd network` has set up (NetStatus)
	APIState       = RunDir + "/api.json"              // what joistd serves (APIStatus)
	AlertFile      = RunDir + "/alerts.json"           // what joistd found that a person should look at ([]Alert)
	ConfigFile     = NodeDir + "/node.json"            // Config
	ShadowFile     = NodeDir + "/root.shadow"          // 0600: crypt(3) hash of root's password, one line
	KeysFile       = NodeDir + "/authorized_keys"      // root's SSH keys
	ImageKeysFile  = "/usr/lib/joist/authorized_keys"  // root's SSH keys that the image was built with
	HostIDFile     = NodeDir + "/machine-id"           // 32 hex digits
	HostKeyFile    = NodeDir + "/ssh_host_ed25519_key" // 0600
	ECDSAKeyFile   = NodeDir + "/ssh_host_ecdsa_key"   // 0600
	RSAKeyFile     = NodeDir + "/ssh_host_rsa_key"     // 0600
	BootMedium     = RunDir + "/boot-medium.json"      // what stage 1 found the system on (Medium); missing where it was fetched, or in a slot
	ReportFile     = NodeDir + "/install-report.json"

	CrashDir       = StateDir + "/crash"           // 0700 root: what the kernel said when it died
	InstallDir     = StateDir + "/install"         // 0700 root: how this node was installed
	InstallJournal = InstallDir + "/journal.json"  // its steps with their times
	InstallLog     = InstallDir + "/installer.log" // what the installer wrote
)

// Config is node.json: the identity and the network of one node.
type Config struct {
	Name           string   `json:"name"`             // host name without domain
	Domain         string   `json:"domain,omitempty"` //
	InstallationID string   `json:"installation_id"`  // 16 hex digits, made by the installer
	Installed      string   `json:"installed"`        // RFC 3339 time of the installation
	Version        string   `json:"version"`          // Joist version that installed it
	Timezone       string   `json:"timezone"`         // "Europe/Vienna", "UTC"
	Keyboard       string   `json:"keyboard"`         // answer file's name: "de", "en-us"
	Country        string   `json:"country"`          //
	MailTo         string   `json:"mailto,omitempty"` //
	Network        Network  `json:"network"`
	Storage        Storage  `json:"storage"`
	AptMirror      string   `json:"apt_mirror,omitempty"` // base URL written into containers' apt sources
	NTP            []string `json:"ntp,omitempty"`        //
}

// Medium is boot-medium.json. It stays true after the medium was copied to
// memory, as long as the device is the same.
type Medium struct {
	Device string `json:"device"` // kernel's name: "sdb1"
	Seq    string `json:"seq"`    // diskseq of its disk, "" on a kernel that has none
	// Slot is "A" or "B" when the device is a slot whose system installs on its
	// own disk.
	Slot string `json:"slot,omitempty"`
}

// Storage says what the installer made of the disk.
type Storage struct {
	Layout string `json:"layout"`  // "lvm" or "zfs"
	VGUUID string `json:"vg_uuid"` // as `vgs -o vg_uuid` prints it
	VGName string `json:"vg_name"` // "joist"
	Thin   string `json:"thin"`    // thin pool "data"

	FS        string `json:"fs,omitempty"`         // of state and local: "xfs"; ext4 when empty
	ArrayUUID string `json:"array_uuid,omitempty"` // md array below the volume group, as mdadm prints it
	PoolGUID  string `json:"pool_guid,omitempty"`  // as `zpool get guid` prints it
	PoolName  string `json:"pool_name,omitempty"`  // "rpool"
	HostID    string `json:"host_id,omitempty"`    // 8 hex digits: the host that the pool belongs to
	ArcMax    int64  `json:"arc_max,omitempty"`    // bytes of memory that ZFS may cache in
}

// Network is the management network: one bridge over one link, which may be a
// bond of several cards. With a tag the address is on a VLAN link of the
// bridge, so that guests can use the bridge untagged and with tags of their own.
type Network struct {
	Bridge  string   `json:"bridge"`            // "vmbr0"
	MAC     string   `json:"mac"`               // hardware address of the link that carries the bridge
	Link    string   `json:"link"`              // its name when it was installed; MAC wins
	Method  string   `json:"method"`            // "dhcp" or "static"
	CIDR    string   `json:"cidr,omitempty"`    // static: "192.0.2.10/24" or "2001:db8::10/64"
	Gateway string   `json:"gateway,omitempty"` // static
	DNS     []string `json:"dns,omitempty"`     // static; with dhcp it adds to what the lease says
	Search  string   `json:"search,omitempty"`  //

	SecondCIDR    string `json:"second_cidr,omitempty"`    // static address of the other family
	SecondGateway string `json:"second_gateway,omitempty"` //
	VLAN          int    `json:"vlan,omitempty"`           // 802.1Q tag of the addresses, 0: untagged
	MTU           int    `json:"mtu,omitempty"`            // of cards, bond and bridge, 0: the kernel's
	Bond          *Bond  `json:"bond,omitempty"`           // below the bridge; MAC is then its first card's
	Pins          []Card `json:"pins,omitempty"`           // names that cards have whatever the kernel calls them
}

// Bond joins cards to one link (bonding(4): Documentation/networking/bonding.rst).
type Bond struct {
	Mode     string `json:"mode"`                // "active-backup", "802.3ad", …
	Hash     string `json:"hash,omitempty"`      // xmit_hash_policy
	LACPRate string `json:"lacp_rate,omitempty"` // "slow" or "fast"
	Cards    []Card `json:"cards"`
}

// Card is a network card by hardware address, and its name when the node was
// installed.
type Card struct {
	MAC  string `json:"mac"`
	Name string `json:"name"`
}

// NetStatus is network.json in RunDir, rewritten whenever something changes.
type NetStatus struct {
	Bridge    string   `json:"bridge"`
	Link      string   `json:"link"`
	Bond      bool     `json:"bond,omitempty"` // Link joins several cards
	Up        bool     `json:"up"`             // an address is set
	Method    string   `json:"method"`         //
	Addresses []string `json:"addresses"`      // prefixes
	Gateway   string   `json:"gateway,omitempty"`
	DNS       []string `json:"dns,omitempty"`
	Search    string   `json:"search,omitempty"`
	Error     string   `json:"error,omitempty"` // last failure, empty once it works
}

// Address returns the first address of the management bridge, the zero Addr
// when there is none yet.
func (s NetStatus) Address() netip.Addr {
	for _, a := range s.Addresses {
		if p, err := netip.ParsePrefix(a); err == nil {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// APIStatus is api.json in RunDir, written when joistd listens.
type APIStatus struct {
	Port        int    `json:"port"`
	Fingerprint string `json:"fingerprint"` // SHA-256 of the certificate, AA:BB:…
	Since       string `json:"since"`       // RFC 3339
}

// Alert is something about the node that a person should look at, for as long
// as it is so.
type Alert struct {
	Code  string `json:"code"`
	Level string `json:"level"`          // "warning", or "error" where something is lost if nothing is done
	Path  string `json:"path,omitempty"` // the disk or file that it is about
	Text  string `json:"text"`
	Cure  string `json:"cure,omitempty"`
	Since int64  `json:"since"` // epoch
}

// Service is one line of what PID 1 supervises.
type Service struct {
	Name     string `json:"name"`
	State    string `json:"state"` // starting, running, backoff, stopped, failed, done
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	Since    string `json:"since"`
	Error    string `json:"error,omitempty"` // why it last ended
}

// InitRequest is one line of JSON sent to InitSocket; InitReply comes back.
// Verbs: "status", "reboot", "poweroff", "restart" and "stop"/"start" NAME.
type InitRequest struct {
	Verb string `json:"verb"`
	Name string `json:"name,omitempty"`
}

// InitReply answers an InitRequest.
type InitReply struct {
	OK       bool      `json:"ok"`
	Error    string    `json:"error,omitempty"`
	Services []Service `json:"services,omitempty"`
	Phases   []Phase   `json:"phases,omitempty"` // of the boot, in order
}

// Phase is one step of the boot.
type Phase struct {
	Name  string `json:"name"`
	State string `json:"state"` // one of the Phase… constants
	Error string `json:"error,omitempty"`
}

// The states of a Phase.
const (
	PhaseWaiting = "waiting"
	PhaseRunning = "running"
	PhaseDone    = "done"
	PhaseFailed  = "failed"
)

// Booted reports whether every phase of the boot has ended, well or badly:
// devices are there, the thin pool is active as far as it can be.
func (r InitReply) Booted() bool {
	for _, p := range r.Phases {
		if p.State == PhaseWaiting || p.State == PhaseRunning {
			return false
		}
	}
	return true
}

// JoinRequest asks a node to join a cluster at its next start. The installer
// leaves it; the node erases it as soon as it has made a key of its own.
type JoinRequest struct {
	Address     string `json:"address"`               // of a node of the cluster, with or without port
	Token       string `json:"token"`                 // "joist-<id>-<secret>", good for one join
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of the cluster's certificate, AA:BB:…
}

// HostKey is one of the node's SSH host keys.
type HostKey struct {
	Kind, File string
	Bits       string
}

// HostKeys lists them as ssh-keygen(1) makes them, the one that is preferred
// first.
func HostKeys() []HostKey {
	return []HostKey{{"ed25519", HostKeyFile, "256"}, {"ecdsa", ECDSAKeyFile, "256"}, {"rsa", RSAKeyFile, "3072"}}
}

// FirstBootRequest is a program that a node runs once, at its first start. The
// installer leaves it; it is erased when the program has run.
type FirstBootRequest struct {
	URL         string `json:"url,omitempty"`         // where it is fetched; "": the installer left it as ProgramFile
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of its server's certificate
	Ordering    string `json:"ordering"`              // one of the Ordering… constants
}

// The moments of a first start.
const (
	OrderingBefore  = "before-network" // the network waits until the program has ended
	OrderingNetwork = "network-online"
	OrderingUp      = "fully-up"
)

// FirstBoot says how far the first start is, or how it went.
type FirstBoot struct {
	Installation string          `json:"installation_id"` // whose first start it is
	Begun        int64           `json:"begun"`           // epoch
	Ended        int64           `json:"ended,omitempty"` // 0 while it goes on
	Steps        []FirstBootStep `json:"steps"`
	Program      *Program        `json:"program,omitempty"`
}

// FirstBootStep is one line of it.
type FirstBootStep struct {
	Name   string `json:"name"`
	State  string `json:"state"` // waiting, done, failed
	Detail string `json:"detail,omitempty"`
	Time   int64  `json:"time,omitempty"` // since when
}

// Program is what the program came to.
type Program struct {
	Begun int64  `json:"begun"`
	Ended int64  `json:"ended,omitempty"`
	Error string `json:"error,omitempty"` // why it failed
}

// Load reads Config below root ("/" on a node).
func Load(root string) (Config, error) {
	var c Config
	b, err := os.ReadFile(filepath.Join(root, ConfigFile))
	if err != nil {
		return c, fmt.Errorf("read node configuration: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read node configuration %s: %w", ConfigFile, err)
	}
	return c, nil
}

// WriteJSON replaces the file name with v, durably: written beside it, synced,
// renamed.
func WriteJSON(name string, perm os.FileMode, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(name, perm, append(b, '\n'))
}

// WriteFile replaces the file name with b, durably.
func WriteFile(name string, perm os.FileMode, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
