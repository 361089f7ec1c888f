package guestapi

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/api/schema"
	"joist/hypervisor/control"
	"joist/hypervisor/guest"
	"joist/hypervisor/server"
	"joist/hypervisor/storage"
)

// text is a parameter as configurations hold it.
func text(v any) string {
	switch x := v.(type) {
	case bool:
		return strconv.Itoa(server.Bit(x))
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	case []string:
		return strings.Join(x, ",")
	default:
		return fmt.Sprint(x)
	}
}

// settings picks the configuration keys out of the parameters.
func (k kind) settings(r *server.Request, besides ...string) map[string]string {
	set := map[string]string{}
	for name, v := range r.Params {
		_, known := wire.Lookup(wire.Kind(k.kind), name)
		if known && name != "digest" && !slices.Contains(besides, name) {
			set[name] = text(v)
		}
	}
	return set
}

// privileges that changing a key takes; what is not listed is an option.
var privileges = map[string]string{
	"memory": "Memory", "balloon": "Memory", "shares": "Memory", "swap": "Memory",
	"cores": "CPU", "sockets": "CPU", "cpu": "CPU", "vcpus": "CPU", "cpulimit": "CPU", "cpuunits": "CPU", "numa": "CPU", "affinity": "CPU",
	"net": "Network", "nameserver": "Network", "searchdomain": "Network", "hostname": "Network", "ipconfig": "Network",
	"rootfs": "Disk", "mp": "Disk", "unused": "Disk", "scsi": "Disk", "virtio": "Disk", "sata": "Disk", "ide": "Disk", "efidisk": "Disk",
	"cdrom": "CDROM", "bios": "HWType", "machine": "HWType", "scsihw": "HWType", "vga": "HWType", "serial": "HWType", "usb": "HWType",
	"hostpci": "HWType", "parallel": "HWType", "audio": "HWType", "rng": "HWType", "watchdog": "HWType", "arch": "HWType",
	"ciuser": "Cloudinit", "cipassword": "Cloudinit", "cicustom": "Cloudinit", "citype": "Cloudinit", "ciupgrade": "Cloudinit", "sshkeys": "Cloudinit",
}

// rootOnly are keys that reach beyond the guest.
var rootOnly = []string{"args", "hookscript", "affinity", "lock"}

// privilege is what setting a key to a value takes on the guest.
func privilege(key, value string) string {
	family := strings.TrimRight(key, "0123456789")
	p := privileges[family]
	if p == "" {
		p = privileges[key]
	}
	if d, err := drive.Parse(value); p == "Disk" && err == nil && d.CDROM {
		p = "CDROM"
	}
	if p == "" {
		p = "Options"
	}
	return "VM.Config." + p
}

// admit checks that the caller may change these keys, and use the storages
// that the values name.
func (k kind) admit(r *server.Request, set map[string]string, remove []string, old map[string]string) error {
	at := fmt.Sprintf("/vms/%d", vmid(r))
	may := func(key, value string) error {
		if slices.Contains(rootOnly, key) || strings.HasPrefix(key, "hostpci") || strings.HasPrefix(key, "dev") {
			if !isRoot(r) && old[key] != value {
				return &server.Error{Status: 403, Text: fmt.Sprintf("only root can set '%s' config", key)}
			}
		}
		if p := privilege(key, value); !r.May(at, p) {
			return server.Denied(at, p)
		}
		return nil
	}
	for _, key := range remove {
		if err := may(key, ""); err != nil {
			return err
		}
	}
	for key, value := range set {
		if err := may(key, value); err != nil {
			return err
		}
		if err := k.admitStorage(r, key, value); err != nil {
			return err
		}
	}
	return nil
}

// admitStorage: new volumes take space; images that are read must be ones that
// the caller may see.
func (k kind) admitStorage(r *server.Request, key, value string) error {
	volume, source := "", ""
	if k.kind == guest.LXC {
		if !drive.IsMount(key) {
			return nil
		}
		m, err := drive.ParseMount(key, value)
		if err != nil {
			return nil // whoever checks values says what is wrong
		}
		volume = m.Volume
	} else {
		if _, _, ok := drive.ParseKey(key); !ok && key != "cdrom" {
			return nil
		}
		d, err := drive.Parse(value)
		if err != nil {
			return nil
		}
		volume, source = d.Volume, d.Import
	}
	if req, ok := drive.ParseRequest(volume); ok {
		if at := "/storage/" + req.Storage; !r.May(at, "Datastore.AllocateSpace") {
			return server.Denied(at, "Datastore.AllocateSpace")
		}
		volume = ""
	}
	for _, id := range []string{volume, source} {
		pool, name, err := storage.SplitID(id)
		if err != nil || storage.Owner(name) == vmid(r) {
			continue
		}
		at := "/storage/" + pool
		if !r.May(at, "Datastore.AllocateSpace") && !r.May(at, "Datastore.Audit") {
			return server.Denied(at, "Datastore.Audit")
		}
	}
	return nil
}

