package archtest

import (
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// TestTree applies all rules to this module.
func TestTree(t *testing.T) {
	files, err := Load(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]func([]File) []Finding{
		"imports": CheckImports, "effects": CheckEffects, "packages": CheckPackages, "sizes": CheckSizes, "format": CheckFormat,
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range check(files) {
				if f.Warn {
					t.Log("warning: ", f)
				} else {
					t.Error(f)
				}
			}
		})
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above")
	return ""
}

func file(t *testing.T, name, src string) File {
	t.Helper()
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, name, src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return File{Path: name, Dir: path.Dir(name), Test: strings.HasSuffix(name, "_test.go"), AST: tree, Src: []byte(src), Set: set}
}

// TestRules: each rule finds what it is for, and nothing in its neighbours.
func TestRules(t *testing.T) {
	long := func(n int) string { return "package x\nfunc f() {\n" + strings.Repeat("\tf()\n", n) + "}\n" }
	cases := []struct {
		check     func([]File) []Finding
		path, src string
		want      string // part of the one finding; "" for none
	}{
		{CheckImports, "image/x/x.go", `package x; import _ "joist/rootfs/deb"`, "image may not import rootfs/deb"},
		{CheckImports, "image/x/x.go", `package x; import _ "joist/rootfs/tree"`, ""},
		{CheckImports, "image/x/x.go", `package x; import _ "joist/internal/run"`, ""},
		{CheckImports, "api/x/x_test.go", `package x; import _ "joist/cluster/store"`, "api may not import"},
		{CheckImports, "hypervisor/server/x.go", `package x; import _ "joist/hypervisor/guest/kvm"`, "chooses drivers"},
		{CheckImports, "hypervisor/guest/kvm/a.go", `package x; import _ "joist/hypervisor/guest/kvm/qmp"`, ""},
		{CheckImports, "cmd/joistd/a.go", `package x; import _ "joist/hypervisor/guest/kvm"`, ""},
		{CheckImports, "new/a.go", `package x`, "not in the table"},
		{CheckEffects, "cluster/a.go", `package x; import _ "os/exec"`, "internal/run"},
		{CheckEffects, "hypervisor/guest/kvm/a.go", `package x; import _ "os/exec"`, ""},
		{CheckEffects, "installer/plan/a.go", `package x; import _ "joist/internal/run"`, "never import effects"},
		{CheckEffects, "cluster/a.go", "package x\nfunc init() {}\n", "func init"},
		{CheckEffects, "cluster/a.go", "package x\nfunc (t T) init() {}\ntype T int\n", ""},
		{CheckEffects, "cluster/a.go", `package x; import _ "log"`, "slog"},
		{CheckPackages, "cluster/a.go", "// Package x is.\npackage x\n", ""},
		{CheckPackages, "cluster/a.go", "package x\n", "no comment"},
		{CheckPackages, "cluster/util/a.go", "// Package util is.\npackage util\n", "says nothing"},
		{CheckSizes, "cluster/a.go", long(90), "aim 50"},
		{CheckSizes, "cluster/a.go", long(40), ""},
		{CheckSizes, "cmd/x/main.go", "package main\n" + strings.Repeat("\n", 70), "limit 60"},
		{CheckSizes, "cluster/a.go", "package x\ntype I interface { A(); B(); C(); D(); E(); F(); G(); H(); I() }\n", "limit 8"},
		{CheckFormat, "cluster/a.go", "package x\nvar  a int\n", "gofmt"},
	}
	for _, c := range cases {
		var got []string
		for _, f := range c.check([]File{file(t, c.path, c.src)}) {
			got = append(got, f.String())
		}
		if c.want == "" && len(got) != 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s %q: got %q, want %q", c.path, c.src[:min(len(c.src), 60)], got, c.want)
		}
	}
}
