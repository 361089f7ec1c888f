package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"joist/api/client"
)

// nodeCommand is the life of a node in a cluster.
func (c *cli) nodeCommand() *cobra.Command {
	var t target
	group := &cobra.Command{
		Use:   "node",
		Short: "Look after nodes: clusters, disks, what is wrong",
		Long: `Nodes become a cluster by joining one that is there; a node alone is a cluster
of one. The node that a command talks to is found as for joist api; run by root
on a node without --server it is that node itself.

  on a node of the cluster    joist node token
  on the node that joins      joist node join ADDRESS --cluster-fingerprint SHA256
  on any of them              joist node list
  what is wrong with a node   joist node alerts
  its disks                   joist node disk list

A node that joins keeps its guests. VMIDs that exist on both sides stop the
join unless --renumber says what to do. docs/cluster.md has the rest: what goes
on without a quorum, and what to do when nodes are lost.`,
	}
	t.flags(group)
	group.AddCommand(c.nodeList(&t), c.nodeToken(&t), c.nodeJoin(&t), c.nodeState(&t),
		c.nodeTask(&t, "leave [NODE]", "Take a node out of its cluster; its guests stay with it", "leave",
			"  joist node leave\n  joist node leave node3 --server node1"),
		c.nodeTask(&t, "recover [NODE]", "Make a node that lost the others for good a cluster of one", "recover",
			"  joist node recover"),
		c.nodeRemove(&t), c.nodeCrashes(&t), c.nodeSupport(&t))
	group.AddCommand(c.careCommands(&t)...)
	return group
}

func (c *cli) nodeList(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Nodes of the cluster and their part in its store", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), *t, request{http.MethodGet, "/cluster/config/nodes", nil, false},
				output{columns: []string{"node", "nodeid", "online", "member", "state", "ring0_addr", "version"}})
		},
	}
}

// joinToken is what POST /cluster/config/token answers.
type joinToken struct {
	Token       string    `json:"token"`
	Expires     time.Time `json:"expires"`
	Fingerprint string    `json:"fingerprint"`
	Address     string    `json:"address"`
}

func (c *cli) nodeToken(t *target) *cobra.Command {
	var forNode string
	var life time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use: "token", Short: "Make a token with which one machine can join", Args: cobra.NoArgs,
		Example: "  joist node token\n  joist node token --for node2 --expire 24h --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.connect(cmd.Context(), *t)
			if err != nil {
				return err
			}
			defer api.Close()
			p := client.Params{"expire": strconv.Itoa(int(life.Seconds()))}
			if forNode != "" {
				p["for"] = forNode
			}
			var raw json.RawMessage
			if err := api.Post(cmd.Context(), "/cluster/config/token", p, &raw); err != nil {
				return distrust(t.server, err)
			}
			var j joinToken
			if err := json.Unmarshal(raw, &j); err != nil {
				return err
			}
			if err := c.awaitCluster(cmd.Context(), api); err != nil {
				return err
			}
			if asJSON {
				return output{json: true}.write(c.out, raw)
			}
			fmt.Fprintf(c.out, `Token        %s
Fingerprint  %s
Good for     one join until %s

On the machine that joins, as root (it asks for the token):
  joist node join %s --cluster-fingerprint %s

Or in its answer file, before it is installed:
  [joist.cluster]
  address = %q
  fingerprint = %q
  token = %q
`, j.Token, j.Fingerprint, j.Expires.Local().Format(time.DateTime), j.Address, j.Fingerprint, j.Address, j.Fingerprint, j.Token)
			return nil
		},
	}
	cmd.Flags().StringVar(&forNode, "for", "", "`NAME` of the only node that it admits")
	cmd.Flags().DurationVar(&life, "expire", time.Hour, "how long it is good")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the answer's data as JSON")
	return cmd
}

// awaitCluster waits until the node can be joined: one that was alone begins
// anew as a cluster.
func (c *cli) awaitCluster(ctx context.Context, api *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	time.Sleep(time.Second) // it answers before it begins anew
	for {
		var v struct {
			Fingerprint string `json:"fingerprint"`
		}
		err := api.Get(ctx, "/cluster/config/join", nil, &v)
		if err == nil && v.Fingerprint != "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the node to become a cluster: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (c *cli) nodeJoin(t *target) *cobra.Command {
	var fingerprint, renumber, tokenFile string
	var check bool
	cmd := &cobra.Command{
		Use: "join ADDRESS", Short: "Join the cluster that a node at ADDRESS belongs to", Args: cobra.ExactArgs(1),
		Long: `Join the cluster that the node at ADDRESS belongs to. The token is asked for,
or read from --token-file or JOIST_JOIN_TOKEN: it must not be seen in a list of
processes. What stands against the join is shown before anything changes; a join
that breaks leaves both sides as they were.`,
		Example: `  joist node join 192.0.2.10 --cluster-fingerprint AA:BB:… --check
  joist node join 192.0.2.10 --cluster-fingerprint AA:BB:… --renumber auto
  joist node join 192.0.2.10 --cluster-fingerprint AA:BB:… --renumber 100=300,101=301`,
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := c.joinSecret(tokenFile)
			if err != nil {
				return err
			}
			p := client.Params{"hostname": args[0], "fingerprint": fingerprint, "token": token}
			if p["renumber"], err = renumbering(renumber); err != nil {
				return usagef(cmd, "%w", err)
			}
			if p["renumber"] == "" {
				delete(p, "renumber")
			}
			if check {
				return c.call(cmd.Context(), *t, request{http.MethodPost, "/cluster/config/preview", p, false}, output{})
			}
			return c.operate(cmd.Context(), *t, "localhost", http.MethodPost, "/cluster/config/join", p)
		},
	}
	cmd.Flags().StringVar(&fingerprint, "cluster-fingerprint", "", "SHA-256 of the cluster's certificate, as joist node token shows it, or of that node's own")
	cmd.Flags().StringVar(&renumber, "renumber", "", "auto, or `OLD=NEW,…` VMIDs of this node's guests")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "`FILE` that holds the token, - for standard input")
	cmd.Flags().BoolVar(&check, "check", false, "only show what would happen and what stands against it")
	if err := cmd.MarkFlagRequired("cluster-fingerprint"); err != nil {
		panic(err) // the flag is three lines above
	}
	return cmd
}