// change reads what a configuration request wants.
func (k kind) change(r *server.Request) (control.Change, error) {
	v, err := k.view(r)
	if err != nil {
		return control.Change{}, err
	}
	ch := control.Change{Set: k.settings(r), Delete: r.Params.List("delete"), Digest: r.Params.String("digest"), Force: r.Params.Bool("force", false)}
	if ch.SkipLock, err = skipLock(r); err != nil {
		return ch, err
	}
	for _, key := range ch.Delete {
		if _, both := ch.Set[key]; both {
			return ch, server.ParamErrorf(key, "duplicate option: it is to be set and deleted")
		}
	}
	for _, key := range r.Params.List("revert") {
		if was, ok := v.Running[key]; ok {
			ch.Set[key] = was
		} else if v.Running != nil {
			ch.Delete = append(ch.Delete, key)
		}
	}
	return ch, k.admit(r, ch.Set, ch.Delete, v.Config)
}

func (k kind) configure(ctx context.Context, r *server.Request) (any, error) {
	ch, err := k.change(r)
	if err != nil {
		return nil, err
	}
	if err := k.a.Guests.Configure(ctx, k.kind, vmid(r), r.Who.Name(), ch); err != nil {
		return nil, failed(err)
	}
	return nil, nil
}

func (k kind) configureTask(_ context.Context, r *server.Request) (any, error) {
	ch, err := k.change(r)
	if err != nil {
		return nil, err
	}
	return answered(k.a.Guests.ConfigureTask(k.kind, vmid(r), r.Who.Name(), ch))
}

// createParams are the keys of a configuration and what else a creation takes.
// Options of the schema that this node cannot serve are declared: asking for
// them gets an answer that says so.
func (k kind) createParams() []schema.Param {
	out := append(configParams(k.kind), vmidP, textP("pool", "pool to add it to"), textP("storage", "storage for volumes without one"),
		boolP("start", "start it when it is made"), boolP("force", "replace an existing guest"), boolP("unique", "has no effect"),
		boolP("ha-managed", "make it highly available"), schema.Param{Name: "bwlimit", Type: schema.Number, Optional: true, Text: "has no effect"})
	if k.kind == guest.KVM {
		return append(out, textP("archive", "backup to restore"), boolP("live-restore", "has no effect"),
			textP("import-working-storage", "has no effect"))
	}
	return append(out, schema.Param{Name: "ostemplate", MaxLen: 400, Text: "volume id of the template"},
		schema.Param{Name: "password", Optional: true, MaxLen: 1024, Text: "root's password"},
		schema.Param{Name: "ssh-public-keys", Optional: true, MaxLen: 65536, Text: "root's keys, one on each line"},
		boolP("restore", "restore a backup"), boolP("ignore-unpack-errors", "has no effect"))
}

// refused are parameters that ask for what this node does not do.
func refused(r *server.Request) error {
	p := r.Params
	switch {
	case p.String("pool") != "":
		return server.Errorf("pool '%s' does not exist", p.String("pool"))
	case p.String("archive") != "":
		return server.ParamErrorf("archive", "restoring backups is not supported on this node")
	case p.Bool("restore", false):
		return server.ParamErrorf("restore", "restoring backups is not supported on this node")
	case p.Bool("force", false):
		return server.ParamErrorf("force", "replacing a guest is not supported on this node: destroy it first")
	case p.Bool("ha-managed", false):
		return server.ParamErrorf("ha-managed", "high availability is not supported on this node")
	}
	return nil
}

func (k kind) create(ctx context.Context, r *server.Request) (any, error) {
	if err := refused(r); err != nil {
		return nil, err
	}
	set := k.settings(r)
	if err := k.admit(r, set, nil, nil); err != nil {
		return nil, err
	}
	req := control.CreateRequest{Kind: k.kind, VMID: vmid(r), User: r.Who.Name(), Set: set, Start: r.Params.Bool("start", false),
		Storage: r.Params.String("storage")}
	if k.kind == guest.LXC {
		req.Template, req.Password = r.Params.String("ostemplate"), r.Params.String("password")
		for line := range strings.Lines(r.Params.String("ssh-public-keys")) {
			if line = strings.TrimSpace(line); line != "" {
				req.SSHKeys = append(req.SSHKeys, line)
			}
		}
		if err := k.admitTemplate(r, req); err != nil {
			return nil, err
		}
	}
	return answered(k.a.Guests.Create(ctx, req))
}

func (k kind) admitTemplate(r *server.Request, req control.CreateRequest) error {
	if req.Password != "" && (len(req.Password) < 5 || strings.ContainsAny(req.Password, "\n\r\x00")) {
		return server.ParamErrorf("password", "value must be at least 5 characters long, on one line")
	}
	pool, _, err := storage.SplitID(req.Template)
	if err != nil {
		return server.ParamErrorf("ostemplate", "%s", err)
	}
	if at := "/storage/" + pool; !r.May(at, "Datastore.AllocateSpace") && !r.May(at, "Datastore.Audit") {
		return server.Denied(at, "Datastore.Audit")
	}
	if req.Set["rootfs"] == "" { // it goes to the storage asked for, or to any
		at := strings.TrimSuffix("/storage/"+req.Storage, "/")
		if !r.May(at, "Datastore.AllocateSpace") {
			return server.Denied(at, "Datastore.AllocateSpace")
		}
	}
	return nil
}
