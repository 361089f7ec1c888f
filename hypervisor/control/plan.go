package control

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/api/net"
	"joist/hypervisor/guest"
)

// Change is what a request wants of a configuration.
type Change struct {
	Set    map[string]string
	Delete []string
	Digest string // of the configuration that the caller has seen, "" for any
	// SkipLock and a change of the lock itself are for root@pam; the caller
	// checks that.
	SkipLock bool
	Force    bool // delete volumes that are taken out instead of keeping them as unused
}

// plan is how a configuration changes, volumes aside: those in New get their
// id when they are made, those in Refs are looked at, those in Free go after
// the new configuration is stored.
type plan struct {
	Config map[string]string
	Lock   string
	New    []alloc
	Refs   []string // keys whose volume was not there before
	Free   []string // volume ids
}

type planner struct {
	plan
	kind   guest.Kind
	vmid   int
	old    map[string]string
	change Change
	rand   io.Reader
}

// makePlan is pure but for the random numbers it reads. Values come out in
// their normal form.
func makePlan(kind guest.Kind, vmid int, old map[string]string, lock string, ch Change, rand io.Reader) (plan, error) {
	p := &planner{kind: kind, vmid: vmid, old: old, change: ch, rand: rand, plan: plan{Config: maps.Clone(old), Lock: lock}}
	if p.Config == nil {
		p.Config = map[string]string{}
	}
	for _, key := range ch.Delete {
		if err := p.remove(alias(kind, key)); err != nil {
			return plan{}, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(ch.Set)) {
		to := alias(kind, key)
		if _, both := ch.Set[to]; both && to != key {
			return plan{}, badParam(key, "is another name of '%s', which is given too", to)
		}
		if err := p.set(to, ch.Set[key]); err != nil {
			if _, is := err.(*ParamError); is {
				return plan{}, err
			}
			return plan{}, &ParamError{Param: key, Text: err.Error()}
		}
	}
	return p.plan, nil
}

func alias(kind guest.Kind, key string) string {
	if kind == guest.KVM && key == "cdrom" {
		return "ide2"
	}
	return key
}

// required keys cannot be deleted.
var required = map[guest.Kind][]string{guest.LXC: {"rootfs", "arch", "unprivileged"}}

func (p *planner) remove(key string) error {
	if _, ok := wire.Lookup(wireKind(p.kind), key); !ok || key == "digest" || key == "meta" {
		return badParam("delete", "unknown option '%s'", key)
	}
	if slices.Contains(required[p.kind], key) {
		return badParam("delete", "unable to delete required option '%s'", key)
	}
	if key == "lock" {
		p.Lock = ""
		return nil
	}
	if value, ok := p.Config[key]; ok && volumeKey(p.kind, key) {
		p.detach(key, value, p.change.Force || strings.HasPrefix(key, "unused"))
	}
	delete(p.Config, key)
	return nil
}

// detach lets go of a volume: what is the guest's own is kept as unused, or
// deleted where that is wanted. CDs and the like are just taken out.
func (p *planner) detach(key, value string, drop bool) {
	id := volumeOf(p.kind, key, value)
	if id == "" || !owned(p.vmid, id) {
		return
	}
	delete(p.Config, key)
	for _, other := range volumesOf(p.kind, p.Config) {
		if other == id { // still named by another key
			return
		}
	}
	if drop {
		p.Free = append(p.Free, id)
		return
	}
	for n := 0; ; n++ {
		if k := fmt.Sprintf("unused%d", n); p.Config[k] == "" {
			p.Config[k] = id
			return
		}
	}
}

func (p *planner) set(key, value string) error {
	norm, err := wire.Check(wireKind(p.kind), key, value)
	if err != nil {
		return err
	}
	switch {
	case key == "lock":
		p.Lock = norm
		return nil
	case key == "template":
		if norm == "1" {
			return badParam(key, "templates are not supported on this node")
		}
		return nil
	case key == "vmgenid" && norm == "0":
		delete(p.Config, key)
		return nil
	case key == "vmgenid" && norm == "1":
		norm, err = newUUID(p.rand)
	case strings.HasPrefix(key, "unused"):
		return badParam(key, "only the node itself sets unused volumes")
	case volumeKey(p.kind, key) && p.kind == guest.KVM:
		return p.setDrive(key, norm)
	case volumeKey(p.kind, key):
		return p.setMount(key, norm)
	case strings.HasPrefix(key, "net"):
		norm, err = withMAC(p.kind, norm, p.rand)
	}
	if err != nil {
		return err
	}
	p.Config[key] = norm
	return nil
}

func (p *planner) setDrive(key, value string) error {
	d, err := drive.Parse(value)
	if err != nil {
		return err
	}
	req, fresh := drive.ParseRequest(d.Volume)
	switch {
	case fresh && req.CloudInit:
		return badParam(key, "cloud-init drives are not supported on this node")
	case fresh && d.CDROM:
		return badParam(key, "a CD drive takes an existing volume")
	case !fresh && d.Import != "":
		return badParam(key, "import-from needs a new volume: STORAGE:0,import-from=VOLUME")
	case fresh && req.Size <= 0 && d.Import == "" && key != "efidisk0":
		return badParam(key, "a new volume needs a size: STORAGE:GIBIBYTES")
	}
	if fresh {
		a := alloc{Key: key, Storage: req.Storage, Size: req.Size, Format: d.Format, Import: d.Import}
		if a.Import != "" {
			if a.Format != "" && a.Format != "raw" {
				return badParam(key, "images are imported into volumes of format raw")
			}
			a.Format = "raw"
		}
		d.Import, d.Format, d.Size = "", "", 0
		p.New = append(p.New, a)
	} else if !d.Empty() {
		if p.same(key, d.Volume) && d.Size == 0 {
			if was, err := drive.Parse(p.old[key]); err == nil {
				d.Size = was.Size
			}
		}
	}
	p.replace(key, d.Volume, fresh || d.Empty())
	p.Config[key] = d.String()
	return nil
}

func (p *planner) setMount(key, value string) error {
	m, err := drive.ParseMount(key, value)
	if err != nil {
		return err
	}
	req, fresh := drive.ParseRequest(m.Volume)
	switch {
	case fresh && (req.CloudInit || req.Size <= 0):
		return badParam(key, "a new volume needs a size: STORAGE:GIBIBYTES")
	case key == "rootfs" && p.old["rootfs"] != "" && (fresh || !p.same(key, m.Volume)):
		return badParam(key, "the root volume of a container cannot be exchanged")
	}
	if fresh {
		m.Size = 0
		p.New = append(p.New, alloc{Key: key, Storage: req.Storage, Size: req.Size, Format: "raw"})
	} else if p.same(key, m.Volume) && m.Size == 0 {
		if was, err := drive.ParseMount(key, p.old[key]); err == nil {
			m.Size = was.Size
		}
	}
	p.replace(key, m.Volume, fresh)
	p.Config[key] = m.String()
	return nil
}

func (p *planner) same(key, volid string) bool {
	return volumeOf(p.kind, key, p.old[key]) == volid
}

// replace gives the key another volume: the old one becomes unused, the new
// one, if it was unused, no longer is.
func (p *planner) replace(key, volid string, noRef bool) {
	if old, ok := p.Config[key]; ok && !p.same(key, volid) {
		p.detach(key, old, p.change.Force)
	}
	if noRef {
		return
	}
	for k, v := range p.Config {
		if strings.HasPrefix(k, "unused") && v == volid {
			delete(p.Config, k)
		}
	}
	if !p.same(key, volid) {
		p.Refs = append(p.Refs, key)
	}
}

// withMAC gives a network card an address if it has none.
func withMAC(kind guest.Kind, value string, rand io.Reader) (string, error) {
	if kind == guest.LXC {
		n, err := net.ParseLXC(value)
		if err == nil && n.MAC == nil {
			n.MAC, err = net.NewMAC(rand)
		}
		return n.String(), err
	}
	n, err := net.Parse(value)
	if err == nil && n.MAC == nil {
		n.MAC, err = net.NewMAC(rand)
	}
	return n.String(), err
}

// newUUID makes a random UUID, RFC 9562 version 4.
func newUUID(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("make UUID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// placed puts a volume that was made into the configuration.
func (p *plan) placed(kind guest.Kind, key string, v made) error {
	value := p.Config[key]
	if kind == guest.LXC {
		m, err := drive.ParseMount(key, value)
		if err != nil {
			return err
		}
		m.Volume, m.Size = v.ID, v.Size
		p.Config[key] = m.String()
		return nil
	}
	d, err := drive.Parse(value)
	if err != nil {
		return err
	}
	d.Volume, d.Size = v.ID, v.Size
	p.Config[key] = d.String()
	return nil
}
