package boot

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExtensions(t *testing.T) {
	good := []Extension{
		{Name: "ceph", Size: 8192, VerityRoot: strings.Repeat("ab", 32), Packages: []string{"ceph-common 18"}},
		{Name: "my-own", Size: 4096, VerityRoot: strings.Repeat("cd", 32), Packages: []string{"htop 3"}},
	}
	text, err := EncodeExtensions(good)
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeExtensions(text)
	if diff := cmp.Diff(good, back); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for name, change := range map[string]func(x *Extension){
		"a path":           func(x *Extension) { x.Name = "../x" },
		"an option":        func(x *Extension) { x.Name = "-x" },
		"a colon":          func(x *Extension) { x.Name = "a:b" }, // overlayfs takes it for two folders
		"a comma":          func(x *Extension) { x.Name = "a,b" }, // and this for another option
		"the same again":   func(x *Extension) { x.Name = "my-own" },
		"no size":          func(x *Extension) { x.Size = 0 },
		"half a block":     func(x *Extension) { x.Size = 4000 },
		"no hash":          func(x *Extension) { x.VerityRoot = "" },
		"more than a hash": func(x *Extension) { x.VerityRoot += " init=/bin/sh" },
	} {
		bad := slices.Clone(good)
		change(&bad[0])
		if _, err := EncodeExtensions(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
		m := manifest()
		m.Extensions = bad
		if err := m.Validate(); err == nil {
			t.Errorf("%s: taken in a manifest", name)
		}
	}
	if _, err := DecodeExtensions([]byte("[{}]")); err == nil {
		t.Error("an empty one is taken")
	}
	if err := checkExtensions(make([]Extension, MaxExtensions+1)); err == nil {
		t.Error("too many are taken")
	}
}

// A slot's arguments name them in their order, and fit with as many as there may
// be; without extensions they are what they were.
func TestExtensionArgs(t *testing.T) {
	b := slotBoot(A)
	plain, err := SlotConfig(b)
	if err != nil || strings.Contains(string(plain), "joist.ext") {
		t.Fatal(string(plain), err)
	}
	var roots []string
	for i := range MaxExtensions {
		x := Extension{Name: strings.Repeat(string(rune('a'+i)), 32), Size: 4096, VerityRoot: strings.Repeat(string(rune('0'+i)), 64)}
		b.Manifest.Extensions = append(b.Manifest.Extensions, x)
		roots = append(roots, x.VerityRoot)
	}
	conf, err := SlotConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	args, err := SlotArgs(conf, A)
	if err != nil || !slices.Equal(ExtensionRoots(args), roots) {
		t.Errorf("%v, %q", err, args)
	}
	if len(args) > 2048-512 { // COMMAND_LINE_SIZE of x86; half a KiB is for a person's own
		t.Errorf("%d bytes of arguments", len(args))
	}
}

// What a list says ends up in paths, mount options and device names.
func FuzzDecodeExtensions(f *testing.F) {
	f.Add([]byte(`[{"name":"ceph","size":4096,"verity_root":"` + strings.Repeat("ab", 32) + `","packages":["x 1"]}]`))
	f.Add([]byte(`[{"name":"a:b,upperdir=/x","size":-1}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := DecodeExtensions(text)
		if err != nil {
			return
		}
		for _, x := range list {
			if strings.ContainsAny(x.Name, "/.:,\\ =") || x.Size <= 0 {
				t.Errorf("%+v", x)
			}
		}
		if err := checkArgs(extensionArgs(list)); err != nil {
			t.Error(err)
		}
	})
}
