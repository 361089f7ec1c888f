package policy

import "io/fs"

// Privilege is a program that a package brings with more rights than those of
// whoever starts it.
type Privilege struct {
	Path string
	Keep bool // false: the bits are taken away in the image
	Why  string
}

const (
	onlyRoot  = "only root logs in to a node, and root needs no help"
	passwords = "only root has a password, and it is node configuration"
)

// privileges are the programs whose set-user-ID, set-group-ID bits or file
// capabilities were judged. Guests and services change identity through PID 1
// and joistd, which are root's: nothing on a node needs such a program, and
// each one would be a way up for a process that escaped from a guest.
var privileges = []Privilege{
	{"/usr/bin/chage", false, passwords},
	{"/usr/bin/chfn", false, passwords},
	{"/usr/bin/chsh", false, passwords},
	{"/usr/bin/expiry", false, passwords},
	{"/usr/bin/fusermount3", false, "lxcfs is mounted by root"},
	{"/usr/bin/gpasswd", false, passwords},
	{"/usr/bin/mount", false, onlyRoot},
	{"/usr/bin/newgidmap", false, "containers are started by root, whose maps need no helper (user_namespaces(7))"},
	{"/usr/bin/newgrp", false, onlyRoot},
	{"/usr/bin/newuidmap", false, "containers are started by root, whose maps need no helper (user_namespaces(7))"},
	{"/usr/bin/passwd", false, passwords},
	{"/usr/bin/ssh-agent", false, "its group protects agents of people from each other; no person has an account"},
	{"/usr/bin/su", false, onlyRoot},
	{"/usr/bin/umount", false, onlyRoot},
	{"/usr/lib/openssh/ssh-keysign", false, "host-based log-in to other machines is not used"},
	{"/usr/libexec/lxc/lxc-user-nic", false, "links of containers are made by joistd network"},
	{"/usr/sbin/unix_chkpwd", false, "PAM asks it only for programs that are not root's; sshd's monitor is"},
}

// PrivilegeOf returns what was decided about the program at path.
func PrivilegeOf(path string) (Privilege, bool) {
	for _, p := range privileges {
		if p.Path == path {
			return p, true
		}
	}
	return Privilege{}, false
}

// Elevated are the mode bits a Privilege is about.
const Elevated = fs.ModeSetuid | fs.ModeSetgid
