package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"joist/api/client"
	"joist/internal/finding"
)

// careCommands look after one node: its disks, and what is wrong with it.
func (c *cli) careCommands(t *target) []*cobra.Command {
	disk := &cobra.Command{
		Use: "disk", Short: "The disks of a node's system: what each does, and replacing one",
		Long: `The disks that carry a node's system. Each holds all that is needed to start the
node alone; with a mirror the data are on each as well. docs/replace-disk.md has
the rest.

  joist node disk list
  joist node disk replace sda sdc`,
	}
	disk.AddCommand(c.diskList(t), c.diskReplace(t), c.diskRepair(t))
	return []*cobra.Command{disk, c.nodeAlerts(t), c.nodeCheck(t), c.nodeFirstBoot(t), c.nodeReset(t)}
}

// onNode adds --node and returns the path of that node.
func onNode(cmd *cobra.Command) func() string {
	name := cmd.Flags().String("node", "localhost", "`NAME` of the node, where it is another one of the cluster")
	return func() string { return "/nodes/" + url.PathEscape(*name) }
}

func (c *cli) diskList(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "list", Short: "Disks, and what each does for the node's system", Args: cobra.NoArgs}
	at := onNode(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.call(cmd.Context(), *t, request{http.MethodGet, at() + "/disks/list", nil, false},
			output{json: asJSON, columns: []string{"devpath", "size", "type", "model", "serial", "health", "used", "booted", "starts", "data", "data-id", "lacks"}})
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the answer's data as JSON")
	return cmd
}

func (c *cli) diskReplace(t *target) *cobra.Command {
	var overwrite string
	var check bool
	cmd := &cobra.Command{
		Use: "replace OLD NEW", Short: "Put a new disk in the place of another", Args: cobra.ExactArgs(2),
		Long: `Put the disk NEW in the place of OLD: partitions, boot parts, both slots, the
firmware's boot entry, and the data. OLD is a disk's name, or "missing" for one
that is gone. As long as OLD can be read its data stay in use until NEW has
all of them. What stands against it is shown before anything is written. After a
power cut the node goes on by itself; a replacement that failed is begun again
by the same command.`,
		Example: `  joist node disk replace missing sdc
  joist node disk replace sda sdc --check
  joist node disk replace sda sdc --overwrite 0123456789abcdef`,
	}
	at := onNode(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p := client.Params{"old": args[0], "new": args[1]}
		if overwrite != "" {
			p["overwrite"] = overwrite
		}
		api, err := c.connect(cmd.Context(), *t)
		if err != nil {
			return err
		}
		defer api.Close()
		var seen struct {
			Findings finding.List `json:"findings"`
		}
		if err := api.Post(cmd.Context(), at()+"/disks/preview", p, &seen); err != nil {
			return distrust(t.server, err)
		}
		for _, f := range seen.Findings {
			fmt.Fprintln(c.err, f)
		}
		if seen.Findings.Stops() {
			return errShown
		}
		if check {
			return nil
		}
		var upid string
		if err := api.Post(cmd.Context(), at()+"/disks/replace", p, &upid); err != nil {
			return distrust(t.server, err)
		}
		return c.followTask(cmd.Context(), api, upid)
	}
	cmd.Flags().StringVar(&overwrite, "overwrite", "", "`ID` of what NEW holds, as the refusal names it")
	cmd.Flags().BoolVar(&check, "check", false, "only show what stands against it")
	return cmd
}

func (c *cli) diskRepair(t *target) *cobra.Command {
	cmd := &cobra.Command{Use: "repair", Short: "Bring the boot parts of all disks of the system to one state", Args: cobra.NoArgs}
	at := onNode(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		api, err := c.connect(cmd.Context(), *t)
		if err != nil {
			return err
		}
		defer api.Close()
		var upid string
		if err := api.Post(cmd.Context(), at()+"/disks/repair", nil, &upid); err != nil {
			return distrust(t.server, err)
		}
		return c.followTask(cmd.Context(), api, upid)
	}
	return cmd
}

