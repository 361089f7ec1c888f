package schema

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testMethod() *Method {
	return &Method{Verb: "POST", Path: "/nodes/{node}/qemu/{vmid}", Params: []Param{
		{Name: "node", Format: "pve-node"},
		{Name: "vmid", Type: Integer, Format: "pve-vmid"},
		{Name: "name", Optional: true, MaxLen: 5},
		{Name: "cores", Type: Integer, Optional: true, Min: F(1), Max: F(8)},
		{Name: "cpulimit", Type: Number, Optional: true, Min: F(0)},
		{Name: "onboot", Type: Boolean, Optional: true},
		{Name: "type", Optional: true, Enum: []string{"vm", "storage"}},
		{Name: "delete", Optional: true, List: true, Pattern: "[a-z0-9]+"},
		{Name: "args", Type: Array, Optional: true},
		{Name: "net[n]", Optional: true, Count: 32},
		{Name: "storage", Optional: true, Format: "pve-storage-id"},
	}}
}

func TestCheck(t *testing.T) {
	c, err := NewChecker(testMethod())
	if err != nil {
		t.Fatal(err)
	}
	base := map[string]any{"node": "n1", "vmid": int64(100)}
	tests := []struct {
		name string
		path map[string]string
		in   Input
		vals map[string]any
		errs map[string]string
	}{
		{name: "all types", in: Input{"cores": {"4"}, "cpulimit": {"0.5"}, "onboot": {"1"}, "delete": {"a,b; c"}, "args": {"x", "y"}, "net31": {"virtio"}},
			vals: map[string]any{"cores": int64(4), "cpulimit": 0.5, "onboot": true, "delete": []string{"a", "b", "c"}, "args": []string{"x", "y"}, "net31": "virtio"}},
		{name: "list given as array", in: Input{"delete": {"a", "b"}}, vals: map[string]any{"delete": []string{"a", "b"}}},
		{name: "array given as scalar", in: Input{"args": {"x"}}, vals: map[string]any{"args": []string{"x"}}},
		{name: "same path parameter twice", in: Input{"vmid": {"100"}}, vals: map[string]any{}},
		{name: "everything wrong at once", in: Input{
			"cores": {"x"}, "cpulimit": {"-1"}, "onboot": {"yes"}, "type": {"x"}, "delete": {"A"}, "net32": {"x"}, "net01": {"x"},
			"name": {"abcdef"}, "bogus": {"1"}, "storage": {"-x"}, "vmid": {"101"}},
			errs: map[string]string{
				"cores": "type check ('integer') failed - got 'x'", "cpulimit": "value must have a minimum value of 0",
				"onboot": "type check ('boolean') failed - got 'yes'",
				"type":   "value 'x' does not have a value in the enumeration 'vm, storage'",
				"delete": textPattern, "net32": textUnknown, "net01": textUnknown, "name": "value may only be 5 characters long",
				"bogus": textUnknown, "storage": "invalid format - storage ID '-x' contains illegal characters",
				"vmid": textDuplicate,
			}},
		{name: "bounds and arrays", in: Input{"cores": {"9"}, "name": {"a", "b"}, "cpulimit": {"NaN"}},
			errs: map[string]string{"cores": "value must have a maximum value of 8", "name": "type check ('string') failed - got ARRAY",
				"cpulimit": "type check ('number') failed - got 'NaN'"}},
		{name: "bad path", path: map[string]string{"node": "-", "vmid": "99"},
			errs: map[string]string{"node": "invalid format - value does not look like a valid node name", "vmid": "invalid format - value does not look like a valid VM ID"}},
		{name: "missing", path: map[string]string{"node": "n1"}, errs: map[string]string{"vmid": textMissing}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := tt.path
			if path == nil {
				path = map[string]string{"node": "n1", "vmid": "100"}
			}
			vals, errs := c.Check(path, tt.in)
			if d := cmp.Diff(tt.errs, errs); d != "" && len(tt.errs)+len(errs) > 0 {
				t.Error(d)
			}
			if tt.vals != nil {
				want := maps.Clone(base)
				maps.Copy(want, tt.vals)
				if d := cmp.Diff(want, vals); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestDeclarationMistakes(t *testing.T) {
	for name, m := range map[string]Method{
		"pattern":            {Path: "/a", Params: []Param{{Name: "x", Pattern: "("}}},
		"format":             {Path: "/a", Params: []Param{{Name: "x", Format: "nope"}}},
		"family":             {Path: "/a", Params: []Param{{Name: "x[n]"}}},
		"undeclared in path": {Path: "/a/{b}"},
	} {
		if _, err := NewChecker(&m); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParse(t *testing.T) {
	form, err := ParseForm("a=1&b=x+y;b=%2Fz&_dc=9&&c")
	if d := cmp.Diff(Input{"a": {"1"}, "b": {"x y", "/z"}, "c": {""}}, form); d != "" || err != nil {
		t.Error(d, err)
	}
	js, err := ParseJSON([]byte(`{"a":1,"b":[true,"x"],"c":null,"d":0.50,"e":"é"}`))
	if d := cmp.Diff(Input{"a": {"1"}, "b": {"1", "x"}, "d": {"0.50"}, "e": {"é"}}, js); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, s := range []string{`[`, `{"a":{}}`, `{} x`, `{"a":[[1]]}`} {
		if _, err := ParseJSON([]byte(s)); err == nil {
			t.Errorf("accepted %s", s)
		}
	}
	if _, err := ParseForm("a=%zz"); err == nil {
		t.Error("accepted bad escape")
	}
	if m := Merge(Input{"a": {"1"}, "b": {"2"}}, Input{"a": {"3"}}); cmp.Diff(Input{"a": {"3"}, "b": {"2"}}, m) != "" {
		t.Errorf("merge: %v", m)
	}
}

func TestFormats(t *testing.T) {
	tests := []struct {
		format, good, bad string
	}{
		{"pve-volume-id", "local:iso/x.iso", "local:../x"}, {"pve-volume-id", "local-lvm:vm-100-disk-0", "x.iso"},
		{"pve-storage-id", "local-lvm", "l"}, {"pve-userid", "root@pam", "root"}, {"ip", "::1", "1.2.3"}, {"ipv4", "1.2.3.4", "::1"},
		{"CIDR", "10.0.0.0/8", "10.0.0.0"}, {"mac-addr", "BC:24:11:00:00:01", "BD:24:11:00:00:01"}, {"pve-fs-path", "/a/b", "/a/../b"},
		{"url", "https://x/y", "file:///etc/passwd"}, {"dns-name", "a.b-c", "a..b"}, {"address", "host", "a b"}, {"pve-tag", "go-proxmox+cloud-init", "a b"},
		{"disk-size", "32G", "32X"}, {"pve-acl-path", "/vms/100", "vms"}, {"pve-storage-content", "iso", "isos"},
	}
	for _, tt := range tests {
		if known, err := Format(tt.format, tt.good); !known || err != nil {
			t.Errorf("%s %q: %v", tt.format, tt.good, err)
		}
		if _, err := Format(tt.format, tt.bad); err == nil {
			t.Errorf("%s: accepted %q", tt.format, tt.bad)
		}
	}
}

func TestRouter(t *testing.T) {
	var r Router[string]
	for _, p := range []string{"GET /version", "GET /nodes", "GET /nodes/{node}/qemu", "GET /nodes/{node}/qemu/{vmid}/status/current",
		"POST /nodes/{node}/qemu/{vmid}/status/start", "GET /nodes/{node}/storage/{storage}/content",
		"GET /nodes/{node}/storage/{storage}/content/{volume...}"} {
		verb, path, _ := cut(p)
		if err := r.Add(&Method{Verb: verb, Path: path}, p); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		verb, path, value string
		params            map[string]string
		index             []string
	}{
		{verb: "GET", path: "/version", value: "GET /version"},
		{verb: "GET", path: "//nodes//", value: "GET /nodes"},
		{verb: "GET", path: "/nodes/n/storage/local/content/local:iso/a b.iso", value: "GET /nodes/{node}/storage/{storage}/content/{volume...}",
			params: map[string]string{"node": "n", "storage": "local", "volume": "local:iso/a b.iso"}},
		{verb: "GET", path: "/nodes/n/storage/local/content/", value: "GET /nodes/{node}/storage/{storage}/content",
			params: map[string]string{"node": "n", "storage": "local"}},
		{verb: "GET", path: "/nodes/n", index: []string{"qemu", "storage"}, params: map[string]string{"node": "n"}},
		{verb: "GET", path: "/", index: []string{"nodes", "version"}},
		{verb: "GET", path: "/nodes/n/qemu/100/status/", index: []string{"current", "start"}, params: map[string]string{"node": "n", "vmid": "100"}},
	}
	for _, tt := range tests {
		m, ok := r.Find(tt.verb, tt.path)
		if !ok || m.Value != tt.value || !slices.Equal(m.Index, tt.index) {
			t.Errorf("%s %s: %+v %v", tt.verb, tt.path, m, ok)
		}
		if len(tt.params)+len(m.Params) > 0 && cmp.Diff(tt.params, m.Params) != "" {
			t.Errorf("%s: parameters %v", tt.path, m.Params)
		}
	}
	for _, p := range []string{"GET /foo", "POST /version", "GET /nodes/n/qemu/100/status/x", "PUT /"} {
		verb, path, _ := cut(p)
		if m, ok := r.Find(verb, path); ok {
			t.Errorf("%s: found %+v", p, m)
		}
	}
	for _, p := range []string{"GET /version", "GET /nodes/{host}/x", "GET /a/{b...}/c"} {
		verb, path, _ := cut(p)
		if err := r.Add(&Method{Verb: verb, Path: path}, p); err == nil {
			t.Errorf("accepted %s", p)
		}
	}
}

func cut(s string) (verb, path string, ok bool) {
	for i := range s {
		if s[i] == ' ' {
			return s[:i], s[i+1:], true
		}
	}
	return "", s, false
}

func FuzzParameters(f *testing.F) {
	f.Add("cores=4&net0=virtio&delete=a,b", `{"cores":4,"onboot":true,"args":["x"]}`)
	f.Add("a=%00&vmid=1", `{"net99":1e99}`)
	c, err := NewChecker(testMethod())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, form, body string) {
		for _, parse := range []func() (Input, error){
			func() (Input, error) { return ParseForm(form) },
			func() (Input, error) { return ParseJSON([]byte(body)) },
		} {
			in, err := parse()
			if err != nil {
				continue
			}
			vals, errs := c.Check(map[string]string{"node": "n1", "vmid": "100"}, in)
			for name := range in {
				_, ok := vals[name]
				_, bad := errs[name]
				if ok == bad {
					t.Fatalf("parameter %q: valid %v, error %v", name, ok, bad)
				}
			}
		}
	})
}
