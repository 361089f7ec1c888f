package join

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func guest(t testing.TB, raw string) Guest {
	t.Helper()
	g, err := ParseGuest([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func storageDef(t testing.TB, raw string) Storage {
	t.Helper()
	s, err := ParseStorage([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRenumber(t *testing.T) {
	r := Records{
		Guests: []Guest{
			guest(t, `{"vmid":100,"kind":"qemu","node":"n2","created":7,"new":{"x":[1]},"config":{
				"name":"vm-100-disk-0","description":"local-lvm:vm-100-disk-0","scsi0":"local-lvm:vm-100-disk-0,size=8G,serial=vm-100-disk-0",
				"virtio1":"file=local:100/vm-100-disk-1.qcow2,cache=none","ide2":"local:iso/vm-100-disk-0.iso,media=cdrom",
				"efidisk0":"local-lvm:base-100-disk-2,size=4M","unused0":"local:100/vm-100-disk-3.raw","net0":"virtio=52:54:00:00:01:00",
				"sata0":"local:1000/vm-1000-disk-0.raw","smbios1":"serial=100"}}`),
			guest(t, `{"vmid":101,"kind":"lxc","node":"n2","config":{"hostname":"ct","rootfs":"local:101/subvol-101-disk-0.raw,size=1G",
				"mp0":"local-lvm:vm-100-disk-9,mp=/x/vm-100-disk-9"}}`),
			guest(t, `{"vmid":102,"kind":"qemu","node":"n2","config":{"scsi0":"local-lvm:vm-102-disk-0"}}`),
		},
		Volumes: []string{"local-lvm:vm-100-disk-0", "local-lvm:vm-100-cloudinit", "local-lvm:vm-102-disk-0", "local:iso/x.iso"},
	}
	out, ids, renames, list := Renumber(r, Want{IDs: map[int]int{100: 300}}, []int{100, 101})
	if list.Stops() || !maps.Equal(ids, map[int]int{100: 300}) {
		t.Fatalf("ids %v, findings %v", ids, list)
	}
	want := []Rename{
		{"local", "100/vm-100-disk-1.qcow2", "300/vm-300-disk-1.qcow2"},
		{"local", "100/vm-100-disk-3.raw", "300/vm-300-disk-3.raw"},
		{"local-lvm", "base-100-disk-2", "base-300-disk-2"},
		{"local-lvm", "vm-100-cloudinit", "vm-300-cloudinit"},
		{"local-lvm", "vm-100-disk-0", "vm-300-disk-0"},
		{"local-lvm", "vm-100-disk-9", "vm-300-disk-9"},
	}
	if d := cmp.Diff(want, renames); d != "" {
		t.Errorf("renames: %s", d)
	}
	g := out.Guests[0]
	wantConfig := map[string]string{
		"name": "vm-100-disk-0", "description": "local-lvm:vm-100-disk-0", "scsi0": "local-lvm:vm-300-disk-0,size=8G,serial=vm-100-disk-0",
		"virtio1": "file=local:300/vm-300-disk-1.qcow2,cache=none", "ide2": "local:iso/vm-100-disk-0.iso,media=cdrom",
		"efidisk0": "local-lvm:base-300-disk-2,size=4M", "unused0": "local:300/vm-300-disk-3.raw", "net0": "virtio=52:54:00:00:01:00",
		"sata0": "local:1000/vm-1000-disk-0.raw", "smbios1": "serial=100",
	}
	if d := cmp.Diff(wantConfig, g.Config); d != "" || g.VMID != 300 {
		t.Errorf("guest %d: %s", g.VMID, d)
	}
	var rest map[string]json.RawMessage
	if err := json.Unmarshal(g.Raw, &rest); err != nil || string(rest["new"]) != `{"x":[1]}` || string(rest["created"]) != "7" {
		t.Errorf("other fields: %s %v", g.Raw, err)
	}
	if mp := out.Guests[1].Config["mp0"]; mp != "local-lvm:vm-300-disk-9,mp=/x/vm-100-disk-9" {
		t.Errorf("a volume of the guest in another's configuration: %q", mp)
	}
	if string(out.Guests[2].Raw) != string(r.Guests[2].Raw) {
		t.Errorf("guest that keeps its VMID: %s", out.Guests[2].Raw)
	}
}

func TestRenumberFindings(t *testing.T) {
	r := Records{
		Guests: []Guest{guest(t, `{"vmid":100,"kind":"qemu","config":{"scsi0":"l:vm-100-disk-0"}}`), guest(t, `{"vmid":101,"kind":"lxc"}`),
			guest(t, `{"vmid":103,"kind":"lxc"}`)},
		Running: []int{100}, Volumes: []string{"l:vm-100-disk-0", "l:vm-105-disk-0"},
	}
	tests := []struct {
		name  string
		want  Want
		codes string
		ids   map[int]int
	}{
		{"nothing asked", Want{}, "", map[int]int{}},
		{"auto", Want{Auto: true}, "guest-running", map[int]int{100: 104, 101: 106}},
		{"auto beside explicit", Want{Auto: true, IDs: map[int]int{101: 104}}, "guest-running volume-exists", map[int]int{100: 105, 101: 104}},
		{"unknown, range, taken, own", Want{IDs: map[int]int{99: 200, 100: 99, 101: 102, 103: 100}}, "renumber-range renumber-taken renumber-taken renumber-unknown", nil},
		{"two to one", Want{IDs: map[int]int{101: 200, 103: 200}}, "renumber-twice", nil},
		{"without clash", Want{IDs: map[int]int{103: 200}}, "", map[int]int{103: 200}},
	}
	for _, tt := range tests {
		taken := []int{100, 101, 102}
		if strings.HasPrefix(tt.name, "auto") {
			taken = append(taken, 105)
		}
		if tt.name == "auto beside explicit" {
			taken = taken[:3]
		}
		_, ids, _, list := Renumber(r, tt.want, taken)
		got := []string{}
		for _, f := range list {
			got = append(got, f.Code)
			if f.Hint == "" {
				t.Errorf("%s: %s has no cure", tt.name, f.Code)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.codes || tt.ids != nil && !maps.Equal(ids, tt.ids) {
			t.Errorf("%s: %v %v", tt.name, got, ids)
		}
	}
}

// TestRenumberBack: what is renumbered there and back is what it was, for
// configurations made of everything that looks like a volume.
func TestRenumberBack(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	pieces := []string{"local-lvm:", "local:", "100", "101", "/", "vm-100-disk-0", "vm-101-disk-1", "base-100-disk-3", "subvol-101-disk-0", ",", "=", "file=", "size=1G", "vm-1000-x", ".qcow2", "-", "iso/"}
	keys := []string{"scsi0", "ide2", "unused1", "rootfs", "mp3", "name", "description", "vmstate", "net0"}
	for n := range 2000 {
		config := map[string]string{}
		for range 1 + rnd.Intn(4) {
			var b strings.Builder
			for range 1 + rnd.Intn(6) {
				b.WriteString(pieces[rnd.Intn(len(pieces))])
			}
			config[keys[rnd.Intn(len(keys))]] = b.String()
		}
		g := Guest{Raw: mustJSON(map[string]any{"vmid": 100, "kind": "qemu", "config": config})}
		r := Records{Guests: []Guest{guest(t, string(g.Raw))}}
		there, _, moves, list := Renumber(r, Want{IDs: map[int]int{100: 777}}, nil)
		if list.Stops() {
			t.Fatal(list.Err())
		}
		back, _, undone, _ := Renumber(there, Want{IDs: map[int]int{777: 100}}, nil)
		if string(canonical(back.Guests[0].Raw)) != string(canonical(r.Guests[0].Raw)) {
			t.Fatalf("%d: %s became %s", n, r.Guests[0].Raw, back.Guests[0].Raw)
		}
		for i := range moves {
			if !slices.Contains(undone, Rename{moves[i].Storage, moves[i].To, moves[i].From}) {
				t.Fatalf("%d: %+v is not undone by %+v", n, moves[i], undone)
			}
		}
		for k, v := range there.Guests[0].Config {
			if (k == "name" || k == "description" || k == "net0") && v != config[k] {
				t.Fatalf("%d: %s changed", n, k)
			}
		}
	}
}

func TestWantJSON(t *testing.T) {
	for text, want := range map[string]Want{
		`"auto"`: {Auto: true}, `null`: {}, `{"100":300}`: {IDs: map[int]int{100: 300}},
		`{"100":300,"auto":true}`: {Auto: true, IDs: map[int]int{100: 300}},
	} {
		var w Want
		if err := json.Unmarshal([]byte(text), &w); err != nil || w.Auto != want.Auto || !maps.Equal(w.IDs, want.IDs) {
			t.Errorf("%s: %+v %v", text, w, err)
		}
		b, err := json.Marshal(w)
		var again Want
		if err != nil || json.Unmarshal(b, &again) != nil || again.Auto != want.Auto || !maps.Equal(again.IDs, want.IDs) {
			t.Errorf("%s written as %s", text, b)
		}
	}
	for _, text := range []string{`"all"`, `{"x":1}`, `{"100":"a"}`, `[1]`} {
		var w Want
		if json.Unmarshal([]byte(text), &w) == nil {
			t.Errorf("%s is read as %+v", text, w)
		}
	}
}

func TestStorageEqual(t *testing.T) {
	a := storageDef(t, `{"storage":"s","type":"lvmthin","content":["rootdir","images"],"shared":false,"vgname":"joist","vg_uuid":"A-1","thinpool":"data"}`)
	b := storageDef(t, `{"vg_uuid":"B-2","thinpool":"data","type":"lvmthin","vgname":"joist","shared":false,
		"content":["images","rootdir"],"storage":"s"}`)
	if !a.equal(b) || strings.Contains(string(a.Raw), "A-1") {
		t.Errorf("%s and %s", a.Raw, b.Raw)
	}
	for _, raw := range []string{`{"storage":"s","type":"dir"}`, `{"storage":"t","type":"lvmthin","content":["rootdir","images"],"shared":false,"vgname":"joist","thinpool":"data"}`} {
		if a.equal(storageDef(t, raw)) {
			t.Errorf("%s is equal", raw)
		}
	}
	for _, raw := range []string{`{}`, `{"storage":"../x"}`, `[]`, `{"storage":7}`} {
		if s, err := ParseStorage([]byte(raw)); err == nil {
			t.Errorf("%s is storage %q", raw, s.ID)
		}
	}
	for _, raw := range []string{`{"vmid":99,"kind":"qemu"}`, `{"vmid":100,"kind":"x"}`, `{"vmid":100,"kind":"lxc","config":{"a b":"c"}}`, `x`} {
		if g, err := ParseGuest([]byte(raw)); err == nil {
			t.Errorf("%s is guest %+v", raw, fmt.Sprint(g.VMID))
		}
	}
}
