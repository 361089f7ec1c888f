package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/internal/run"
	"joist/system/firstboot"
)

// firstBoot goes through the first start of the node: a process of its own, so
// that what it runs outlives a new beginning of the daemon.
func firstBoot(ctx context.Context, log *slog.Logger, p *paths) error {
	say := func(line string) { log.Info(line) }
	see := &observer{p: p, api: newLocal(p.socket)}
	b := &firstboot.Boot{Root: p.root, Run: run.OS{}, Now: time.Now, Look: see.look, Fetch: firstboot.HTTP{Say: say}.Fetch, Say: say, Every: 2 * time.Second}
	return b.Carry(ctx)
}

// observer sees what others have done for the first start.
type observer struct {
	p   *paths
	api local
}

func (o *observer) look(ctx context.Context, step string) firstboot.Seen {
	wait := func(format string, args ...any) firstboot.Seen {
		return firstboot.Seen{Waits: fmt.Sprintf(format, args...)}
	}
	switch step {
	case firstboot.HostKeys:
		for _, k := range node.HostKeys() {
			if size(o.p.root, node.KeysFile) > 0 && size(o.p.root, k.File) == 0 {
				return wait("for PID 1 to make them")
			}
		}
	case firstboot.Network:
		var s node.NetStatus
		b, err := os.ReadFile(o.p.netState)
		if err != nil || json.Unmarshal(b, &s) != nil || !s.Up {
			return wait("for an address")
		}
	case firstboot.Storage:
		var rows []struct {
			Storage string `json:"storage"`
			Active  int    `json:"active"`
		}
		if err := o.api.call(ctx, "GET", "/nodes/localhost/storage", &rows); err != nil {
			return wait("for the API")
		}
		for _, r := range rows {
			if r.Active != 1 {
				return wait("for storage %q", r.Storage)
			}
		}
	case firstboot.Cluster:
		return o.cluster(ctx)
	}
	return firstboot.Seen{}
}

// cluster is done when the node is alone and was not to join, or has joined.
func (o *observer) cluster(ctx context.Context) firstboot.Seen {
	var m struct {
		Operation string `json:"operation"`
		State     string `json:"state"`
		Running   int    `json:"running"`
		Reason    string `json:"reason"`
	}
	if err := o.api.call(ctx, "GET", "/nodes/localhost/membership", &m); err != nil {
		return firstboot.Seen{Waits: "for the API"}
	}
	switch {
	case m.Running == 1:
		return firstboot.Seen{Waits: "for the join: " + m.State}
	case m.Operation == "join" && m.State != "done" && m.State != "":
		return firstboot.Seen{Waits: "the join came to nothing: " + m.Reason, Failed: true}
	case size(o.p.root, node.JoinFile) > 0:
		return firstboot.Seen{Waits: "for the join to begin"}
	}
	return firstboot.Seen{}
}

func size(root, name string) int64 {
	st, err := os.Stat(filepath.Join(root, name))
	if err != nil {
		return 0
	}
	return st.Size()
}

// watchFirstBoot shows on the board what has failed.
func (d *daemon) watchFirstBoot(ctx context.Context) {
	for {
		j, err := firstboot.Load(d.p.root)
		if err == nil {
			if err := d.alerts.Set("first boot", firstBootAlerts(j)); err != nil {
				d.log.Warn("show alerts", "err", err)
			}
		}
		if j.Ended > 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
	}
}

func firstBootAlerts(j node.FirstBoot) []node.Alert {
	var out []node.Alert
	for _, s := range j.Steps {
		if s.State != firstboot.Failed {
			continue
		}
		a := node.Alert{Code: "first-boot", Level: alert.Warning, Path: s.Name, Text: "first start, " + s.Name + ": " + s.Detail,
			Cure: "look at it: joist node first-boot, " + node.LogDir + "/firstboot.log"}
		if s.Name == firstboot.Program {
			a.Cure = "look at " + node.LogDir + "/firstboot.log; run " + node.ProgramFile + " by hand, then: joist node first-boot --clear"
		}
		out = append(out, a)
	}
	return out
}

// settle takes what failed as dealt with.
func (d *daemon) settle() error {
	if err := firstboot.Settle(d.p.root, time.Now()); err != nil {
		return err
	}
	return d.alerts.Set("first boot", nil)
}