func (c *cli) joinSecret(file string) (string, error) {
	if file != "" {
		s, err := c.readValue(file)
		return strings.TrimSpace(s), err
	}
	if s := c.env("JOIST_JOIN_TOKEN"); s != "" {
		return s, nil
	}
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", errors.New("no token: use --token-file, or set JOIST_JOIN_TOKEN")
	}
	fmt.Fprint(c.err, "Token: ")
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(c.err)
	return strings.TrimSpace(string(b)), err
}

// renumbering writes "100=300,101=301" the way the API takes it.
func renumbering(s string) (string, error) {
	if s == "" || s == "auto" {
		return s, nil
	}
	ids := map[string]int{}
	for part := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(part, "=")
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if !ok || err1 != nil || err2 != nil {
			return "", fmt.Errorf("--renumber: %q is not OLD=NEW", part)
		}
		ids[strconv.Itoa(a)] = b
	}
	b, err := json.Marshal(ids)
	return string(b), err
}

func (c *cli) nodeState(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "status [NODE]", Short: "How a join, leave or recovery goes, or went", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), *t, request{http.MethodGet, "/nodes/" + nodeArg(args) + "/membership", nil, false}, output{})
		},
	}
}

func nodeArg(args []string) string {
	if len(args) == 0 {
		return "localhost"
	}
	return url.PathEscape(args[0])
}

func (c *cli) nodeTask(t *target, use, short, call, example string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: example, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			node := nodeArg(args)
			return c.operate(cmd.Context(), *t, node, http.MethodPost, "/nodes/"+node+"/membership/"+call, nil)
		},
	}
}

func (c *cli) nodeRemove(t *target) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Remove a node that is gone for good", Args: cobra.ExactArgs(1),
		Long: `Remove a node that is gone for good. It must be away: one that is there leaves
with joist node leave. If it has guests, their configurations go with it and are
kept in the task's log; that needs --force.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := client.Params{}
			if force {
				p["force"] = "1"
			}
			return c.call(cmd.Context(), *t, request{http.MethodDelete, "/cluster/config/nodes/" + nodeArg(args), p, true}, output{})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if it has guests")
	return cmd
}

// membership is GET /nodes/{node}/membership.
type membership struct {
	Operation string `json:"operation"`
	State     string `json:"state"`
	Running   int    `json:"running"`
	Reason    string `json:"reason"`
	Error     string `json:"error"`
	Time      int64  `json:"time"`
	Findings  []struct {
		Text, Hint string
	} `json:"findings"`
}

// operate starts an operation on a node's membership and follows it over the
// restart of the node's API.
func (c *cli) operate(ctx context.Context, t target, node, method, path string, p client.Params) error {
	api, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer api.Close()
	at := "/nodes/" + node + "/membership"
	var before membership
	if err := api.Get(ctx, at, nil, &before); err != nil {
		return distrust(t.server, err)
	}
	if err := api.Do(ctx, method, path, p, nil); err != nil {
		return distrust(t.server, err)
	}
	return follow(ctx, api, at, before, c.err)
}

// operationTime is how long an operation may take to show itself again.
const operationTime = 15 * time.Minute

func follow(ctx context.Context, api *client.Client, at string, before membership, say io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, operationTime)
	defer cancel()
	said := ""
	for {
		var m membership
		err := api.Get(ctx, at, nil, &m)
		if err == nil && (m.Running == 1 || m.Time != before.Time || m.State != before.State) && m.State != "" {
			line := m.Operation + ": " + m.State
			if m.Error != "" {
				line += " (" + m.Error + ")"
			}
			if line != said {
				said = line
				fmt.Fprintln(say, line)
			}
			switch {
			case m.Running == 1:
			case m.State == "done":
				return nil
			default:
				return errors.New(m.reason())
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

func (m membership) reason() string {
	s := m.Operation + " came to nothing: " + m.Reason
	for _, f := range m.Findings {
		s += "\n  " + f.Text
		if f.Hint != "" {
			s += "\n    cure: " + f.Hint
		}
	}
	return s
}
