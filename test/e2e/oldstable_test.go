package e2e

import (
	"strings"
	"testing"
	"time"

	"joist/api/client"
)

// TestTemplateOldstable: the template of Debian 12 runs as a container, whole
// as dpkg sees it, with an address and names.
func TestTemplateOldstable(t *testing.T) {
	t.Parallel()
	archive := templateOf(t, "debian-12", "debian-12")
	n := startNode(t, nil)
	n.serveWeb(t)
	id := n.upload(t, "vztmpl", "debian-12-standard_test_amd64.tar.zst", archive)
	g := guestOf{n: n, kind: "lxc", id: ctID}.create(t, client.Params{
		"hostname": "older", "ostemplate": id, "rootfs": "local-lvm:4", "memory": guestMemory, "password": rootInside, "net0": ctNetwork,
	})
	g.start(t)
	g.wantStatus(t, "running")
	c := g.typeInto(t, rootInside)
	if v := strings.TrimSpace(c.run(t, time.Minute, "cat /etc/debian_version")); !strings.HasPrefix(v, "12.") {
		t.Errorf("its release is %q, want 12", v)
	}
	if got := strings.TrimSpace(c.run(t, time.Minute, "hostname")); got != "older" {
		t.Errorf("its name is %q", got)
	}
	if got := strings.Fields(c.run(t, time.Minute, "readlink /bin /sbin /lib /lib64")); strings.Join(got, " ") != "usr/bin usr/sbin usr/lib usr/lib64" {
		t.Errorf("/usr is not merged: %v", got)
	}
	if bad := strings.TrimSpace(c.run(t, 3*time.Minute, "dpkg --audit")); bad != "" {
		t.Errorf("dpkg --audit says:\n%s", bad)
	}
	got := c.run(t, 3*time.Minute, `until getent hosts `+webName+`; do sleep 1; done`)
	if !strings.Contains(got, webAddress.String()) {
		t.Errorf("%s is %q inside, want %s", webName, got, webAddress)
	}
	if failed := strings.TrimSpace(c.run(t, time.Minute, "systemctl list-units --failed --no-legend --plain")); failed != "" {
		t.Errorf("units failed:\n%s", failed)
	}
	g.stop(t)
}
