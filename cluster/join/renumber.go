package join

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"joist/internal/finding"
)

// Want says which guests get other VMIDs: those of the map, and with Auto
// every other one that clashes. As JSON it is {"100": 300} or "auto".
type Want struct {
	Auto bool
	IDs  map[int]int
}

// MarshalJSON implements json.Marshaler.
func (w Want) MarshalJSON() ([]byte, error) {
	if w.Auto && len(w.IDs) == 0 {
		return []byte(`"auto"`), nil
	}
	out := map[string]any{}
	for from, to := range w.IDs {
		out[strconv.Itoa(from)] = to
	}
	if w.Auto {
		out["auto"] = true
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (w *Want) UnmarshalJSON(b []byte) error {
	*w = Want{}
	if s := string(b); s == `"auto"` || s == "null" || s == `""` {
		w.Auto = s == `"auto"`
		return nil
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf(`renumber: neither "auto" nor {"100": 300}: %w`, err)
	}
	w.IDs = map[int]int{}
	for k, v := range all {
		if k == "auto" {
			if err := json.Unmarshal(v, &w.Auto); err != nil {
				return fmt.Errorf("renumber: auto: %w", err)
			}
			continue
		}
		from, err := strconv.Atoi(k)
		if err != nil {
			return fmt.Errorf("renumber: %q is no VMID", k)
		}
		var to int
		if err := json.Unmarshal(v, &to); err != nil {
			return fmt.Errorf("renumber: new VMID of %d: %w", from, err)
		}
		w.IDs[from] = to
	}
	return nil
}

// Rename is one volume that gets another name on its storage.
type Rename struct {
	Storage string `json:"storage"`
	From    string `json:"from"`
	To      string `json:"to"`
}

// Renumber gives guests other VMIDs: their records, the names of their volumes
// in every configuration of this node, and nothing else. Taken are the VMIDs of
// the cluster. Findings say what stands against it; with one that stops, the
// rest of the result means nothing.
//
// A new VMID must be free on both sides, also when its present owner is to be
// renumbered itself: so the renaming of volumes needs no order and can be
// repeated at any point.
func Renumber(r Records, want Want, taken []int) (Records, map[int]int, []Rename, finding.List) {
	ids, list := numbers(r, want, taken)
	if list.Stops() || len(ids) == 0 {
		return r, ids, nil, list
	}
	for _, from := range slices.Sorted(maps.Keys(ids)) {
		if slices.Contains(r.Running, from) {
			list.Stopf("guest-running", strconv.Itoa(from), "shut it down first; it can be started again after the join",
				"guest %d runs, and a running guest cannot become guest %d", from, ids[from])
		}
	}
	out := r
	out.Guests = nil
	renames := map[Rename]bool{}
	for _, g := range r.Guests {
		n, err := renumbered(g, ids, renames)
		if err != nil {
			list.Stopf("guest-unreadable", strconv.Itoa(g.VMID), "report this: such a record should not exist", "%v", err)
		}
		out.Guests = append(out.Guests, n)
	}
	for _, v := range r.Volumes {
		renameVolume(v, ids, renames)
	}
	moves := slices.SortedFunc(maps.Keys(renames), func(a, b Rename) int {
		return cmp.Or(strings.Compare(a.Storage, b.Storage), strings.Compare(a.From, b.From))
	})
	for _, m := range moves {
		if slices.Contains(r.Volumes, m.Storage+":"+m.To) {
			list.Stopf("volume-exists", m.Storage+":"+m.To, "choose another VMID, or remove the volume if nobody needs it",
				"volume %s:%s would get the name of a volume that exists, %s", m.Storage, m.From, m.To)
		}
	}
	return out, ids, moves, list
}

// numbers decides who gets which VMID.
func numbers(r Records, want Want, taken []int) (map[int]int, finding.List) {
	var list finding.List
	mine, used := map[int]bool{}, map[int]bool{}
	for _, v := range taken {
		used[v] = true
	}
	for _, g := range r.Guests {
		mine[g.VMID] = true
	}
	ids, targets := map[int]int{}, map[int]int{}
	for _, from := range slices.Sorted(maps.Keys(want.IDs)) {
		to := want.IDs[from]
		before, double := targets[to]
		switch {
		case !mine[from]:
			list.Stopf("renumber-unknown", strconv.Itoa(from), "name guests of this node only", "there is no guest %d on this node", from)
		case to < minVMID || to > maxVMID:
			list.Stopf("renumber-range", strconv.Itoa(from), "choose a number from 100 to 999999999", "%d is no VMID", to)
		case used[to] || mine[to]:
			list.Stopf("renumber-taken", strconv.Itoa(from), fmt.Sprintf("%d is free", free(used, mine, targets)),
				"guest %d cannot become %d: that VMID exists", from, to)
		case double:
			list.Stopf("renumber-twice", strconv.Itoa(from), fmt.Sprintf("%d is free", free(used, mine, targets)),
				"guests %d and %d cannot both become %d", before, from, to)
		default:
			ids[from], targets[to] = to, from
		}
	}
	for _, g := range r.Guests {
		if _, done := ids[g.VMID]; want.Auto && used[g.VMID] && !done {
			to := free(used, mine, targets)
			ids[g.VMID], targets[to] = to, g.VMID
		}
	}
	return ids, list
}

// free is the smallest VMID that nobody has.
func free(used, mine map[int]bool, targets map[int]int) int {
	for v := minVMID; ; v++ {
		if _, t := targets[v]; !t && !used[v] && !mine[v] {
			return v
		}
	}
}

// volumeKeyRE are the configuration keys whose values begin with a volume.
var volumeKeyRE = regexp.MustCompile(`^(?:(?:ide|sata|scsi|virtio|efidisk|tpmstate|unused|mp)[0-9]+|rootfs|vmstate)$`)

func renumbered(g Guest, ids map[int]int, renames map[Rename]bool) (Guest, error) {
	config, changed := map[string]string{}, false
	for k, v := range g.Config {
		config[k] = v
		if !volumeKeyRE.MatchString(k) {
			continue
		}
		props := strings.Split(v, ",")
		for i, p := range props {
			name, id, named := strings.Cut(p, "=")
			if !named {
				name, id = "", p
			} else if name != "file" && name != "volume" {
				continue
			}
			if to, ok := renameVolume(id, ids, renames); ok {
				props[i] = strings.TrimSuffix(p, id) + to
				changed = true
			}
		}
		config[k] = strings.Join(props, ",")
	}
	fields := map[string]any{}
	if changed {
		fields["config"] = config
	}
	if to, ok := ids[g.VMID]; ok {
		fields["vmid"] = to
	}
	if len(fields) == 0 {
		return g, nil
	}
	return g.edit(fields)
}

var diskNameRE = regexp.MustCompile(`^(vm|base|subvol)-([0-9]{3,9})(-.+)$`)

// renameVolume notes how a volume is renamed and returns its new id, if its
// owner gets another VMID. The owner stands in the last part of the name; the
// folder before it bears the owner's VMID too.
func renameVolume(id string, ids map[int]int, renames map[Rename]bool) (string, bool) {
	pool, name, ok := strings.Cut(id, ":")
	if !ok || !storageIDRE.MatchString(pool) {
		return "", false
	}
	parts := strings.Split(name, "/")
	last := len(parts) - 1
	m := diskNameRE.FindStringSubmatch(parts[last])
	if m == nil {
		return "", false
	}
	old, err := strconv.Atoi(m[2])
	to, moved := ids[old]
	if err != nil || !moved {
		return "", false
	}
	if last > 0 {
		if parts[last-1] != m[2] {
			return "", false // iso/vm-100-disk-0.iso is a file that somebody named so
		}
		parts[last-1] = strconv.Itoa(to)
	}
	parts[last] = m[1] + "-" + strconv.Itoa(to) + m[3]
	now := strings.Join(parts, "/")
	renames[Rename{Storage: pool, From: name, To: now}] = true
	return pool + ":" + now, true
}
