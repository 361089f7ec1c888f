package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// nodeCrashes lists, shows and deletes crashes of a node's kernel.
func (c *cli) nodeCrashes(t *target) *cobra.Command {
	var show, remove string
	cmd := &cobra.Command{
		Use: "crashes [NODE]", Short: "What a node's kernel said when it crashed", Args: cobra.MaximumNArgs(1),
		Long: `List the crashes of a node's kernel that the firmware has kept and nobody has
deleted yet; the dashboard shows them as a problem until then. At most 16 are
kept.`,
		Example: "  joist node crashes\n  joist node crashes --show 20261129T010203-0-panic\n  joist node crashes node2 --delete 20261129T010203-0-panic",
		RunE: func(cmd *cobra.Command, args []string) error {
			at := "/nodes/" + nodeArg(args) + "/crashes"
			switch {
			case show != "":
				api, err := c.connect(cmd.Context(), *t)
				if err != nil {
					return err
				}
				defer api.Close()
				var text string
				if err := api.Get(cmd.Context(), at+"/"+url.PathEscape(show), nil, &text); err != nil {
					return distrust(t.server, err)
				}
				_, err = fmt.Fprintln(c.out, printable(text))
				return err
			case remove != "":
				return c.call(cmd.Context(), *t, request{http.MethodDelete, at + "/" + url.PathEscape(remove), nil, false}, output{})
			}
			return c.call(cmd.Context(), *t, request{http.MethodGet, at, nil, false}, output{columns: []string{"id", "time", "reason", "size"}})
		},
	}
	cmd.Flags().StringVar(&show, "show", "", "print the crash `ID`")
	cmd.Flags().StringVar(&remove, "delete", "", "delete the crash `ID`, which was looked at")
	cmd.MarkFlagsMutuallyExclusive("show", "delete")
	return cmd
}

// printable keeps what a kernel said from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// nodeSupport fetches a support bundle.
func (c *cli) nodeSupport(t *target) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "support [NODE]", Short: "Write a node's logs, facts and versions to a file, without secrets", Args: cobra.MaximumNArgs(1),
		Long: `Write a gzipped tar archive with what is needed to find a fault: logs, plan and
report of the installation, facts and findings, versions, the kernel's messages,
disks. Keys, password hashes and tokens are not in it; look through it before you
send it all the same. Without network "joist-init support" does the same in a
shell of the node, the installer and the rescue system.`,
		Example: "  joist node support\n  joist node support node2 --out bundle.tar.gz",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.connect(cmd.Context(), *t)
			if err != nil {
				return err
			}
			defer api.Close()
			var b struct{ Name, Content string }
			if err := api.Get(cmd.Context(), "/nodes/"+nodeArg(args)+"/support", nil, &b); err != nil {
				return distrust(t.server, err)
			}
			data, err := base64.StdEncoding.DecodeString(b.Content)
			if err != nil {
				return fmt.Errorf("read support bundle: %w", err)
			}
			if out == "" {
				if out = b.Name; out != filepath.Base(out) || !strings.HasPrefix(out, "joist-support-") {
					return fmt.Errorf("the node calls the file %q; name one with --out", out)
				}
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.Write(data)
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return fmt.Errorf("write %s: %w", out, err)
			}
			_, err = fmt.Fprintln(c.out, out)
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write, which must not be there; default: the node's name and the time, here")
	return cmd
}
