package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Process is one process for good: a pid alone may have been given away again.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat, proc_pid_stat(5)
}

// FindProcess reads who pid is now.
func FindProcess(pid int) (Process, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Process{}, err
	}
	// The second field is the program's name in parentheses and may hold
	// anything; fields count from the last one.
	i := strings.LastIndexByte(string(b), ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return Process{}, fmt.Errorf("read start time of process %d: unexpected text", pid)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	if f[0] == "Z" || f[0] == "X" {
		return Process{PID: pid, Start: start}, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	return Process{PID: pid, Start: start}, nil
}

// Alive reports whether the very process still runs; a zombie does not.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := FindProcess(p.PID)
	return err == nil && now == p
}

// Record is what is known about a guest before and while it runs, kept in
// record.json of its folder. It is written before the first process starts and
// removed after the last has ended.
type Record struct {
	VMID    int               `json:"vmid"`
	Kind    Kind              `json:"kind"`
	State   State             `json:"state"` // Starting until the guest is known to run, then Running
	Hash    string            `json:"hash"`  // of the Spec it was started with
	Name    string            `json:"name,omitempty"`
	UID     int               `json:"uid,omitempty"`    // first host uid that is the guest's own
	Process Process           `json:"process"`          // QEMU or the container's init; zero before exec
	Helper  Process           `json:"helper"`           // container monitor
	Asked   bool              `json:"asked,omitempty"`  // somebody asked it to end
	CPUs    float64           `json:"cpus,omitempty"`   //
	Memory  int64             `json:"memory,omitempty"` // bytes
	Accel   string            `json:"accel,omitempty"`  // kvm or tcg
	Links   []string          `json:"links,omitempty"`  // taps or veths on the host
	Created time.Time         `json:"created"`          //
	Extra   map[string]string `json:"extra,omitempty"`  // a driver's own
}

// Hash identifies what a guest was started with.
func (s Spec) Hash() string {
	b, err := json.Marshal(s) // map keys come out sorted
	if err != nil {
		panic(err) // a Spec holds nothing that JSON refuses
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Runs is the folder with one folder per guest, /run/joist/guests.
type Runs struct{ Dir string }

const recordFile = "record.json"

// Folder is the guest's own folder.
func (r Runs) Folder(vmid int) string { return filepath.Join(r.Dir, strconv.Itoa(vmid)) }

// Create makes the folder of a guest with its record in it, both or neither.
// The caller holds the guest's lock. The folder is root's alone: what a guest
// process needs of it, it gets as open descriptors.
func (r Runs) Create(rec Record) error {
	tmp := filepath.Join(r.Dir, "."+strconv.Itoa(rec.VMID)+".new")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	if err := writeRecord(filepath.Join(tmp, recordFile), rec); err != nil {
		return err
	}
	if err := os.Rename(tmp, r.Folder(rec.VMID)); err != nil {
		os.RemoveAll(tmp)
		return fmt.Errorf("create run folder of guest %d: %w", rec.VMID, err)
	}
	return nil
}

// Write replaces the record of a guest.
func (r Runs) Write(rec Record) error {
	return writeRecord(filepath.Join(r.Folder(rec.VMID), recordFile), rec)
}

// writeRecord needs no sync: /run is memory, and a record never outlives it.
func writeRecord(name string, rec Record) error {
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	tmp := name + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write record of guest %d: %w", rec.VMID, err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("write record of guest %d: %w", rec.VMID, err)
	}
	return nil
}

// Read returns the record of a guest, fs.ErrNotExist when there is none.
func (r Runs) Read(vmid int) (Record, error) {
	b, err := os.ReadFile(filepath.Join(r.Folder(vmid), recordFile))
	if err != nil {
		return Record{}, err
	}
	var rec Record
	if err := json.Unmarshal(b, &rec); err != nil {
		return Record{}, fmt.Errorf("read record of guest %d: %w", vmid, err)
	}
	if rec.VMID != vmid {
		return Record{}, fmt.Errorf("read record of guest %d: it is that of guest %d", vmid, rec.VMID)
	}
	return rec, nil
}

// Update reads the record, lets change alter it and writes it back.
func (r Runs) Update(vmid int, change func(*Record)) error {
	rec, err := r.Read(vmid)
	if err != nil {
		return err
	}
	change(&rec)
	return r.Write(rec)
}

// Remove deletes the guest's folder.
func (r Runs) Remove(vmid int) error { return os.RemoveAll(r.Folder(vmid)) }

// List returns all readable records, by VMID.
func (r Runs) List() ([]Record, error) {
	entries, err := os.ReadDir(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	byID := map[int]Record{}
	for _, e := range entries {
		vmid, err := strconv.Atoi(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		if rec, err := r.Read(vmid); err == nil {
			byID[vmid] = rec
		}
	}
	var out []Record
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out = append(out, byID[id])
	}
	return out, nil
}
