// Package task runs what takes longer than a request: each task has an id in
// the field's UPID form, a log, a status file on the node that ran it, and a
// journal of what to undo should the node die in the middle.
package task

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// UPID names one task:
//
//	UPID:node:PPPPPPPP:SSSSSSSS:TTTTTTTT:type:id:user:
//
// Num is a counter unique to the boot (the field where others put the pid),
// Start counts 10 ms ticks since boot, Time is the epoch in seconds.
type UPID struct {
	Node  string
	Num   uint32
	Start uint32
	Time  time.Time
	Type  string // qmstart, vzcreate, imgcopy …
	ID    string // VMID, volume or ""
	User  string // root@pam, root@pam!token
}

func (u UPID) String() string {
	return fmt.Sprintf("UPID:%s:%08X:%08X:%08X:%s:%s:%s:", u.Node, u.Num, u.Start, uint32(u.Time.Unix()), u.Type, u.ID, u.User)
}

var upidRE = regexp.MustCompile(`^UPID:([a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?):([0-9A-Fa-f]{8}):([0-9A-Fa-f]{8,9}):([0-9A-Fa-f]{8}):([^:\s/]+):([^:\s/]*):([^:\s/]+):$`)

// ParseUPID reads s and refuses anything that is not wholly a UPID: the parts
// become file names.
func ParseUPID(s string) (UPID, error) {
	m := upidRE.FindStringSubmatch(s)
	if m == nil || len(s) > 400 || strings.Contains(s, "..") {
		return UPID{}, fmt.Errorf("unable to parse worker upid '%s'", s)
	}
	num, _ := strconv.ParseUint(m[2], 16, 32)
	start, _ := strconv.ParseUint(m[3], 16, 64)
	at, _ := strconv.ParseUint(m[4], 16, 32)
	return UPID{Node: m[1], Num: uint32(num), Start: uint32(start), Time: time.Unix(int64(at), 0), Type: m[5], ID: m[6], User: m[7]}, nil
}

// MarshalText makes a UPID a plain string in JSON.
func (u UPID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }
