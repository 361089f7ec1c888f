package policy

import (
	"fmt"
	"slices"
	"strings"
)

// User is a system user; its group has the same name unless Group says
// otherwise. Numbers never change: files on state volumes carry them.
type User struct {
	Name  string
	UID   int
	Group string
	GID   int
	Home  string
	Shell string
	Text  string
}

// Group is a system group without a user of its own.
type Group struct {
	Name string
	GID  int
}

const nologin = "/usr/sbin/nologin"

// users are the users of the image. 0–99 are Debian's static ones (base-passwd
// 3.6), 970–999 ours; guests' ranges begin at 200000.
var users = []User{
	{"root", 0, "root", 0, "/root", "/bin/bash", "root"},
	{"daemon", 1, "daemon", 1, "/usr/sbin", nologin, "daemon"},
	{"bin", 2, "bin", 2, "/bin", nologin, "bin"},
	{"sys", 3, "sys", 3, "/dev", nologin, "sys"},
	{"sync", 4, "nogroup", 65534, "/bin", "/bin/sync", "sync"},
	{"mail", 8, "mail", 8, "/var/mail", nologin, "mail"},
	{"www-data", 33, "www-data", 33, "/var/www", nologin, "www-data"},
	{"backup", 34, "backup", 34, "/var/backups", nologin, "backup"},
	{"_chrony", 991, "_chrony", 991, "/var/lib/chrony", nologin, "Chrony daemon"},
	{"sshd", 992, "nogroup", 65534, "/run/sshd", nologin, "sshd"},
	{"uuidd", 993, "uuidd", 993, "/run/uuidd", nologin, "uuidd"},
	{"tss", 994, "tss", 994, "/var/lib/tpm", nologin, "TPM software stack"},
	{"swtpm", 995, "swtpm", 995, "/var/lib/swtpm", nologin, "virtual TPM software stack"},
	{"joist-img", 996, "joist-img", 996, "/nonexistent", nologin, "runs qemu-img on images that people bring"},
	{"nobody", 65534, "nogroup", 65534, "/nonexistent", nologin, "nobody"},
}

var groups = []Group{
	{"adm", 4}, {"tty", 5}, {"disk", 6}, {"lp", 7}, {"man", 12}, {"kmem", 15}, {"dialout", 20}, {"cdrom", 24},
	{"floppy", 25}, {"tape", 26}, {"sudo", 27}, {"audio", 29}, {"shadow", 42}, {"utmp", 43}, {"video", 44},
	{"sasl", 45}, {"plugdev", 46}, {"staff", 50}, {"users", 100}, {"input", 980}, {"sgx", 981}, {"kvm", 982},
	{"render", 983}, {"clock", 984}, {"_ssh", 985}, {"rdma", 986}, {"systemd-journal", 987},
}

// HasUser reports whether the table has the user.
func HasUser(name string) bool {
	return slices.ContainsFunc(users, func(u User) bool { return u.Name == name })
}

// HasGroup reports whether the table has the group, as one of its own or as a
// user's.
func HasGroup(name string) bool {
	return slices.ContainsFunc(groups, func(g Group) bool { return g.Name == name }) ||
		slices.ContainsFunc(users, func(u User) bool { return u.Group == name })
}

// UserID returns the number of a user of the table and that of its group.
func UserID(name string) (uid, gid int, ok bool) {
	for _, u := range users {
		if u.Name == name {
			return u.UID, u.GID, true
		}
	}
	return 0, 0, false
}

// GroupID returns the number of a group of the table.
func GroupID(name string) (gid int, ok bool) {
	for _, u := range users {
		if u.Group == name {
			return u.GID, true
		}
	}
	for _, g := range groups {
		if g.Name == name {
			return g.GID, true
		}
	}
	return 0, false
}

// Passwd renders /etc/passwd.
func Passwd() string {
	var b strings.Builder
	for _, u := range users {
		fmt.Fprintf(&b, "%s:x:%d:%d:%s:%s:%s\n", u.Name, u.UID, u.GID, u.Text, u.Home, u.Shell)
	}
	return b.String()
}

// Groups renders /etc/group.
func Groups() string {
	var b strings.Builder
	seen := map[string]bool{}
	line := func(name string, gid int) {
		if !seen[name] {
			seen[name] = true
			fmt.Fprintf(&b, "%s:x:%d:\n", name, gid)
		}
	}
	for _, u := range users {
		line(u.Group, u.GID)
	}
	for _, g := range groups {
		line(g.Name, g.GID)
	}
	return b.String()
}

// Shadow renders /etc/shadow with every password locked.
func Shadow() string {
	var b strings.Builder
	for _, u := range users {
		fmt.Fprintf(&b, "%s:*:19700:0:99999:7:::\n", u.Name)
	}
	return b.String()
}
