package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"joist/api/node"
	"joist/cluster/store"
)

// Prefix is where storages are kept in the cluster store.
const Prefix = "/joist/storages/"

// Defaults are the storages of a fresh node: "local" for files, on the volume
// of its own that filling cannot take down the node, and "local-lvm" or
// "local-zfs" for guests' disks.
func Defaults(n node.Storage) []Config {
	out := []Config{{ID: "local", Type: "dir", Path: node.LocalDir, Content: []string{ISO, Template, Backup, Import, Snippets}}}
	if n.Thin != "" {
		out = append(out, Config{ID: "local-lvm", Type: "lvmthin", VGName: n.VGName, Thin: n.Thin, Content: []string{Images, RootDir}})
	}
	if n.PoolGUID != "" {
		out = append(out, Config{ID: "local-zfs", Type: "zfspool", Pool: n.PoolName + "/data", Content: []string{Images, RootDir}})
	}
	return out
}

// Local makes the cluster's definitions those of this node: a volume group or a
// pool of the node's own name is the node's own, whatever else is called so.
func Local(configs []Config, n node.Storage) []Config {
	out := slices.Clone(configs)
	for i, c := range out {
		if c.Type == "lvmthin" && c.VGName == n.VGName {
			out[i].VGUUID = n.VGUUID
		}
		if name, _, _ := strings.Cut(c.Pool, "/"); c.Type == "zfspool" && name == n.PoolName {
			out[i].PoolGUID = n.PoolGUID
		}
	}
	return out
}

// Follow calls f with the definitions whenever they change, until ctx ends.
func Follow(ctx context.Context, s store.Store, rev int64, log *slog.Logger, f func([]Config)) {
	for {
		for range s.Watch(ctx, Prefix, rev) {
			items, _, err := s.List(ctx, Prefix)
			if err != nil {
				break
			}
			configs, err := decode(items)
			if err != nil { // the last good ones stay in force
				log.Error("read storages", "err", err)
				continue
			}
			f(configs)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		if items, now, err := s.List(ctx, Prefix); err == nil {
			rev = now
			if configs, err := decode(items); err == nil {
				f(configs)
			}
		}
	}
}

// Load reads the storages from the cluster store; defaults that are not there
// yet it writes first: in a new cluster all of them, later that of a node with
// another layout than those before it. Two nodes that start at once agree:
// whoever comes second reads what the first wrote.
func Load(ctx context.Context, s store.Store, defaults []Config) (configs []Config, rev int64, err error) {
	for {
		items, rev, err := s.List(ctx, Prefix)
		if err != nil {
			return nil, 0, fmt.Errorf("list storages: %w", err)
		}
		missing := slices.DeleteFunc(slices.Clone(defaults), func(c Config) bool {
			return slices.ContainsFunc(items, func(it store.Item) bool { return it.Key == Prefix+c.ID })
		})
		if len(missing) == 0 {
			configs, err = decode(items)
			return configs, rev, err
		}
		var conds []store.Cond
		var ops []store.Op
		for _, c := range missing {
			b, err := json.Marshal(c)
			if err != nil {
				return nil, 0, err
			}
			conds = append(conds, store.Cond{Key: Prefix + c.ID})
			ops = append(ops, store.Op{Key: Prefix + c.ID, Value: b})
		}
		if _, err := s.Txn(ctx, conds, ops...); err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, 0, fmt.Errorf("write default storages: %w", err)
		}
	}
}

func decode(items []store.Item) ([]Config, error) {
	out := make([]Config, 0, len(items))
	for _, it := range items {
		var c Config
		if err := json.Unmarshal(it.Value, &c); err != nil {
			return nil, fmt.Errorf("read storage %s: %w", it.Key, err)
		}
		if Prefix+c.ID != it.Key || !ValidID(c.ID) {
			return nil, fmt.Errorf("read storage %s: it says its id is %q", it.Key, c.ID)
		}
		out = append(out, c)
	}
	return out, nil
}
