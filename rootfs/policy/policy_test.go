package policy

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+\*?$`)
	accountRE = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

func cleanPath(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }

// TestScripts: each package has one rule, and each rule says something whole.
func TestScripts(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range scripts {
		if seen[r.Package] || !packageRE.MatchString(r.Package) {
			t.Errorf("%s: twice, or no package name", r.Package)
		}
		seen[r.Package] = true
		for _, o := range scripts {
			if o.Package != r.Package && matches(r.Package, strings.TrimSuffix(o.Package, "*")) {
				t.Errorf("%s hides the rule of %s", r.Package, o.Package)
			}
		}
		if len(r.Scripts) == 0 || r.Why == "" {
			t.Errorf("%s: no script or no reason", r.Package)
		}
		for _, s := range r.Scripts {
			if !slices.Contains([]string{"preinst", "postinst", "config"}, s) {
				t.Errorf("%s: script %q", r.Package, s)
			}
			if got, ok := ScriptRule(strings.TrimSuffix(r.Package, "*"), s); !ok || got.Package != r.Package {
				t.Errorf("%s %s: the rule is not found", r.Package, s)
			}
		}
		for _, a := range r.Do {
			checkAction(t, r, a)
		}
		for i, c := range r.Covers {
			if c.Why == "" || c.Subject == "" || !slices.Contains([]Kind{Diversion, Alternative, Statoverride, Capability, Account}, c.Kind) {
				t.Errorf("%s: covers %+v", r.Package, c)
			}
			if (Rule{Do: r.Do, Covers: slices.Delete(slices.Clone(r.Covers), i, i+1)}).Answers(c.Call) {
				t.Errorf("%s: %s %q is answered without its entry", r.Package, c.Kind, c.Subject)
			}
		}
	}
}

func checkAction(t *testing.T, r Rule, a Action) {
	t.Helper()
	if !cleanPath(a.Path) {
		t.Errorf("%s: path %q", r.Package, a.Path)
	}
	if why, out := Drop(a.Path); out {
		t.Errorf("%s makes %s, which stays out: %s", r.Package, a.Path, why)
	}
	switch a.Op {
	case Link:
		at := a.Arg
		if !path.IsAbs(at) {
			at = path.Join(path.Dir(a.Path), at)
		}
		if a.Arg == "" || at == a.Path || a.Perm != 0 || !cleanPath(at) {
			t.Errorf("%s: link %s to %q", r.Package, a.Path, a.Arg)
		}
	case Copy:
		if !cleanPath(a.Arg) || a.Perm == 0 {
			t.Errorf("%s: copy of %q", r.Package, a.Arg)
		}
	default:
		if a.Perm == 0 || a.Perm&^fs.ModePerm != 0 {
			t.Errorf("%s: %s has mode %v", r.Package, a.Path, a.Perm)
		}
	}
	number := func(id int, has func(int) bool) {
		if id != 0 && !has(id) {
			t.Errorf("%s: %s belongs to %d, whom no table names", r.Package, a.Path, id)
		}
	}
	number(a.UID, func(id int) bool { return slices.ContainsFunc(users, func(u User) bool { return u.UID == id }) })
	number(a.GID, func(id int) bool {
		return slices.ContainsFunc(users, func(u User) bool { return u.GID == id }) || slices.ContainsFunc(groups, func(g Group) bool { return g.GID == id })
	})
}

func TestScriptRule(t *testing.T) {
	for _, c := range []struct {
		pkg, script string
		ok          bool
	}{
		{"bash", "postinst", true}, {"bash", "preinst", false}, {"bash", "prerm", true}, {"unknown", "postrm", true},
		{"unknown", "postinst", false}, {"linux-image-6.12-amd64", "postinst", true}, {"swtpm-tools", "postinst", true},
	} {
		if _, ok := ScriptRule(c.pkg, c.script); ok != c.ok {
			t.Errorf("%s %s: %v", c.pkg, c.script, ok)
		}
	}
}

func TestAnswers(t *testing.T) {
	r := Rule{
		Do:     []Action{{Op: Link, Path: "/usr/bin/awk", Arg: "gawk"}, {Op: Perm, Path: "/usr/bin/at", Perm: 0o755}},
		Covers: []Cover{cover(Diversion, "/lib/x*", "why")},
	}
	for _, c := range []struct {
		call Call
		want bool
	}{
		{Call{Alternative, "/usr/bin/awk"}, true}, {Call{Alternative, "/usr/bin/nawk"}, false}, {Call{Alternative, "/usr/share/man/man1/nawk.1.gz"}, true},
		{Call{Alternative, "/usr/bin/at"}, false}, {Call{Statoverride, "/usr/bin/at"}, true}, {Call{Statoverride, "/usr/bin/awk"}, false},
		{Call{Diversion, "/lib/xy"}, true}, {Call{Diversion, "/lib/y"}, false}, {Call{Alternative, "/lib/xy"}, false},
		{Call{Account, "sshd"}, true}, {Call{Account, "rdma"}, true}, {Call{Account, "mallory"}, false}, {Call{Capability, "/bin/ip"}, false},
	} {
		if got := r.Answers(c.call); got != c.want {
			t.Errorf("%+v: %v", c.call, got)
		}
	}
}

// TestUsers: names and numbers are unique, in their ranges, and away from the
// ranges of guests.
func TestUsers(t *testing.T) {
	uids, names, gids := map[int]string{}, map[string]bool{}, map[int]string{}
	group := func(name string, gid int) {
		if other, ok := gids[gid]; ok && other != name {
			t.Errorf("group %d is %s and %s", gid, other, name)
		}
		for g, n := range gids {
			if n == name && g != gid {
				t.Errorf("group %s is %d and %d", name, g, gid)
			}
		}
		gids[gid] = name
		if !accountRE.MatchString(name) || gid < 0 || gid > 99 && gid < 970 && gid != 100 || gid > 999 && gid != 65534 {
			t.Errorf("group %s %d", name, gid)
		}
	}
	for _, u := range users {
		if uids[u.UID] != "" || names[u.Name] || !accountRE.MatchString(u.Name) {
			t.Errorf("user %s %d: twice, or no name", u.Name, u.UID)
		}
		uids[u.UID], names[u.Name] = u.Name, true
		if u.UID > 99 && u.UID < 970 || u.UID > 999 && u.UID != 65534 {
			t.Errorf("user %s: %d is in nobody's range", u.Name, u.UID)
		}
		if !cleanPath(u.Home) || !cleanPath(u.Shell) || strings.ContainsAny(u.Text, ":\n") || u.Text == "" {
			t.Errorf("user %s: home %q, shell %q, text %q", u.Name, u.Home, u.Shell, u.Text)
		}
		group(u.Group, u.GID)
	}
	for _, g := range groups {
		if _, ok := gids[g.GID]; ok {
			t.Errorf("group %s is in the table twice", g.Name)
		}
		group(g.Name, g.GID)
	}
	for _, text := range []string{Passwd(), Groups(), Shadow()} {
		if !strings.HasPrefix(text, "root:") || !strings.HasSuffix(text, "\n") {
			t.Errorf("no table of accounts:\n%s", text)
		}
	}
	if n := strings.Count(Shadow(), ":*:"); n != len(users) {
		t.Errorf("%d of %d passwords are locked", n, len(users))
	}
	if !HasUser("sshd") || HasUser("kvm") || !HasGroup("kvm") || !HasGroup("nogroup") || HasGroup("sync") {
		t.Error("HasUser or HasGroup is wrong")
	}
}

// TestReasons: every table has each name once and a reason for each.
func TestReasons(t *testing.T) {
	for what, list := range map[string][]reason{"excluded": excluded, "drops": drops, "triggers": triggers, "modules": moduleDrops} {
		seen := map[string]bool{}
		for _, r := range list {
			if r.name == "" || r.why == "" || seen[r.name] {
				t.Errorf("%s: %q twice or without a reason", what, r.name)
			}
			seen[r.name] = true
		}
	}
	for _, list := range [][]string{append(Wanted(), ZFS()...), Tools(), Template(), ZFSModule("6.12.9+deb13-amd64")} {
		seen := map[string]bool{}
		for _, p := range list {
			if seen[p] || !packageRE.MatchString(p) || strings.HasSuffix(p, "*") {
				t.Errorf("package %q is wanted twice, or no name", p)
			}
			seen[p] = true
		}
	}
	for _, p := range wanted {
		if why, out := Excluded()[p]; out {
			t.Errorf("%s is wanted and excluded: %s", p, why)
		}
	}
	for _, w := range wants {
		if _, ok := UdevWant(w.File, strings.TrimSuffix(w.What, "*")); !ok || w.Why == "" {
			t.Errorf("udev rule %+v", w)
		}
		if _, out := Drop("/usr/lib/udev/rules.d/" + w.File); out {
			t.Errorf("udev rules %s stay out and need no entry", w.File)
		}
	}
	seen := map[string]bool{}
	for _, p := range privileges {
		if !cleanPath(p.Path) || p.Why == "" || seen[p.Path] {
			t.Errorf("privilege %+v", p)
		}
		seen[p.Path] = true
	}
}

// TestServices: each unit has one answer, and what is answered stays out.
func TestServices(t *testing.T) {
	type key struct{ pkg, unit string }
	seen := map[key]bool{}
	for _, s := range units {
		if !packageRE.MatchString(s.Package) || strings.HasSuffix(s.Package, "*") || len(s.Units) == 0 || s.Why == "" {
			t.Errorf("service %+v", s)
		}
		for _, u := range s.Units {
			if u == "" || u == "*" || seen[key{s.Package, u}] {
				t.Errorf("%s: unit %q is twice in the table, or stands for all", s.Package, u)
			}
			seen[key{s.Package, u}] = true
			if why, ok := Unit(s.Package, strings.TrimSuffix(u, "*")); !ok || why != s.Why {
				t.Errorf("%s: another entry answers for %s: %s", s.Package, u, why)
			}
		}
	}
	if _, ok := Unit("bash", "lxc.service"); ok {
		t.Error("the unit of one package answers for another's")
	}
	for _, d := range unitDirs {
		if _, ok := UnitOf(d.dir + "x"); !ok {
			t.Errorf("%s holds no units", d.dir)
		}
	}
}

func TestUnitOf(t *testing.T) {
	for file, want := range map[string]string{
		"/usr/lib/systemd/system/lxc@.service":                           "lxc@.service",
		"/lib/systemd/system/old.service":                                "old.service",
		"/usr/lib/systemd/system/sysinit.target.wants/udev.service":      "udev.service",
		"/usr/lib/systemd/system/udev.service.d/10-x.conf":               "udev.service",
		"/usr/lib/systemd/user/ssh-agent.socket":                         "user/ssh-agent.socket",
		"/usr/lib/systemd/user/graphical.target.wants/ssh-agent.service": "user/ssh-agent.service",
		"/etc/init.d/lxc":                                 "init.d/lxc",
		"/etc/init.d/.depend.boot":                        "",
		"/etc/cron.d/e2scrub_all":                         "cron.d/e2scrub_all",
		"/etc/cron.daily/.placeholder":                    "",
		"/usr/lib/systemd/system-shutdown/mdadm.shutdown": "system-shutdown/mdadm.shutdown",
		"/usr/lib/systemd/system/":                        "",
		"/usr/lib/systemd/systemd-udevd":                  "",
		"/usr/share/doc/systemd/system/x.service":         "",
	} {
		got, ok := UnitOf(file)
		if got != want || ok != (want != "") {
			t.Errorf("%s is %q (%v), want %q", file, got, ok, want)
		}
	}
}

func TestDrop(t *testing.T) {
	for p, want := range map[string]bool{
		"/usr/share/doc/bash/README": true, "/usr/share/doc/bash/copyright": false, "/usr/share/doc/bash": false, "/usr/share/doc": false,
		"/usr/share/man/man1/ls.1.gz": true, "/usr/bin/ls": false, "/etc/init.d/udev": true, "/usr/share/common-licenses/GPL-3": false,
		"/usr/lib/udev/rules.d/69-lvm.rules": true, "/usr/lib/udev/rules.d/56-lvm.rules": false,
		"/usr/share/keymaps/i386/qwerty/us.kmap.gz": false, "/usr/share/keymaps/include/compose.latin1.inc.gz": false, "/usr/share/keymaps/mac/x": true,
		// What apparmor_parser needs for the profiles of containers.
		"/etc/apparmor.d/abstractions/lxc/container-base": false, "/etc/apparmor.d/lxc-containers": false, "/etc/apparmor.d/tunables/global": false,
	} {
		if _, got := Drop(p); got != want {
			t.Errorf("%s is dropped: %v", p, got)
		}
	}
	if !DropModule("kernel/sound/core/snd.ko.xz") || DropModule("kernel/drivers/net/virtio_net.ko.xz") {
		t.Error("DropModule is wrong")
	}
	if _, ok := Trigger("ldconfig"); !ok {
		t.Error("ldconfig has no reason")
	}
	if _, ok := Trigger("unheard-of"); ok {
		t.Error("any trigger has a reason")
	}
}
