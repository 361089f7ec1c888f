package access

import (
	"slices"
	"strings"
)

// Privileges lists every privilege there is, sorted.
func Privileges() []string {
	return strings.Fields(`Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit
		Group.Allocate Mapping.Audit Mapping.Modify Mapping.Use Permissions.Modify Pool.Allocate Pool.Audit
		Realm.Allocate Realm.AllocateUser SDN.Allocate SDN.Audit SDN.Use
		Sys.AccessNetwork Sys.Audit Sys.Console Sys.Incoming Sys.Modify Sys.PowerMgmt Sys.Syslog User.Modify
		VM.Allocate VM.Audit VM.Backup VM.Clone
		VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType VM.Config.Memory
		VM.Config.Network VM.Config.Options VM.Console
		VM.GuestAgent.Audit VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite
		VM.GuestAgent.Unrestricted VM.Migrate VM.PowerMgmt VM.Replicate VM.Snapshot VM.Snapshot.Rollback`)
}

// noAccess is the role that takes everything away.
const noAccess = "NoAccess"

// BuiltinRoles are the roles that cannot be changed, with their privileges.
func BuiltinRoles() map[string][]string {
	all := Privileges()
	but := func(drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(p string) bool { return slices.Contains(drop, p) })
	}
	under := func(match func(string) bool) []string {
		return slices.DeleteFunc(slices.Clone(all), func(p string) bool { return !match(p) })
	}
	prefix := func(s string) []string {
		return under(func(p string) bool { return strings.HasPrefix(p, s) })
	}
	return map[string][]string{
		"Administrator":     all,
		noAccess:            {},
		"PVEAdmin":          but("Permissions.Modify", "Realm.Allocate", "Sys.AccessNetwork", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt"),
		"PVEAuditor":        under(func(p string) bool { return strings.HasSuffix(p, ".Audit") }),
		"PVEDatastoreAdmin": prefix("Datastore."),
		"PVEDatastoreUser":  {"Datastore.AllocateSpace", "Datastore.Audit"},
		"PVEMappingAdmin":   prefix("Mapping."),
		"PVEMappingAudit":   {"Mapping.Audit"},
		"PVEMappingUser":    {"Mapping.Audit", "Mapping.Use"},
		"PVEPoolAdmin":      prefix("Pool."),
		"PVEPoolUser":       {"Pool.Audit"},
		"PVESDNAdmin":       prefix("SDN."),
		"PVESDNUser":        {"SDN.Audit", "SDN.Use"},
		"PVESysAdmin":       {"Sys.Audit", "Sys.Console", "Sys.Syslog"},
		"PVETemplateUser":   {"VM.Audit", "VM.Clone"},
		"PVEUserAdmin":      {"Group.Allocate", "Realm.AllocateUser", "User.Modify"},
		"PVEVMAdmin":        prefix("VM."),
		"PVEVMUser":         {"VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console", "VM.GuestAgent.Audit", "VM.PowerMgmt"},
	}
}
