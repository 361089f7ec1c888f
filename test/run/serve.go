package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
)

// serve runs the node until Ctrl-C.
func serve(ctx context.Context, p places, password string) error {
	c := machine(ctx, p, "hostfwd=tcp:"+apiAddress+"-:8006")
	c.Disks = []vm.Disk{{Path: p.disk()}}
	start := time.Now()
	fmt.Println("[started]  boot the node")
	m, err := vm.Start(ctx, c)
	if err != nil {
		return err
	}
	defer m.Remove()
	defer m.Kill()
	api, fingerprint, err := login(ctx, password)
	if err != nil {
		if ctx.Err() == nil {
			return fmt.Errorf("%w; the node said last:\n%s", err, m.Serial(0).Tail(30))
		}
		return shutdown(m, nil)
	}
	defer api.Close()
	fmt.Printf("[finished] boot the node (%s)\n", time.Since(start).Round(time.Second))
	if err := writeEnv(p, fingerprint, password); err != nil {
		return err
	}
	fmt.Print(welcome(p, fingerprint, password, filepath.Join(m.Config.Dir, "serial0.log")))
	if m.Wait(ctx) == nil || ctx.Err() == nil {
		fmt.Println("The node has stopped.")
		return nil
	}
	return shutdown(m, api)
}

// login waits for the node's API and logs in, from then on with the
// certificate that it showed first.
func login(ctx context.Context, password string) (*client.Client, string, error) {
	ctx, cancel := context.WithTimeout(ctx, node.BootTime)
	defer cancel()
	first, err := client.New(client.Options{URL: apiURL, Insecure: true})
	if err != nil {
		return nil, "", err
	}
	defer first.Close()
	if err := node.WaitLogin(ctx, first, password); err != nil {
		return nil, "", err
	}
	fingerprint, err := certificate(ctx)
	if err != nil {
		return nil, "", err
	}
	api, err := client.New(client.Options{URL: apiURL, Fingerprint: fingerprint})
	if err != nil {
		return nil, "", err
	}
	return api, fingerprint, api.Login(ctx, "root@pam", password)
}

func certificate(ctx context.Context) (string, error) {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // looked at, not trusted
	conn, err := d.DialContext(ctx, "tcp", apiAddress)
	if err != nil {
		return "", fmt.Errorf("read certificate: %w", err)
	}
	defer conn.Close()
	certs := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return "", errors.New("read certificate: the node sent none")
	}
	return strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(certs[0].Raw)), " ", ":"), nil
}

// writeEnv leaves what the tool needs to reach the node.
func writeEnv(p places, fingerprint, password string) error {
	text := fmt.Sprintf("export JOIST_SERVER=%s\nexport JOIST_FINGERPRINT=%s\nexport JOIST_PASSWORD=%s\n", apiURL, fingerprint, password)
	if err := os.WriteFile(p.env(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// shutdown asks the node over its API, then by its power button, and gives it
// the time that its guests may take.
func shutdown(m *vm.Machine, api *client.Client) error {
	const patience = 4 * time.Minute
	fmt.Println("\n[started]  switch the node off (Ctrl-C again: pull the plug)")
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	asked := errors.New("not logged in")
	if api != nil {
		asked = api.Post(ctx, "/nodes/"+nodeName+"/status", client.Params{"command": "shutdown"}, nil)
	}
	if asked != nil {
		asked = m.PowerDown(ctx)
	}
	if err := errors.Join(asked, m.Wait(ctx)); err != nil {
		return fmt.Errorf("switch the node off: %w; it was cut off", err)
	}
	fmt.Printf("[finished] switch the node off (%s)\n", time.Since(start).Round(time.Second))
	return nil
}

// welcome says where the node is and what to try.
func welcome(p places, fingerprint, password, console string) string {
	iso := "FILE.iso"
	if found, err := node.FindISO(); err == nil {
		iso = near(found)
	}
	return fmt.Sprintf(`
  URL          %s
  user         root@pam
  password     %s   (kept in %s)
  fingerprint  %s
  console      tail -f %s

Next, in another terminal, in this folder:

  . %s

  1. look around
     build/bin/joist api get /cluster/resources

  2. bring a CD image to the node
     build/bin/joist api upload %[8]s local iso %[7]s

  3. start a virtual machine from it and open its serial console (Ctrl-] leaves)
     build/bin/joist api create /nodes/%[8]s/qemu vmid=100 memory=1024 serial0=socket ide2=local:iso/%[9]s,media=cdrom
     build/bin/joist api create /nodes/%[8]s/qemu/100/status/start
     build/bin/joist api console /nodes/%[8]s/qemu/100

Ctrl-C switches the node off; its disk is kept for the next make run.
`, apiURL, password, p.password(), fingerprint, console, p.env(), iso, nodeName, filepath.Base(iso))
}
