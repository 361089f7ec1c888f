package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"joist/api/client"
	"joist/internal/progress"
)

// verb is one subcommand of "joist api" and the HTTP method behind it.
type verb struct {
	name, method, short, example string
}

func verbs() []verb {
	return []verb{
		{"get", http.MethodGet, "Read something", `  joist api get /nodes
  joist api get /cluster/resources type=vm --columns vmid,name,status
  joist api get /nodes/node1/storage/local/content content=iso --json`},
		{"create", http.MethodPost, "Create something, or make it do something", `  joist api create /nodes/node1/qemu vmid=100 name=web memory=2048 \
      scsihw=virtio-scsi-single scsi0=local-lvm:8 ide2=local:iso/debian.iso,media=cdrom \
      net0=virtio,bridge=vmbr0 serial0=socket
  joist api create /nodes/node1/qemu/100/status/start
  joist api create /nodes/node1/lxc vmid=200 hostname=c1 rootfs=local-lvm:4 \
      ostemplate=local:vztmpl/debian-13-standard_0.1.0-1_amd64.tar.zst \
      net0=name=eth0,bridge=vmbr0,ip=dhcp password=@password.txt`},
		{"set", http.MethodPut, "Change something", `  joist api set /nodes/node1/qemu/100/config memory=4096 delete=net1`},
		{"delete", http.MethodDelete, "Delete something", `  joist api delete /nodes/node1/qemu/100 purge=1
  joist api delete /nodes/node1/storage/local/content/local:iso/debian.iso`},
	}
}

func (c *cli) apiCommand() *cobra.Command {
	var t target
	group := &cobra.Command{
		Use:   "api",
		Short: "Talk to the API of a node",
		Long: `Talks to the API of a node. Which node and as whom:

  JOIST_SERVER       https://192.0.2.10:8006 (or --server); on a node, root needs none
  JOIST_FINGERPRINT  of the node's certificate, as its screen shows it (or --fingerprint)
  JOIST_USER         root@pam unless set (or --user)
  JOIST_PASSWORD     asked for on the terminal unless set
  JOIST_TOKEN        root@pam!name=secret: an API token instead of a password

Paths and parameters are those of the API (docs/api.md): a parameter is
key=value; key=@FILE takes the value from a file, key=@- from standard input.
What starts a task waits for its end, unless --no-wait is given; a task that
fails ends with its log and exit status 1.`,
		Example: `  joist api get /nodes
  joist api upload node1 local iso debian.iso
  joist api create /nodes/node1/qemu/100/status/start
  joist api console /nodes/node1/qemu/100`,
	}
	t.flags(group)
	for _, v := range verbs() {
		group.AddCommand(c.verbCommand(v, &t))
	}
	group.AddCommand(c.uploadCommand(&t), c.consoleCommand(&t))
	return group
}

func (c *cli) verbCommand(v verb, t *target) *cobra.Command {
	var out output
	var noWait bool
	cmd := &cobra.Command{
		Use:     v.name + " PATH [key=value …]",
		Short:   v.short + " (" + v.method + ")",
		Long:    v.short + " (" + v.method + "). How the node is found and parameters are written: joist api --help.",
		Example: v.example,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := apiPath(args[0])
			if err != nil {
				return usagef(cmd, "%w", err)
			}
			p, err := c.params(cmd, args[1:])
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), *t, request{v.method, path, p, !noWait}, out)
		},
	}
	cmd.Flags().BoolVar(&out.json, "json", false, "the answer's data as JSON instead of a table")
	cmd.Flags().StringSliceVar(&out.columns, "columns", nil, "`NAMES` of a table's columns, in order")
	if v.method != http.MethodGet {
		cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the task that was started")
	}
	return cmd
}

// apiPath escapes a path: volume and task ids hold what URLs give a meaning.
func apiPath(s string) (string, error) {
	s = strings.TrimPrefix(s, "/api2/json")
	if s == "" || strings.Contains(s, "://") {
		return "", fmt.Errorf("%q is not a path of the API, like /nodes", s)
	}
	return (&url.URL{Path: "/" + strings.TrimPrefix(s, "/")}).EscapedPath(), nil
}

// request is one call of the API.
type request struct {
	method, path string
	params       client.Params
	wait         bool
}

func (c *cli) call(ctx context.Context, t target, r request, out output) error {
	api, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer api.Close()
	var raw json.RawMessage
	if err := api.Do(ctx, r.method, r.path, r.params, &raw); err != nil {
		return distrust(t.server, err)
	}
	if err := out.write(c.out, raw); err != nil {
		return err
	}
	var upid string
	if !r.wait || r.method == http.MethodGet || json.Unmarshal(raw, &upid) != nil || !strings.HasPrefix(upid, "UPID:") {
		return nil
	}
	return c.waitTask(ctx, api, upid)
}

// waitTask waits for a task and says on standard error how it ended.
func (c *cli) waitTask(ctx context.Context, api *client.Client, upid string) error {
	name := "task"
	if f := strings.Split(upid, ":"); len(f) > 6 {
		name = strings.TrimSpace("task " + f[5] + " " + f[6])
	}
	err := progress.Lines(c.err).Do(name, func(func(n, of int64)) error { return api.WaitTask(ctx, upid) })
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w; the task goes on at the node", err)
	}
	return errors.Unwrap(err) // the task's own words name it
}
