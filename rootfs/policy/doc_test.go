package policy

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/packages.md")

const docFile = "../../docs/packages.md"

// TestDoc keeps docs/packages.md in step with the tables.
func TestDoc(t *testing.T) {
	want := doc()
	if *update {
		if err := os.WriteFile(docFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docFile)
	if err != nil || string(got) != want {
		t.Errorf("docs/packages.md is not what the tables say (%v); go test ./rootfs/policy -update writes it", err)
	}
}

// cell makes text fit for a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func doc() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p(`# Packages of the image

Written by "go test ./rootfs/policy -update" from the tables of
rootfs/policy; change those, not this page.

Packages are unpacked, never installed. For everything that an installation
would do, a table says what the builder does instead, or why nothing is missed.
The tables are closed: a maintainer script, a trigger, a diversion, an
alternative, a statoverride, an account, a program with a set-user-ID bit, a
unit of systemd, init or cron, or a request to systemd in a udev rule that they
do not name stops the build with a finding. A script, trigger or unit can be
accepted in joist.toml (docs/customise.md).

## Wanted

What these depend on comes along. Versions and hashes are in joist.lock.

%s

Unless joist.toml says zfs = false: %s

## Dependencies that stay out

| package | why |
|---|---|
`, strings.Join(slices.Sorted(slices.Values(wanted)), ", "), strings.Join(ZFS(), ", "))
	reasons := func(list []reason) {
		for _, r := range list {
			p("| `%s` | %s |\n", cell(r.name), cell(r.why))
		}
	}
	reasons(excluded)
	p("\n## Files that stay out\n\nPaths that begin so. The file `copyright` of every package stays in.\n\n| path | why |\n|---|---|\n")
	reasons(drops)
	p("\n## Kernel modules that stay out\n\nBelow `kernel/` of the module tree.\n\n| folder | why |\n|---|---|\n")
	reasons(moduleDrops)
	docFirmware(p)
	docScripts(p)
	p("\n## Triggers\n\n| trigger | why nothing is missed |\n|---|---|\n")
	reasons(triggers)
	p("\n## Programs with privileges\n\nSet-user-ID, set-group-ID bits and file capabilities.\n\n| program | in the image | why |\n|---|---|---|\n")
	for _, x := range privileges {
		kept := "without"
		if x.Keep {
			kept = "kept"
		}
		p("| `%s` | %s | %s |\n", x.Path, kept, cell(x.Why))
	}
	p("\n## Services and jobs\n\nUnits of systemd, scripts of init and jobs of cron that packages bring. All stay out.\n\n| package | units | instead, or why nothing is missed |\n|---|---|---|\n")
	for _, s := range units {
		p("| `%s` | `%s` | %s |\n", s.Package, strings.Join(s.Units, "`, `"), cell(s.Why))
	}
	p("\n## udev rules that count on systemd\n\n| file | asks for | instead |\n|---|---|---|\n")
	for _, w := range wants {
		p("| `%s` | `%s` | %s |\n", w.File, cell(w.What), cell(w.Why))
	}
	p("\n## Users and groups\n\n| user | uid | group | gid | for |\n|---|---|---|---|---|\n")
	for _, u := range users {
		p("| %s | %d | %s | %d | %s |\n", u.Name, u.UID, u.Group, u.GID, cell(u.Text))
	}
	p("\n| group | gid |\n|---|---|\n")
	for _, g := range groups {
		p("| %s | %d |\n", g.Name, g.GID)
	}
	return b.String()
}

func docFirmware(p func(string, ...any)) {
	p(`
## Firmware

Of these packages the image takes the files that one of its kernel modules names
(MODULE_FIRMWARE), with the licence texts. image.firmware in joist.toml chooses
the set; for "server" the module must lie in %s.

| package | set | for |
|---|---|---|
`, "`"+strings.Join(serverModules, "`, `")+"`")
	for _, x := range firmwarePackages {
		set := "all"
		if x.server {
			set = "server, all"
		}
		p("| `%s` | %s | %s |\n", x.name, set, cell(x.holds))
	}
}

func docScripts(p func(string, ...any)) {
	p("\n## Maintainer scripts\n\n")
	for _, s := range []string{"prerm", "postrm"} {
		p("`%s` of every package: %s.\n", s, needless[s])
	}
	p("\n| package | scripts | why that is enough | the builder makes |\n|---|---|---|---|\n")
	ops := map[Op]string{Copy: "file", Dir: "folder", Perm: "mode of", Write: "file"}
	for _, r := range scripts {
		var does []string
		for _, a := range r.Do {
			if a.Op == Link {
				does = append(does, fmt.Sprintf("link `%s` → `%s`", a.Path, a.Arg))
			} else {
				does = append(does, fmt.Sprintf("%s `%s` %#o", ops[a.Op], a.Path, a.Perm))
			}
		}
		why := r.Why
		for _, c := range r.Covers {
			why += fmt.Sprintf("; %s `%s`: %s", c.Kind, c.Subject, c.Why)
		}
		p("| `%s` | %s | %s | %s |\n", r.Package, strings.Join(r.Scripts, ", "), cell(why), cell(strings.Join(does, ", ")))
	}
}
