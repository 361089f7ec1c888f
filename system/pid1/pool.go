package pid1

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"joist/api/node"
	"joist/system/bootdisk"
	"joist/system/pool"
)

// How long a device of the pool is waited for that took part when the pool was
// open last, and how long for as many as it cannot be opened without.
const (
	poolWait     = 15 * time.Second
	poolPatience = time.Minute
)

// opened is the pool as it was opened.
type opened struct {
	name    string
	members []pool.Member
	apart   []pool.Member // must not take part
}

// openPool opens the node's pool once its devices are there, or enough of them.
// Guests' volumes get their devices when their guest starts, not here.
func (s *system) openPool(ctx context.Context) error {
	if err := pool.Load(ctx, s.run); err != nil {
		return err
	}
	all, err := poolMembers(ctx, func() ([]pool.Member, error) {
		devs, err := bootdisk.Devices("/sys")
		return pool.Find(devs, s.opt.Pool), err
	}, poolWait, poolPatience)
	if err != nil {
		return err
	}
	if err := distinct(pool.Copies(all)); err != nil {
		return err
	}
	ms, apart, err := agreeing(all)
	if err != nil {
		return err
	}
	if n := pool.Missing(ms); n > 0 {
		or := ""
		if ms[0].Most {
			or = " or were removed from it earlier"
		}
		s.log.Printf("          the pool opens without %d of its disks, which did not appear in %v%s", n, poolWait, or)
	}
	s.log.Printf("          data is in pool %s", ms[0].Name)
	if err := pool.Import(ctx, s.run, s.opt.Pool, ms, apart); err != nil {
		return err
	}
	s.pool = opened{name: ms[0].Name, members: ms, apart: apart}
	if err := pool.KeepOut(ctx, s.run, apart); err != nil {
		s.log.Printf("          %v", err) // they are out of it as things are
	}
	return nil
}

// agreeing are the members that the pool can be opened with.
func agreeing(all []pool.Member) (ms, apart []pool.Member, err error) {
	ms, apart = pool.Agreeing(all)
	switch {
	case len(all) == 0:
		err = errors.New("open the pool: none of its disks can be read")
	case len(ms) == 0:
		var why []string
		for _, m := range apart {
			why = append(why, m.Apart())
		}
		err = errors.New("open the pool: its disks were used without each other and are equally new; disconnect those whose changes may be lost: " +
			strings.Join(why, "; "))
	}
	return ms, apart, err
}

// poolMembers waits for the pool's devices: for all that took part last, from
// the first one on no longer than limit, or patience where those that are there
// are not enough.
func poolMembers(ctx context.Context, find func() ([]pool.Member, error), limit, patience time.Duration) ([]pool.Member, error) {
	return await(ctx, "pool", find, func(ms []pool.Member, since time.Duration) bool {
		return pool.Missing(ms) == 0 || since >= limit && pool.Enough(ms) || since >= patience
	})
}

// limitCache gives ZFS the memory that the node's configuration grants it.
func (s *system) limitCache(context.Context) error {
	cfg, err := node.Load("/")
	if errors.Is(err, fs.ErrNotExist) || err == nil && cfg.Storage.ArcMax == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return pool.Limit("/", cfg.Storage.ArcMax)
}

// tendPool takes disks in that came after the pool was opened without them, and
// says what is wrong and which must stay out. The dashboard says it for as long
// as it is so.
func (s *system) tendPool(ctx context.Context) error {
	if err := s.alone(); err != nil {
		return err
	}
	var used []string
	for _, m := range s.pool.members {
		used = append(used, strings.TrimPrefix(m.Path, "/dev/"))
	}
	devs, err := bootdisk.Devices("/sys", used...)
	if err != nil {
		return err
	}
	err = pool.Return(ctx, s.run, s.pool.name, s.pool.late(pool.Find(devs, s.opt.Pool)))
	if p := pool.Problem("/proc", s.pool.name); p != "" {
		s.log.Printf("          %s", p)
	}
	for _, m := range s.pool.apart {
		err = errors.Join(err, errors.New(m.Apart()))
	}
	return err
}

// late are the members that were not there when the pool was opened.
func (o opened) late(ms []pool.Member) []pool.Member {
	return slices.DeleteFunc(ms, func(m pool.Member) bool {
		return slices.ContainsFunc(slices.Concat(o.members, o.apart), func(x pool.Member) bool { return x.Path == m.Path })
	})
}

// closePool writes everything out and lets go of the pool. A pool that is not
// closed opens all the same.
func (s *system) closePool(ctx context.Context) error {
	return pool.Export(ctx, s.run, s.pool.name)
}
