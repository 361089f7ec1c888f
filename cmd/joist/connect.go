package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"joist/api/client"
	"joist/api/node"
)

// localSocket is where joistd serves root on its own node.
const localSocket = node.RunDir + "/joistd.sock"

// target says which node a command talks to and as whom.
type target struct {
	server, user, fingerprint string
}

func (t *target) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&t.server, "server", "", "`URL` of a node, https://host:8006 (default: JOIST_SERVER; on a node, as root: its own socket)")
	f.StringVar(&t.user, "user", "", "who logs in (default: JOIST_USER, else root@pam)")
	f.StringVar(&t.fingerprint, "fingerprint", "", "SHA-256 of the node's certificate, as its dashboard shows it (default: JOIST_FINGERPRINT)")
}

// connect makes a client that is logged in.
func (c *cli) connect(ctx context.Context, t target) (*client.Client, error) {
	first := func(list ...string) string {
		for _, s := range list {
			if s != "" {
				return s
			}
		}
		return ""
	}
	server := first(t.server, c.env("JOIST_SERVER"))
	if server == "" {
		if _, err := os.Stat(localSocket); err == nil {
			return client.New(client.Options{Socket: localSocket})
		}
		return nil, errors.New("which node? Set JOIST_SERVER or --server to its URL, like https://192.0.2.10:8006")
	}
	o := client.Options{URL: serverURL(server), Fingerprint: first(t.fingerprint, c.env("JOIST_FINGERPRINT")), Token: c.env("JOIST_TOKEN")}
	api, err := client.New(o)
	if err != nil || o.Token != "" {
		return api, err
	}
	user := first(t.user, c.env("JOIST_USER"), "root@pam")
	password := c.env("JOIST_PASSWORD")
	if password == "" {
		if password, err = c.askPassword(user); err != nil {
			return nil, err
		}
	}
	if err := api.Login(ctx, user, password); err != nil {
		return nil, distrust(o.URL, err)
	}
	return api, nil
}

// serverURL completes what people write: "node1", "192.0.2.10:8006".
func serverURL(s string) string {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s // client.New says what is wrong with it
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "8006")
	}
	return u.String()
}

// askPassword asks on the terminal, if there is one.
func (c *cli) askPassword(user string) (string, error) {
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", errors.New("no password: set JOIST_PASSWORD, or JOIST_TOKEN to an API token (root@pam!name=secret)")
	}
	fmt.Fprintf(c.err, "Password of %s: ", user)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(c.err)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(b), nil
}

// distrust says what to do about a certificate that nobody vouches for: a
// node's own, until it is given another.
func distrust(server string, err error) error {
	var bad *tls.CertificateVerificationError
	if !errors.As(err, &bad) || len(bad.UnverifiedCertificates) == 0 {
		return err
	}
	sum := sha256.Sum256(bad.UnverifiedCertificates[0].Raw)
	print := strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
	return fmt.Errorf("no authority that this machine trusts vouches for %s (%w).\nIts certificate has the fingerprint\n  %s\n"+
		"If the node's own screen shows the same one, repeat the command with --fingerprint and it, or set JOIST_FINGERPRINT", server, bad.Err, print)
}

// params reads "key=value" arguments. "key=@FILE" takes the value from a file
// and "key=@-" from standard input, so that secrets stay out of argument
// vectors.
func (c *cli) params(cmd *cobra.Command, args []string) (client.Params, error) {
	p := client.Params{}
	for _, a := range args {
		key, value, ok := strings.Cut(a, "=")
		if !ok || key == "" {
			return nil, usagef(cmd, "%q is not key=value", a)
		}
		if _, twice := p[key]; twice {
			return nil, usagef(cmd, "%q is given twice", key)
		}
		if name, isFile := strings.CutPrefix(value, "@"); isFile {
			text, err := c.readValue(name)
			if err != nil {
				return nil, fmt.Errorf("read value of %q: %w", key, err)
			}
			value = text
		}
		p[key] = value
	}
	return p, nil
}

// maxValue bounds a value from a file; the node takes bodies of 512 KiB.
const maxValue = 512 << 10

func (c *cli) readValue(name string) (string, error) {
	r := c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxValue+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxValue {
		return "", errors.New("it is larger than 512 KiB")
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}
