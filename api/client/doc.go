// Package client speaks the node's REST API (the protocol of Proxmox VE's
// /api2/json): tickets with CSRF tokens, tasks, uploads and consoles.
//
//	c, err := client.New(client.Options{URL: "https://node:8006", Fingerprint: "AB:CD:…"})
//	err = c.Login(ctx, "root@pam", password)
//	var v struct{ Version string }
//	err = c.Get(ctx, "/version", nil, &v)
//	err = c.Task(ctx, http.MethodPost, "/nodes/n1/qemu/100/status/start", nil)
//
// It knows the protocol, not the methods: paths and parameters are the
// caller's, as in `joist api`.
package client
