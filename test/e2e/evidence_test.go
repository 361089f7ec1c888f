package e2e

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// TestKernelCrash: what the kernel says when it dies is kept by UEFI, collected
// at the next start, shown by dashboard and API until it is deleted, and in the
// support bundle, which holds no secret.
func TestKernelCrash(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(c *vm.Config, _ *lan.Switch) { c.Firmware = vm.OVMF })
	n.run(t, "for i in $(seq 60); do test -e /sys/module/efi_pstore && exit; sleep 1; done; exit 1")
	n.run(t, "(sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &")
	if _, err := n.WaitFor(within(t, 2*time.Minute), "Kernel panic - not syncing"); err != nil {
		t.Fatal(err)
	}
	n.closeSSH()
	if _, err := n.WaitFor(within(t, node.BootTime), `the kernel crashed [0-9: -]+ \(Panic\)`); err != nil {
		t.Fatal(err)
	}
	n.login(t)
	at := "/nodes/" + n.Name + "/crashes"
	var list []struct{ ID, Reason string }
	if err := n.API.Get(t.Context(), at, nil, &list); err != nil || len(list) != 1 || list[0].Reason != "Panic" {
		t.Fatalf("%+v %v", list, err)
	}
	var text string
	if err := n.API.Get(t.Context(), at+"/"+list[0].ID, nil, &text); err != nil || !strings.Contains(text, "sysrq triggered crash") {
		t.Errorf("%v\n%s", err, text)
	}
	n.want(t, "the firmware's store", "ls /sys/fs/pstore | wc -l", "0")

	var bundle struct{ Name, Content string }
	if err := n.API.Get(t.Context(), "/nodes/"+n.Name+"/support", nil, &bundle); err != nil {
		t.Fatal(err)
	}
	if b, err := base64.StdEncoding.DecodeString(bundle.Content); err != nil || len(b) < 10_000 {
		t.Errorf("a bundle of %d bytes, %v", len(b), err)
	}
	n.want(t, "a bundle made on the node", "cd /tmp && f=$(joist-init support) && tar -xzf $f && cd joist-support && cat missing && ls var/lib/joist var/lib/joist/node && "+
		"grep -c 'sysrq triggered' var/lib/joist/crash/* && grep -l 'keep the log' var/lib/joist/install/journal.json && test -s commands/lsblk.txt && test -s dmesg.txt && test -s status.json",
		"var/lib/joist:\ncrash\ninstall\nnode\ntasks\n\nvar/lib/joist/node:\ninstall-report.json\nnode.json\n1\nvar/lib/joist/install/journal.json")
	n.want(t, "secrets in it", `h=$(cut -c1-40 /var/lib/joist/node/root.shadow); grep -rlF -e "$h" -e "PRIVATE KEY" -e '`+password+`' /tmp/joist-support | wc -l`, "0")

	if err := n.API.Do(t.Context(), http.MethodDelete, at+"/"+list[0].ID, nil, nil); err != nil {
		t.Error(err)
	}
	n.want(t, "crashes that are kept", "ls /var/lib/joist/crash | wc -l", "0")
}
