package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"joist/hypervisor/membership"
	"joist/hypervisor/server"
	nodeapi "joist/hypervisor/server/node"
	"joist/image/boot"
	"joist/installer/answer"
	"joist/system/bootdisk"
)

// resetter prepares the next start of the node as installer of its own disk.
type resetter struct {
	others func() []string // further nodes of the cluster
	guests membership.Guests
	start  func(ctx context.Context, answer []byte, keep bool) error
}

// resetter is that of this node.
func (d *daemon) resetter(guests membership.Guests) resetter {
	return resetter{guests: guests,
		others: func() (out []string) {
			if !d.nodes.Clustered() {
				return nil
			}
			for _, n := range d.nodes.Book().Nodes() {
				if n.Name != d.cfg.Name {
					out = append(out, n.Name)
				}
			}
			return out
		},
		start: func(ctx context.Context, answer []byte, keep bool) error {
			system := booted(filepath.Join(d.p.sys, "proc"))
			if system == nil {
				return errors.New("this daemon does not run on an installed node")
			}
			return system.StartInstaller(ctx, answer, keep)
		}}
}

func (r resetter) reset(ctx context.Context, x nodeapi.Reset) error {
	if others := r.others(); len(others) > 0 {
		return server.Errorf("the node is a member of a cluster with %s: leave first (joist node leave)", strings.Join(others, ", "))
	}
	if running := r.guests.Running(); len(running) > 0 && !x.Force {
		return server.Errorf("guests are running: %s; shut them down, or let the reset do it (--force)", strings.Trim(fmt.Sprint(running), "[]"))
	}
	if x.Answer != "" {
		a, fs := answer.Load(strings.NewReader(x.Answer), "answer")
		if fs.Stops() {
			return server.ParamErrorf("answer", "%v", fs.Err())
		}
		if why := a.Disk.MemberCount(1); why != "" {
			return server.ParamErrorf("answer", "the node is made anew on its one disk: %s", why)
		}
	}
	err := r.start(ctx, []byte(x.Answer), x.KeepData)
	switch {
	case errors.Is(err, bootdisk.ErrAnswerTooLarge):
		return server.ParamErrorf("answer", "%v", err)
	case errors.Is(err, boot.ErrNotInPlace):
		return server.Errorf("%v; install from the ISO, with [joist.disk] adopt = true to keep the data", err)
	case err != nil:
		return server.Errorf("prepare the reset: %v", err)
	}
	return nil
}
