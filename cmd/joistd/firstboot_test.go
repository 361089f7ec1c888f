package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"joist/api/node"
	"joist/system/firstboot"
)

// What the first start waits for follows from files and from the API.
func TestObserver(t *testing.T) {
	p := testPaths(t)
	answers := map[string]string{}
	ln, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := answers[filepath.Base(r.URL.Path)]
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, `{"data":%s}`, a)
	})}
	go s.Serve(ln)
	defer s.Close()
	o := &observer{p: p, api: newLocal(p.socket)}
	see := func(step string, want firstboot.Seen) {
		t.Helper()
		if got := o.look(t.Context(), step); got != want {
			t.Errorf("%s: %+v, want %+v", step, got, want)
		}
	}
	file := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done := firstboot.Seen{}
	waits := func(s string) firstboot.Seen { return firstboot.Seen{Waits: s} }
	see(firstboot.HostKeys, done)
	file(filepath.Join(p.root, node.KeysFile), "ssh-ed25519 AAAA")
	for _, k := range node.HostKeys() {
		see(firstboot.HostKeys, waits("for PID 1 to make them"))
		file(filepath.Join(p.root, k.File), "key")
	}
	see(firstboot.HostKeys, done)
	file(p.netState, `{"up": false}`)
	see(firstboot.Network, waits("for an address"))
	file(p.netState, `{"up": true}`)
	see(firstboot.Network, done)
	see(firstboot.Storage, waits("for the API"))
	answers["storage"] = `[{"storage":"local","active":1},{"storage":"local-lvm","active":0}]`
	see(firstboot.Storage, waits(`for storage "local-lvm"`))
	answers["storage"] = `[{"storage":"local","active":1}]`
	see(firstboot.Storage, done)
	see(firstboot.Cluster, waits("for the API"))
	answers["membership"] = `{}`
	see(firstboot.Cluster, done)
	file(filepath.Join(p.root, node.JoinFile), "{}")
	see(firstboot.Cluster, waits("for the join to begin"))
	answers["membership"] = `{"operation":"join","state":"asking","running":1}`
	see(firstboot.Cluster, waits("for the join: asking"))
	answers["membership"] = `{"operation":"join","state":"undone","running":0,"reason":"no token"}`
	see(firstboot.Cluster, firstboot.Seen{Waits: "the join came to nothing: no token", Failed: true})
	answers["membership"] = `{"operation":"join","state":"done","running":0}`
	if err := os.Remove(filepath.Join(p.root, node.JoinFile)); err != nil {
		t.Fatal(err)
	}
	see(firstboot.Cluster, done)
}

func TestFirstBootAlerts(t *testing.T) {
	j := node.FirstBoot{Steps: []node.FirstBootStep{{Name: firstboot.Network, State: firstboot.Waiting}, {Name: firstboot.Program, State: firstboot.Failed, Detail: "status 3"}}}
	if list := firstBootAlerts(j); len(list) != 1 || list[0].Text != "first start, program: status 3" || list[0].Cure == "" {
		t.Errorf("%+v", list)
	}
}
