package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"joist/api/node"
	"joist/cluster/join"
	"joist/cluster/member"
	"joist/cluster/peer"
	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/cluster/store"
	"joist/hypervisor/access"
	"joist/hypervisor/control"
	"joist/hypervisor/storage"
)

// machine does to this node what operations need.
type machine struct{ *Service }

// prefix is everything of ours in the store.
const prefix = "/joist/"

// attachTime is how long the store may take to open and catch up in one try.
const attachTime = 2 * time.Minute

// Records implements join.Machine.
func (m machine) Records(ctx context.Context) (r join.Records, err error) {
	guests, err := m.own(ctx)
	if err != nil {
		return r, err
	}
	for _, it := range guests {
		g, err := join.ParseGuest(it.Value)
		if err != nil {
			return r, err
		}
		r.Guests = append(r.Guests, g)
	}
	items, _, err := m.store.List(ctx, storage.Prefix)
	if err != nil {
		return r, err
	}
	for _, it := range items {
		st, err := join.ParseStorage(it.Value)
		if err != nil {
			return r, err
		}
		r.Storages = append(r.Storages, st)
	}
	if r.Volumes, err = m.guests.Volumes(ctx); err != nil {
		return r, err
	}
	r.Running = m.guests.Running()
	return r, nil
}

// own lists the keys of this node's guests.
func (m machine) own(ctx context.Context) (out []store.Item, err error) {
	items, _, err := m.store.List(ctx, control.Prefix)
	if err != nil {
		return nil, err
	}
	for _, it := range items {
		g, err := join.ParseGuest(it.Value)
		if err != nil {
			return nil, err
		}
		if g.Node == m.o.Name {
			out = append(out, it)
		}
	}
	return out, nil
}

// Export implements join.Machine.
func (m machine) Export(ctx context.Context, o *join.Op) error {
	switch o.Kind {
	case join.Join:
		a := o.Admission
		return m.prepareID(o.Key, a.Certificate, a.Authority, nil, a.Cluster, a.Nodes)
	case join.Leave:
		return m.exportOwn(ctx, o)
	case join.Recover:
		return m.exportAll(ctx)
	}
	return fmt.Errorf("export for %s: there is nothing to export", o.Kind)
}

// prepareID writes what makes the node a member, where it does not count yet.
func (m machine) prepareID(key, cert, ca, seal []byte, c roster.Cluster, nodes []roster.Node) error {
	files := map[string][]byte{peer.KeyFile: key, peer.CertFile: pki.EncodeCert(cert), peer.CAFile: pki.EncodeCert(ca)}
	if seal != nil {
		files[sealFile] = seal
	}
	if err := m.files.prepare(files, settings{c.ID, c.HeartbeatMs, c.ElectionMs}); err != nil {
		return fmt.Errorf("prepare membership: %w", err)
	}
	return peer.SaveBook(m.files.path(newIDDir, peersFile), c, nodes)
}

// exportOwn puts by what a node takes along when it leaves: its guests, the
// definitions of storages, users and rules. The key that signs tickets stays:
// those of the cluster are not good here any more, nor the other way round.
func (m machine) exportOwn(ctx context.Context, o *join.Op) error {
	guests, err := m.own(ctx)
	if err != nil {
		return err
	}
	o.Exported = nil
	for _, it := range guests {
		o.Exported = append(o.Exported, join.Revision{Key: it.Key, Rev: it.Rev})
	}
	for _, p := range []string{storage.Prefix, access.PolicyKey} {
		items, _, err := m.store.List(ctx, p)
		if err != nil {
			return err
		}
		guests = append(guests, items...)
	}
	return m.writeExport(guests)
}

func (m machine) writeExport(items []store.Item) error {
	if items == nil {
		items = []store.Item{}
	}
	return node.WriteJSON(m.files.path(exportFile), 0o600, items)
}