// followTask shows a task's log as it comes and waits for its end.
func (c *cli) followTask(ctx context.Context, api *client.Client, upid string) error {
	shown := 0
	show := func(ctx context.Context) {
		// a node that does not answer for a while is asked again
		lines, err := api.TaskLog(ctx, upid)
		for ; err == nil && shown < len(lines); shown++ {
			fmt.Fprintln(c.err, lines[shown])
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- api.WaitTask(ctx, upid) }()
	for {
		select {
		case err := <-ended:
			var te *client.TaskError
			if errors.As(err, &te) {
				show(ctx)
				return fmt.Errorf("%s", te.Exit)
			}
			if errors.Is(err, context.Canceled) {
				return fmt.Errorf("%w; the task goes on at the node", err)
			}
			show(ctx)
			return err
		case <-time.After(time.Second):
			show(ctx)
		}
	}
}

func (c *cli) nodeAlerts(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "alerts", Short: "What is wrong with a node, with the cure", Args: cobra.NoArgs}
	at := onNode(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.call(cmd.Context(), *t, request{http.MethodGet, at() + "/alerts", nil, false},
			output{json: asJSON, columns: []string{"level", "code", "path", "text", "cure"}})
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the answer's data as JSON")
	return cmd
}

// report is GET /nodes/{node}/check.
type report struct {
	Result string `json:"result"`
	Checks []struct {
		Code    string   `json:"code"`
		Outcome string   `json:"outcome"`
		Waived  bool     `json:"waived"`
		Found   []string `json:"found"`
		Cure    string   `json:"cure"`
	} `json:"checks"`
}

func (c *cli) nodeCheck(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check", Short: "Check a node's machine by the rules of the installer", Args: cobra.NoArgs,
		Long: `Check the machine of a running node by the rules that the installer has: CPU,
memory, firmware, disks of the system, network, clock. What the installation
waived is waived. The exit status is 2 when something stops.`,
		Example: "  joist node check\n  joist node check --json",
	}
	at := onNode(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		api, err := c.connect(cmd.Context(), *t)
		if err != nil {
			return err
		}
		defer api.Close()
		var raw json.RawMessage
		if err := api.Get(cmd.Context(), at()+"/check", nil, &raw); err != nil {
			return distrust(t.server, err)
		}
		var r report
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("read report: %w", err)
		}
		if asJSON {
			err = output{json: true}.write(c.out, raw)
		} else {
			err = c.showReport(r)
		}
		if err == nil && r.Result != "fit" {
			err = errShown
		}
		return err
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the whole report as JSON")
	return cmd
}

// showReport is a line for each check, and the cure where something is wrong.
func (c *cli) showReport(r report) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CHECK\tOUTCOME\tFOUND")
	for _, x := range r.Checks {
		outcome := cell(x.Outcome)
		if x.Waived {
			outcome += " (waived)"
		}
		if len(x.Found) == 0 {
			fmt.Fprintf(w, "%s\t%s\t\n", cell(x.Code), outcome)
		}
		for _, f := range x.Found {
			fmt.Fprintf(w, "%s\t%s\t%s\n", cell(x.Code), outcome, cell(f))
		}
		if len(x.Found) > 0 && x.Cure != "" && x.Outcome != "note" && x.Outcome != "unknown" {
			fmt.Fprintf(w, "\t\tcure: %s\n", cell(x.Cure))
		}
	}
	fmt.Fprintf(w, "\nThis machine is %s.\n", cell(r.Result))
	return w.Flush()
}

func (c *cli) nodeFirstBoot(t *target) *cobra.Command {
	var asJSON, clear bool
	cmd := &cobra.Command{Use: "first-boot", Short: "How far a node's first start is, or how it went", Args: cobra.NoArgs}
	at := onNode(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if clear {
			return c.call(cmd.Context(), *t, request{http.MethodDelete, at() + "/firstboot", nil, false}, output{})
		}
		api, err := c.connect(cmd.Context(), *t)
		if err != nil {
			return err
		}
		defer api.Close()
		var raw json.RawMessage
		if err := api.Get(cmd.Context(), at()+"/firstboot", nil, &raw); err != nil {
			return distrust(t.server, err)
		}
		if !asJSON {
			var j struct {
				Steps json.RawMessage `json:"steps"`
			}
			if err := json.Unmarshal(raw, &j); err != nil {
				return fmt.Errorf("read first start: %w", err)
			}
			raw = j.Steps
		}
		return output{json: asJSON, columns: []string{"name", "state", "detail"}}.write(c.out, raw)
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the answer's data as JSON")
	cmd.Flags().BoolVar(&clear, "clear", false, "take what failed as dealt with, and erase the program")
	return cmd
}
