package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"joist/api/drive"
	wire "joist/api/guest"
	"joist/cluster/store"
	"joist/hypervisor/guest"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// CreateRequest asks for a new guest.
type CreateRequest struct {
	Kind  guest.Kind
	VMID  int
	User  string
	Set   map[string]string
	Start bool // start it when it is made

	// Containers only.
	Template string // volume id of the template
	Storage  string // where a root volume goes that Set does not ask for
	Password string // root's
	SSHKeys  []string
}

type recordStep struct {
	VMID  int    `json:"vmid"`
	Nonce string `json:"nonce"`
}

// Create begins to make a guest. It returns when the VMID is taken, so that
// the guest is listed, locked, from then on.
func (c *Controller) Create(ctx context.Context, r CreateRequest) (task.UPID, error) {
	if e, ok := c.table.get(r.VMID); ok {
		return task.UPID{}, exists(r.Kind, r.VMID, e.Node)
	}
	p, err := c.prepare(ctx, r)
	if err != nil {
		return task.UPID{}, err
	}
	reserved := make(chan struct{})
	once := sync.OnceFunc(func() { close(reserved) })
	upid, err := c.start(opCreate, r.Kind, r.VMID, r.User, func(ctx context.Context, log task.Log) error {
		defer once()
		return c.make(ctx, r, p, once, log)
	})
	if err != nil {
		return upid, err
	}
	select {
	case <-reserved:
	case <-time.After(5 * time.Second):
	case <-ctx.Done():
	}
	return upid, nil
}

// prepare finds all that can be known to be wrong before anything is made.
func (c *Controller) prepare(ctx context.Context, r CreateRequest) (plan, error) {
	if r.Kind == guest.LXC {
		if c.o.Provision == nil {
			return plan{}, errors.New("this node cannot create containers")
		}
		if err := c.checkTemplate(ctx, r.Template); err != nil {
			return plan{}, err
		}
		if r.Set["rootfs"] == "" && r.Storage == "" {
			r.Storage = c.rootStorage()
		}
	}
	now := c.o.Now().Unix()
	set, err := defaults(r, now, c.o.Rand)
	if err != nil {
		return plan{}, err
	}
	p, err := makePlan(r.Kind, r.VMID, nil, "", Change{Set: set}, c.o.Rand)
	if err != nil {
		return p, err
	}
	if r.Kind == guest.KVM {
		p.Config["meta"] = meta(now)
	} else if !slices.ContainsFunc(p.New, func(a alloc) bool { return a.Key == "rootfs" }) {
		return p, badParam("rootfs", "a new container needs a new volume: STORAGE:GIBIBYTES")
	}
	return p, c.verify(ctx, r.Kind, r.VMID, &p)
}

// rootStorage is the first storage that takes containers' volumes.
func (c *Controller) rootStorage() string {
	for _, cfg := range c.o.Storages.Configs() {
		if cfg.Holds(storage.RootDir) && !cfg.Disable {
			return cfg.ID
		}
	}
	return ""
}

func (c *Controller) checkTemplate(ctx context.Context, volid string) error {
	v, _, _, err := c.lookup(ctx, volid)
	if err != nil {
		return badParam("ostemplate", "%s", err)
	}
	if v.Content != storage.Template {
		return badParam("ostemplate", "volume '%s' is no container template", volid)
	}
	return nil
}

// verify looks at everything a plan refers to: the storages for new volumes,
// images to import, volumes that are there already. Their sizes are filled in.
func (c *Controller) verify(ctx context.Context, kind guest.Kind, vmid int, p *plan) error {
	for _, a := range p.New {
		if err := c.checkStorage(kind, a.Storage); err != nil {
			return badParam(a.Key, "%s", err)
		}
		if _, err := c.source(ctx, a.Import); err != nil {
			return badParam(a.Key, "%s", err)
		}
	}
	for _, key := range p.Refs {
		if err := c.verifyRef(ctx, kind, vmid, key, p); err != nil {
			return badParam(key, "%s", err)
		}
	}
	return nil
}

// verifyRef admits the guest's own disks and, in CD drives, ISO images.
func (c *Controller) verifyRef(ctx context.Context, kind guest.Kind, vmid int, key string, p *plan) error {
	id := volumeOf(kind, key, p.Config[key])
	if id == "" {
		return errors.New("only volumes of storages can be attached")
	}
	v, _, name, err := c.lookup(ctx, id)
	if err != nil {
		return err
	}
	own := storage.Owner(name) == vmid
	if kind == guest.LXC {
		if !own {
			return fmt.Errorf("volume '%s' is no volume of CT %d", id, vmid)
		}
		return p.placed(kind, key, made{id, v.Size})
	}
	d, err := drive.Parse(p.Config[key])
	if err != nil {
		return err
	}
	switch {
	case own:
	case v.Content != storage.ISO:
		return fmt.Errorf("volume '%s' is no disk of VM %d", id, vmid)
	case !d.CDROM:
		return fmt.Errorf("volume '%s' is an ISO image: it needs media=cdrom", id)
	}
	return p.placed(kind, key, made{id, v.Size})
}