// exportAll puts by everything that this node's copy holds, and makes a
// cluster of one of it: with a new authority, because the old one's key may be
// lost, and a new id, so that nodes of the old cluster know that this is
// another one.
func (m machine) exportAll(ctx context.Context) error {
	items, err := store.Dump(ctx, m.store.Local(), prefix)
	if err != nil {
		return err
	}
	was := m.book.Cluster()
	c, err := m.newCluster(was.Name)
	if err != nil {
		return err
	}
	c.cluster.HeartbeatMs, c.cluster.ElectionMs = was.HeartbeatMs, was.ElectionMs
	items = slices.DeleteFunc(items, func(it store.Item) bool {
		return it.Key == roster.ClusterKey || it.Key == roster.CAKey || strings.HasPrefix(it.Key, roster.TokenPrefix) || strings.HasPrefix(it.Key, roster.NodePrefix)
	})
	for k, v := range c.keys() {
		items = append(items, store.Item{Key: k, Value: v})
	}
	if err := m.writeExport(items); err != nil {
		return err
	}
	return m.prepareID(c.key, c.cert, c.authority.Certificate().Raw, c.seal, c.cluster, []roster.Node{c.node})
}

// Swap implements join.Machine.
func (m machine) Swap(ctx context.Context, o *join.Op) error {
	if o.Kind == join.Demote {
		if err := m.files.swapStore(); err != nil {
			return fmt.Errorf("swap store: %w", err)
		}
		return nil
	}
	if err := m.rename(ctx, o, false); err != nil {
		return err
	}
	if err := errors.Join(m.files.swapStore(), m.files.swapID()); err != nil {
		return fmt.Errorf("swap store: %w", err)
	}
	return nil
}

// rename gives volumes of renumbered guests their new names, or the old ones
// back.
func (m machine) rename(ctx context.Context, o *join.Op, back bool) error {
	if len(o.Renames) == 0 {
		return nil
	}
	var configs []storage.Config
	for _, raw := range o.Storages {
		var c storage.Config
		if err := json.Unmarshal(raw, &c); err != nil {
			return fmt.Errorf("rename volumes: %w", err)
		}
		configs = append(configs, c)
	}
	set := m.o.Storages(configs)
	for _, r := range o.Renames {
		from, to := r.From, r.To
		if back {
			from, to = to, from
		}
		p, err := set.Pool(r.Storage)
		if err != nil {
			return fmt.Errorf("rename volumes: %w", err)
		}
		n, ok := p.(storage.Renamer)
		if !ok {
			return fmt.Errorf("rename volumes: storage '%s' cannot", r.Storage)
		}
		// One that exists nowhere was named in a configuration only.
		if err := n.Rename(ctx, from, to); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Attach implements join.Machine.
func (m machine) Attach(ctx context.Context, o *join.Op) error {
	if err := m.identify(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	var options member.Options
	switch o.Kind {
	case join.Join, join.Demote:
		if err := m.askForPlace(ctx); err != nil {
			return err
		}
		initial := map[string]string{m.o.Name: roster.PeerURL(m.o.Name)}
		for _, n := range m.book.Nodes() {
			initial[n.Name] = roster.PeerURL(n.Name)
		}
		options = m.memberOptions(initial, true)
	default:
		options = m.memberOptions(nil, false)
	}
	mem, err := member.Start(options)
	if err != nil {
		return err
	}
	if err := m.fill(ctx, mem, o); err != nil {
		if mem.Removed() { // its place was given away meanwhile; the next try gets another one
			err = errors.Join(err, os.RemoveAll(m.o.StoreDir))
		}
		return errors.Join(err, mem.Close())
	}
	m.Service.member = mem
	m.useStore()
	close(m.attached)
	return nil
}

// fill waits until the store has everything.
func (m machine) fill(ctx context.Context, mem *member.Member, o *join.Op) error {
	if err := mem.Ready(ctx); err != nil {
		return err
	}
	if o.Kind == join.Join || o.Kind == join.Demote {
		return nil
	}
	var items []store.Item
	b, err := os.ReadFile(m.files.path(exportFile))
	if err == nil {
		err = json.Unmarshal(b, &items)
	}
	if err != nil {
		return fmt.Errorf("read what was exported: %w", err)
	}
	return store.Restore(ctx, store.NewEtcd(mem.Client(), store.WithQuorum(mem)), items)
}

// Clean implements join.Machine.
func (m machine) Clean(context.Context, *join.Op) error {
	if err := m.files.clean(); err != nil {
		return fmt.Errorf("remove what was put by: %w", err)
	}
	return nil
}

// Revert implements join.Machine.
func (m machine) Revert(ctx context.Context, o *join.Op) error {
	if err := m.rename(ctx, o, true); err != nil {
		return err
	}
	if err := errors.Join(m.files.revertStore(), m.files.revertID(), os.RemoveAll(m.files.path(exportFile))); err != nil {
		return fmt.Errorf("put the old store back: %w", err)
	}
	return m.identify()
}
