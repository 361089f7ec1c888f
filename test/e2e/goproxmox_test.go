package e2e

import (
	"context"
	"crypto/tls"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/luthermonson/go-proxmox"
)

// goProxmox: a client of others, unchanged, does what people do with it.
func (s *spine) goProxmox(t *testing.T) {
	ctx := within(t, 20*time.Minute)
	c := proxmox.NewClient("https://"+s.n.IP+":8006/api2/json",
		proxmox.WithHTTPClient(&http.Client{Transport: &http.Transport{
			DialContext:     s.n.LAN.Dial,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the segment is the test's own
		}}),
		proxmox.WithCredentials(&proxmox.Credentials{Username: "root@pam", Password: password}))
	v, err := c.Version(ctx)
	if err != nil || v.Version == "" {
		t.Fatalf("version %+v, %v", v, err)
	}
	nodes, err := c.Nodes(ctx)
	if err != nil || len(nodes) != 1 || nodes[0].Node != s.n.Name || nodes[0].Status != "online" {
		t.Fatalf("nodes %+v, %v", nodes, err)
	}
	n, err := c.Node(ctx, s.n.Name)
	if err != nil {
		t.Fatal(err)
	}
	storages, err := n.Storages(ctx)
	if err != nil || len(storages) < 2 {
		t.Fatalf("storages %+v, %v", storages, err)
	}
	t.Run("machine", func(t *testing.T) { s.theirMachine(ctx, t, c, n) })
	t.Run("container", func(t *testing.T) { s.theirContainer(ctx, t, c, n) })
}

// theirMachine creates, finds, starts, stops and deletes a virtual machine.
func (s *spine) theirMachine(ctx context.Context, t *testing.T, c *proxmox.Client, n *proxmox.Node) {
	id := theirNextID(ctx, t, c)
	task, err := n.NewVirtualMachine(ctx, id,
		proxmox.VirtualMachineOption{Name: "name", Value: "theirs"},
		proxmox.VirtualMachineOption{Name: "memory", Value: 128},
		proxmox.VirtualMachineOption{Name: "scsihw", Value: "virtio-scsi-single"},
		proxmox.VirtualMachineOption{Name: "scsi0", Value: "local-lvm:1"},
		proxmox.VirtualMachineOption{Name: "ide2", Value: s.ipxe(t) + ",media=cdrom"},
		proxmox.VirtualMachineOption{Name: "net0", Value: vmHardware})
	theirs(ctx, t, task, err)
	list, err := n.VirtualMachines(ctx)
	if err != nil || !slices.ContainsFunc(list, func(m *proxmox.VirtualMachine) bool { return int(m.VMID) == id && m.Name == "theirs" }) {
		t.Fatalf("machine %d is not among %+v, %v", id, list, err)
	}
	m, err := n.VirtualMachine(ctx, id)
	if err != nil || m.VirtualMachineConfig == nil || m.VirtualMachineConfig.Name != "theirs" {
		t.Fatalf("machine %+v, %v", m, err)
	}
	task, err = m.Start(ctx)
	theirs(ctx, t, task, err)
	if err := m.Ping(ctx); err != nil || !m.IsRunning() {
		t.Fatalf("after the start it is %q, %v", m.Status, err)
	}
	task, err = m.Stop(ctx)
	theirs(ctx, t, task, err)
	if err := m.Ping(ctx); err != nil || !m.IsStopped() {
		t.Fatalf("after the stop it is %q, %v", m.Status, err)
	}
	task, err = m.Delete(ctx, nil)
	theirs(ctx, t, task, err)
	if slices.Contains(s.n.guests(t, "qemu"), id) {
		t.Errorf("machine %d is still there", id)
	}
}

// theirContainer does the same with a container.
func (s *spine) theirContainer(ctx context.Context, t *testing.T, c *proxmox.Client, n *proxmox.Node) {
	id := theirNextID(ctx, t, c)
	task, err := n.NewContainer(ctx, id,
		proxmox.ContainerOption{Name: "hostname", Value: "theirs"},
		proxmox.ContainerOption{Name: "ostemplate", Value: s.template(t)},
		proxmox.ContainerOption{Name: "rootfs", Value: "local-lvm:2"},
		proxmox.ContainerOption{Name: "memory", Value: 128},
		proxmox.ContainerOption{Name: "password", Value: rootInside},
		proxmox.ContainerOption{Name: "net0", Value: ctNetwork})
	theirs(ctx, t, task, err)
	list, err := n.Containers(ctx)
	if err != nil || !slices.ContainsFunc(list, func(m *proxmox.Container) bool { return int(m.VMID) == id && m.Name == "theirs" }) {
		t.Fatalf("container %d is not among %+v, %v", id, list, err)
	}
	ct, err := n.Container(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err = ct.Start(ctx)
	theirs(ctx, t, task, err)
	if err := ct.Ping(ctx); err != nil || ct.Status != "running" {
		t.Fatalf("after the start it is %q, %v", ct.Status, err)
	}
	task, err = ct.Stop(ctx)
	theirs(ctx, t, task, err)
	if err := ct.Ping(ctx); err != nil || ct.Status != "stopped" {
		t.Fatalf("after the stop it is %q, %v", ct.Status, err)
	}
	task, err = ct.Delete(ctx, nil)
	theirs(ctx, t, task, err)
	if slices.Contains(s.n.guests(t, "lxc"), id) {
		t.Errorf("container %d is still there", id)
	}
}

func theirNextID(ctx context.Context, t *testing.T, c *proxmox.Client) int {
	t.Helper()
	cluster, err := c.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	id, err := cluster.NextID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// theirs waits for a task of go-proxmox and wants it to succeed.
func theirs(ctx context.Context, t *testing.T, task *proxmox.Task, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Wait(ctx, time.Second, createTime); err != nil {
		t.Fatal(err)
	}
	if !task.IsSuccessful {
		t.Fatalf("task %s: %s", task.UPID, task.ExitStatus)
	}
}
