package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"joist/api/schema"
	"joist/hypervisor/server"
)

var updateDocs = flag.Bool("update-docs", false, "rewrite the list of methods in docs/api.md")

// TestAPIDoc keeps the list in docs/api.md what the daemon serves.
func TestAPIDoc(t *testing.T) {
	const file, begin, end = "../../docs/api.md", "<!-- methods: go test ./cmd/joistd -run TestAPIDoc -update-docs -->\n", "<!-- end of methods -->\n"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d, err := open(ctx, slog.New(slog.DiscardHandler), testPaths(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	p, err := d.parts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks of the list", file)
	}
	want := head + begin + methodList(p.routes) + end + tail
	if want == string(text) {
		return
	}
	if !*updateDocs {
		t.Fatalf("the list of methods in %s is not what the daemon serves; run go test ./cmd/joistd -run TestAPIDoc -update-docs", file)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// methodList is a table for each part of the API, in the order of its paths.
func methodList(routes []server.Route) string {
	parts := map[string][]string{}
	routes = slices.SortedFunc(slices.Values(routes), func(a, b server.Route) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Verb, b.Verb))
	})
	for _, r := range routes {
		parts[part(r.Path)] = append(parts[part(r.Path)],
			fmt.Sprintf("| `%s` | %s | %s | %s |\n", strings.ReplaceAll(r.Path, "|", "\\|"), r.Verb, r.Text, privileges(r.Perm)))
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		fmt.Fprintf(&b, "\n### %s\n\n| path | verb | what | needs |\n|---|---|---|---|\n%s", name, strings.Join(parts[name], ""))
	}
	return b.String() + "\n"
}

func part(path string) string {
	for _, p := range []string{"/nodes/{node}/qemu", "/nodes/{node}/lxc", "/nodes/{node}/storage", "/nodes/{node}/tasks"} {
		if path == p || strings.HasPrefix(path, p+"/") {
			return p
		}
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return "/" + first
}

// privileges says who may call a method, as far as the declaration does.
func privileges(p schema.Perm) string {
	var s string
	switch {
	case p.World:
		return "nothing, not even a log-in"
	case p.Root:
		return "root@pam with a ticket"
	case len(p.Privs) > 0:
		sep := " and "
		if p.Any {
			sep = " or "
		}
		s = strings.Join(p.Privs, sep) + " on `" + p.Path + "`"
	}
	for _, a := range p.And {
		s += "; " + privileges(a)
	}
	for _, o := range p.Or {
		s += " or " + privileges(o)
	}
	if s == "" {
		return "a log-in; shows or does what the caller may"
	}
	return s
}
