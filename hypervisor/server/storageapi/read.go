package storageapi

import (
	"context"
	"crypto/sha1"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"joist/hypervisor/server"
	"joist/hypervisor/storage"
)

// patience is how long a list waits for one storage that does not answer.
const patience = 5 * time.Second

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func sees(r *server.Request, id string) bool {
	return r.May("/storage/"+id, "Datastore.Audit") || r.May("/storage/"+id, "Datastore.AllocateSpace")
}

func joined(content []string) string {
	c := slices.Clone(content)
	slices.Sort(c)
	return strings.Join(c, ",")
}

// described is a definition as the API shows it.
func described(c storage.Config) map[string]any {
	b, err := json.Marshal(c)
	if err != nil {
		b = []byte(c.ID)
	}
	m := map[string]any{"storage": c.ID, "type": c.Type, "content": joined(c.Content), "digest": fmt.Sprintf("%x", sha1.Sum(b))}
	if c.Shared {
		m["shared"] = 1
	}
	if c.Disable {
		m["disable"] = 1
	}
	for k, v := range map[string]string{"path": c.Path, "vgname": c.VGName, "thinpool": c.Thin, "pool": c.Pool} {
		if v != "" {
			m[k] = v
		}
	}
	return m
}

func (a *API) definitions(_ context.Context, r *server.Request) (any, error) {
	out := []map[string]any{}
	for _, c := range a.Storages.Configs() {
		if t := r.Params.String("type"); sees(r, c.ID) && (t == "" || t == c.Type) {
			out = append(out, described(c))
		}
	}
	return out, nil
}

func (a *API) definition(_ context.Context, r *server.Request) (any, error) {
	c, ok := a.Storages.Config(r.Params.String("storage"))
	if !ok {
		return nil, server.Errorf("storage '%s' does not exist", r.Params.String("storage"))
	}
	return described(c), nil
}

