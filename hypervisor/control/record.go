package control

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	wire "joist/api/guest"
	"joist/hypervisor/guest"
)

// Prefix is where guests are kept in the cluster store.
const Prefix = "/joist/guests/"

// Key is the one key of a VMID. It is created only if it is absent: that is
// what makes a VMID belong to one guest in the cluster.
func Key(vmid int) string { return Prefix + strconv.Itoa(vmid) }

// Record is the intent for one guest.
type Record struct {
	VMID    int               `json:"vmid"`
	Kind    guest.Kind        `json:"kind"`
	Node    string            `json:"node"`
	Config  map[string]string `json:"config"`          // keys of qm.conf or pct.conf, normal form
	Lock    string            `json:"lock,omitempty"`  // what it is locked for
	Created int64             `json:"created"`         // seconds since 1970
	Nonce   string            `json:"nonce,omitempty"` // of the task that creates it, while Lock is "create"
}

// Text is the configuration as one canonical text.
func (r Record) Text() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(r.Config)) {
		fmt.Fprintf(&b, "%s: %s\n", k, strconv.Quote(r.Config[k]))
	}
	if r.Lock != "" {
		fmt.Fprintf(&b, "lock: %s\n", r.Lock)
	}
	return b.String()
}

// Digest changes whenever the configuration does: the SHA-1 of Text, because
// clients expect 40 hex digits. Nothing relies on its strength.
func (r Record) Digest() string {
	sum := sha1.Sum([]byte(r.Text()))
	return hex.EncodeToString(sum[:])
}

// Name is the guest's name, "" when it has none.
func (r Record) Name() string {
	if r.Kind == guest.LXC {
		return r.Config["hostname"]
	}
	return r.Config["name"]
}

func (r Record) clone() Record {
	r.Config = maps.Clone(r.Config)
	if r.Config == nil {
		r.Config = map[string]string{}
	}
	return r
}

func (r Record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and integers
	}
	return b
}

func decode(key string, value []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(value, &r); err != nil {
		return r, fmt.Errorf("read guest %s: %w", key, err)
	}
	if Key(r.VMID) != key || r.Kind != guest.KVM && r.Kind != guest.LXC {
		return r, fmt.Errorf("read guest %s: it says it is %s %d", key, r.Kind, r.VMID)
	}
	return r, nil
}

// wireKind is the kind as the option tables call it.
func wireKind(k guest.Kind) wire.Kind { return wire.Kind(k) }

// word is what messages call a guest.
func word(k guest.Kind) string {
	if k == guest.LXC {
		return "CT"
	}
	return "VM"
}
