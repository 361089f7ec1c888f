package join

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"joist/cluster/store"
)

// Where guests and storages are kept. Package hypervisor gives them their
// meaning; here they are keys with an owner.
const (
	GuestPrefix   = "/joist/guests/"
	StoragePrefix = "/joist/storages/"
)

// VMIDs as the API allows them.
const minVMID, maxVMID = 100, 999999999

// Guest is the record of one guest: the fields that a join must know, and the
// whole.
type Guest struct {
	VMID   int
	Kind   string // "qemu" or "lxc"
	Node   string
	Name   string
	Lock   string
	Config map[string]string
	Raw    json.RawMessage
}

var (
	configKeyRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,63}$`)
	storageIDRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]{0,99}$`)
)

// ParseGuest reads a record and checks what would become part of a key, a
// path or an argument here.
func ParseGuest(raw []byte) (Guest, error) {
	var r struct {
		VMID   int               `json:"vmid"`
		Kind   string            `json:"kind"`
		Node   string            `json:"node"`
		Config map[string]string `json:"config"`
		Lock   string            `json:"lock"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return Guest{}, fmt.Errorf("read guest's record: %w", err)
	}
	g := Guest{VMID: r.VMID, Kind: r.Kind, Node: r.Node, Name: r.Config["name"], Lock: r.Lock, Config: r.Config, Raw: raw}
	if g.Kind == "lxc" {
		g.Name = r.Config["hostname"]
	} else if g.Kind != "qemu" {
		return Guest{}, fmt.Errorf("read guest's record: guest %d has the unknown kind %q", r.VMID, r.Kind)
	}
	if r.VMID < minVMID || r.VMID > maxVMID {
		return Guest{}, fmt.Errorf("read guest's record: %d is no VMID", r.VMID)
	}
	for k := range r.Config {
		if !configKeyRE.MatchString(k) {
			return Guest{}, fmt.Errorf("read guest's record: guest %d has the key %q", r.VMID, k)
		}
	}
	return g, nil
}

// word is what people call the guest: "VM 100 (web)".
func (g Guest) word() string {
	kind := "VM"
	if g.Kind == "lxc" {
		kind = "CT"
	}
	if g.Name == "" {
		return fmt.Sprintf("%s %d", kind, g.VMID)
	}
	return fmt.Sprintf("%s %d (%s)", kind, g.VMID, g.Name)
}

func guestKey(vmid int) string { return GuestPrefix + strconv.Itoa(vmid) }

// decodeGuest reads a guest's key.
func decodeGuest(it store.Item) (Guest, error) {
	g, err := ParseGuest(it.Value)
	if err != nil {
		return g, fmt.Errorf("%s: %w", it.Key, err)
	}
	if guestKey(g.VMID) != it.Key {
		return g, fmt.Errorf("read guest %s: it says it is %d", it.Key, g.VMID)
	}
	return g, nil
}

// edit returns the record with some fields replaced; everything else stays.
func (g Guest) edit(fields map[string]any) (Guest, error) {
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(g.Raw, &all); err != nil {
		return g, fmt.Errorf("change %s: %w", g.word(), err)
	}
	for k, v := range fields {
		all[k] = mustJSON(v)
	}
	return ParseGuest(mustJSON(all))
}

// Storage is the definition of a storage.
type Storage struct {
	ID  string
	Raw json.RawMessage // canonical
}

// ParseStorage reads a definition and brings it into the one form in which
// equal definitions are equal bytes: keys sorted, lists of words sorted (their
// order means nothing), and without what differs from node to node (the UUID
// of a volume group).
func ParseStorage(raw []byte) (Storage, error) {
	all := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&all); err != nil {
		return Storage{}, fmt.Errorf("read storage's definition: %w", err)
	}
	id, _ := all["storage"].(string)
	if !storageIDRE.MatchString(id) {
		return Storage{}, fmt.Errorf("read storage's definition: %q cannot name a storage", id)
	}
	delete(all, "vg_uuid")
	for k, v := range all {
		if list, ok := v.([]any); ok {
			all[k] = sortedWords(list)
		}
	}
	return Storage{ID: id, Raw: mustJSON(all)}, nil
}

func sortedWords(list []any) any {
	words := make([]string, 0, len(list))
	for _, v := range list {
		w, ok := v.(string)
		if !ok {
			return list
		}
		words = append(words, w)
	}
	slices.Sort(words)
	return words
}

// equal reports whether two definitions mean the same.
func (s Storage) equal(o Storage) bool { return s.ID == o.ID && bytes.Equal(s.Raw, o.Raw) }

// Records are what a node brings into a cluster.
type Records struct {
	Guests   []Guest
	Storages []Storage
	Volumes  []string // ids of all volumes on it, those no configuration names too
	Running  []int    // VMIDs
}

// raws returns what is sent.
func (r Records) raws() (guests, storages []json.RawMessage) {
	guests, storages = []json.RawMessage{}, []json.RawMessage{}
	for _, g := range r.Guests {
		guests = append(guests, g.Raw)
	}
	for _, s := range r.Storages {
		storages = append(storages, s.Raw)
	}
	return guests, storages
}

// Sum changes when a record does: what was sent must be what is swapped.
func (r Records) Sum() []byte {
	parts := map[string][]byte{}
	for _, g := range r.Guests {
		parts[guestKey(g.VMID)] = canonical(g.Raw)
	}
	for _, s := range r.Storages {
		parts[StoragePrefix+s.ID] = s.Raw
	}
	list := [][]byte{}
	for _, k := range slices.Sorted(maps.Keys(parts)) {
		list = append(list, []byte(k), parts[k])
	}
	return digest(list...)
}

// canonical is the same for JSON texts that mean the same: whoever passes one
// on may indent it or escape characters differently.
func canonical(raw json.RawMessage) []byte {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return raw // was parsed before
	}
	return mustJSON(v)
}

// parseRecords reads the lists of a hello or a commit; every record twice or
// unreadable is an error.
func parseRecords(guests, storages []json.RawMessage) (Records, error) {
	var r Records
	var errs []error
	seen := map[string]bool{}
	twice := func(key string) bool {
		was := seen[key]
		seen[key] = true
		if was {
			errs = append(errs, fmt.Errorf("%s is there twice", strings.TrimPrefix(key, "/joist/")))
		}
		return was
	}
	for _, raw := range guests {
		g, err := ParseGuest(raw)
		if err != nil {
			errs = append(errs, err)
		} else if !twice(guestKey(g.VMID)) {
			r.Guests = append(r.Guests, g)
		}
	}
	for _, raw := range storages {
		s, err := ParseStorage(raw)
		if err != nil {
			errs = append(errs, err)
		} else if !twice(StoragePrefix + s.ID) {
			r.Storages = append(r.Storages, s)
		}
	}
	return r, errors.Join(errs...)
}