// row is one storage with how full it is. One that does not answer is not
// active; that is for its row to say, not for the list to fail.
func (a *API) row(ctx context.Context, c storage.Config) map[string]any {
	m := map[string]any{"type": c.Type, "content": joined(c.Content), "enabled": flag(!c.Disable), "shared": flag(c.Shared),
		"active": 0, "total": int64(0), "used": int64(0), "avail": int64(0)}
	if c.Disable {
		return m
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := a.Storages.Pool(c.ID)
	if err != nil {
		return m
	}
	s, err := p.Status(ctx)
	if err != nil {
		return m
	}
	m["active"], m["total"], m["used"], m["avail"] = flag(s.Active), s.Total, s.Used, s.Avail
	return m
}

func (a *API) list(ctx context.Context, r *server.Request) (any, error) {
	out := []map[string]any{}
	want := r.Params.List("content")
	for _, c := range a.Storages.Configs() {
		id, target := r.Params.String("storage"), r.Params.String("target")
		switch {
		case !sees(r, c.ID), !c.Here(), id != "" && id != c.ID, r.Params.Bool("enabled", false) && c.Disable:
			continue
		case target != "" && target != a.Node && !c.Shared:
			continue
		case slices.ContainsFunc(want, func(w string) bool { return !c.Holds(w) }):
			continue
		}
		m := a.row(ctx, c)
		m["storage"] = c.ID
		if total := m["total"].(int64); total > 0 {
			m["used_fraction"] = float64(m["used"].(int64)) / float64(total)
		}
		if r.Params.Bool("format", false) {
			m["formats"] = map[string]any{"supported": formats(c.Type), "default": "raw"}
		}
		out = append(out, m)
	}
	return out, nil
}

func formats(kind string) []string {
	if kind == "dir" {
		return []string{"qcow2", "raw"}
	}
	return []string{"raw"}
}

func (a *API) index(_ context.Context, r *server.Request) (any, error) {
	if _, _, err := a.pool(r); err != nil {
		return nil, err
	}
	out := []map[string]string{}
	for _, s := range []string{"content", "download-url", "status", "upload"} {
		out = append(out, map[string]string{"subdir": s})
	}
	return out, nil
}

func (a *API) status(ctx context.Context, r *server.Request) (any, error) {
	c, ok := a.Storages.Config(r.Params.String("storage"))
	if !ok {
		return nil, server.ParamErrorf("storage", "No such storage.")
	}
	return a.row(ctx, c), nil
}

// mayRead: what belongs to a guest is shown to those who may see the guest.
func mayRead(r *server.Request, pool string, v storage.Volume) bool {
	if v.VMID == 0 || r.May("/storage/"+pool, "Datastore.Allocate") {
		return true
	}
	vm := fmt.Sprintf("/vms/%d", v.VMID)
	if v.Content == storage.Backup {
		return r.May(vm, "VM.Backup")
	}
	return r.May(vm, "VM.Audit") || r.May(vm, "VM.Config.Disk")
}

func shown(v storage.Volume) map[string]any {
	m := map[string]any{"volid": v.ID, "content": v.Content, "format": v.Format, "size": v.Size}
	if v.Used > 0 {
		m["used"] = v.Used
	}
	if v.VMID != 0 {
		m["vmid"] = v.VMID
	}
	if v.CTime != 0 {
		m["ctime"] = v.CTime
	}
	return m
}

func (a *API) content(ctx context.Context, r *server.Request) (any, error) {
	c, p, err := a.pool(r)
	if err != nil {
		return nil, err
	}
	all, err := p.List(ctx)
	if err != nil {
		return nil, err
	}
	kind, vmid := r.Params.String("content"), r.Params.Int("vmid", 0)
	out := []map[string]any{}
	for _, v := range all {
		// Disks and containers' volumes lie in one place; the pool cannot tell.
		same := kind == "" || v.Content == kind || kind == storage.RootDir && v.Content == storage.Images && c.Holds(storage.RootDir)
		if same && (vmid == 0 || v.VMID == vmid) && mayRead(r, c.ID, v) {
			out = append(out, shown(v))
		}
	}
	return out, nil
}

// name takes the volume's name out of the path: with or without the storage's
// id in front.
func name(r *server.Request, pool string) (string, error) {
	v := r.Params.String("volume")
	if !strings.Contains(v, ":") {
		v = pool + ":" + v
	}
	id, n, err := storage.SplitID(v)
	if err != nil {
		return "", server.ParamErrorf("volume", "%s", err)
	}
	if id != pool {
		return "", server.ParamErrorf("volume", "volume '%s' is not on storage '%s'", v, pool)
	}
	return n, nil
}

// find looks a volume up. The pool's own wording tells a name that cannot be
// from one that is not there.
func find(ctx context.Context, p storage.Pool, n string) (storage.Volume, error) {
	if l, ok := p.(storage.Locator); ok {
		if _, err := l.Path(ctx, n); err != nil {
			return storage.Volume{}, err
		}
	}
	all, err := p.List(ctx)
	if err != nil {
		return storage.Volume{}, err
	}
	for _, v := range all {
		if v.ID == p.ID()+":"+n {
			return v, nil
		}
	}
	return storage.Volume{}, &server.Error{Status: 500, Text: fmt.Sprintf("volume '%s:%s' does not exist", p.ID(), n)}
}

func (a *API) volume(ctx context.Context, r *server.Request) (any, error) {
	c, p, err := a.pool(r)
	if err != nil {
		return nil, err
	}
	n, err := name(r, c.ID)
	if err != nil {
		return nil, err
	}
	v, err := find(ctx, p, n)
	if err != nil {
		return nil, err
	}
	if !mayRead(r, c.ID, v) {
		return nil, server.Denied(fmt.Sprintf("/vms/%d", v.VMID), "VM.Audit")
	}
	l, ok := p.(storage.Locator)
	if !ok {
		return nil, errors.New("the storage has no paths")
	}
	path, err := l.Path(ctx, n)
	if err != nil {
		return nil, err
	}
	return map[string]any{"path": path, "format": v.Format, "size": v.Size, "used": v.Used}, nil
}