// make is the task: take the VMID, make the volumes, fill them, store the
// configuration. Each step is in the journal before it is done.
func (c *Controller) make(ctx context.Context, r CreateRequest, p plan, reserved func(), log task.Log) error {
	unlock, err := c.locks.lock(ctx, r.Kind, r.VMID)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := c.reserve(ctx, r, p)
	if err != nil {
		return err
	}
	reserved()
	for _, w := range wire.Unsupported(wireKind(r.Kind), p.Config) {
		log.Warnf("%s", w)
	}
	for _, a := range p.New {
		v, err := c.allocate(ctx, r.Kind, r.VMID, a, log)
		if err != nil {
			return fmt.Errorf("unable to create %s %d - %w", word(r.Kind), r.VMID, err)
		}
		if err := p.placed(r.Kind, a.Key, v); err != nil {
			return err
		}
	}
	if r.Kind == guest.LXC {
		if err := c.provision(ctx, r, p, log); err != nil {
			return fmt.Errorf("unable to create CT %d - %w", r.VMID, err)
		}
		c.step("provisioned")
	}
	rec := e.clone()
	rec.Config, rec.Lock, rec.Nonce = p.Config, p.Lock, ""
	if _, err := c.table.write(ctx, rec, e.rev); err != nil {
		return err
	}
	c.step("stored")
	if r.Start {
		c.startLater(r, log)
	}
	return nil
}

// startLater starts the new guest in a task of its own: its failure must not
// undo the creation.
func (c *Controller) startLater(r CreateRequest, log task.Log) {
	pr := PowerRequest{Op: OpStart, Kind: r.Kind, VMID: r.VMID, User: r.User}
	if _, err := c.Power(pr); err != nil {
		log.Warnf("start %s %d: %v", word(r.Kind), r.VMID, err)
	}
}

// reserve creates the VMID's key if it is absent.
func (c *Controller) reserve(ctx context.Context, r CreateRequest, p plan) (entry, error) {
	nonce, err := newUUID(c.o.Rand)
	if err != nil {
		return entry{}, err
	}
	j := task.JournalOf(ctx)
	if j == nil {
		return entry{}, errors.New("create guest: outside of a task")
	}
	if err := j.Record(stepRecord, recordStep{r.VMID, nonce}); err != nil {
		return entry{}, err
	}
	rec := Record{VMID: r.VMID, Kind: r.Kind, Node: c.o.Node, Config: map[string]string{}, Lock: lockCreate,
		Created: c.o.Now().Unix(), Nonce: nonce}
	for k, v := range p.Config { // volumes are named when they are there
		if !volumeKey(r.Kind, k) {
			rec.Config[k] = v
		}
	}
	e, err := c.table.write(ctx, rec, 0)
	if errors.Is(err, store.ErrConflict) {
		return e, exists(r.Kind, r.VMID, c.o.Node)
	}
	if err == nil {
		c.step("reserved")
	}
	return e, err
}

// undoRecord gives back the VMID that an unfinished creation took.
func (c *Controller) undoRecord(ctx context.Context, payload json.RawMessage) error {
	var s recordStep
	if err := json.Unmarshal(payload, &s); err != nil {
		return err
	}
	rec, rev, err := c.fresh(ctx, s.VMID)
	if err != nil || rev == 0 || rec.Lock != lockCreate || rec.Nonce != s.Nonce {
		return err
	}
	return c.table.remove(ctx, s.VMID, rev)
}

// orphanAge is how old a record under creation is before anybody asks who
// creates it.
const orphanAge = time.Minute

// orphans removes what creations left whose last word nobody heard: a record
// that was written while the cluster had no quorum shows when it has one again,
// and the task that wrote it has failed long since.
func (c *Controller) orphans(ctx context.Context) {
	for _, e := range c.table.all() {
		if e.Node != c.o.Node || e.Lock != lockCreate || c.o.Now().Sub(time.Unix(e.Created, 0)) < orphanAge {
			continue
		}
		try, cancel := context.WithCancel(ctx)
		cancel()
		unlock, err := c.locks.lock(try, e.Kind, e.VMID)
		if err != nil {
			continue // somebody is at work on it
		}
		unlock()
		rec := e.clone()
		rec.Lock, rec.Nonce = lockDestroyed, ""
		if _, err := c.table.write(ctx, rec, e.rev); err != nil {
			continue
		}
		c.o.Log.Warn("a guest was left half created", "vmid", e.VMID)
		if _, err := c.Destroy(DestroyRequest{Kind: e.Kind, VMID: e.VMID, User: "root@pam", Stray: true}); err != nil {
			c.o.Log.Error("remove half created guest", "vmid", e.VMID, "err", err)
		}
	}
}

// provision makes the file systems of a container.
func (c *Controller) provision(ctx context.Context, r CreateRequest, p plan, log task.Log) error {
	_, tpool, tname, err := c.lookup(ctx, r.Template)
	if err != nil {
		return err
	}
	template, err := tpool.Activate(ctx, tname)
	if err != nil {
		return err
	}
	for _, a := range p.New {
		s := ProvisionSpec{VMID: r.VMID, FSType: "ext4", Config: p.Config, Unprivileged: p.Config["unprivileged"] != "0"}
		if a.Key == "rootfs" {
			s.Template, s.Password, s.SSHKeys = template, r.Password, r.SSHKeys
		}
		if err := c.provisionOne(ctx, s, volumeOf(r.Kind, a.Key, p.Config[a.Key]), log); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) provisionOne(ctx context.Context, s ProvisionSpec, volid string, log task.Log) error {
	pool, name, err := c.o.Storages.Resolve(volid)
	if err != nil {
		return err
	}
	if s.Device, err = pool.Activate(ctx, name); err != nil {
		return err
	}
	err = c.o.Provision.Provision(ctx, s, log)
	c.letGo(ctx, pool, name)
	return err
}
