package answer

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"joist/internal/finding"
)

// address checks an http or https address.
func (c *checker) address(key, v string, hint string) (scheme string) {
	u, err := WebAddress(v)
	if err != nil {
		c.stop(key, "answer-wrong-value", hint, "%s is no http or https address", key)
		return ""
	}
	return u.Scheme
}

// fingerprint checks a SHA-256, with colons or without.
func (c *checker) fingerprint(key, v string) {
	if !hexDigits.MatchString(strings.ReplaceAll(v, ":", "")) {
		c.stop(key, "answer-wrong-value", "write 64 hex digits, as `openssl x509 -noout -fingerprint -sha256` prints them", "%s is not a SHA-256 fingerprint", key)
	}
}

// hooks checks webhook and first-boot program.
func (c *checker) hooks() {
	const hook, boot = "post-installation-webhook.", "first-boot."
	w := c.a.Webhook
	hasURL := c.given(hook+"url", w.URL != "")
	pinned, token := c.given(hook+"cert-fingerprint", w.Fingerprint != ""), c.given(hook+"auth-token", w.Token != "")
	scheme := ""
	if hasURL && !c.a.bad[hook+"url"] {
		scheme = c.address(hook+"url", w.URL.Reveal(), "write where the report is posted, like \"https://example.com/installed\"")
	}
	if !hasURL && (pinned || token) {
		c.missing(hook+"url", "add url = \"https://…\"")
	}
	if pinned && !c.a.bad[hook+"cert-fingerprint"] {
		c.pin(hook, w.Fingerprint, scheme)
	}
	if token && scheme == "http" {
		p := c.a.at[hook+"auth-token"]
		c.fs.Add(finding.Finding{Level: finding.Warn, Code: "answer-token-in-clear", Path: c.path(hook+"auth-token", p), Line: p.line, Column: p.column, Source: p.source,
			Text: "the webhook's token is sent over a connection that is not encrypted", Hint: "use an https address"})
	}
	f := c.a.FirstBoot
	hasSource, hasAddr := c.given(boot+"source", f.Source != ""), c.given(boot+"url", f.URL != "")
	pinned = c.given(boot+"cert-fingerprint", f.Fingerprint != "")
	scheme = ""
	if hasAddr && !c.a.bad[boot+"url"] {
		scheme = c.address(boot+"url", f.URL.Reveal(), "write where the program is fetched, like \"https://example.com/first-boot\"")
	}
	switch {
	case !hasSource && (hasAddr || pinned || c.given(boot+"ordering", f.Ordering != "")):
		c.missing(boot+"source", "add source = \"from-url\" or \"from-iso\"")
	case f.Source == FromURL && !hasAddr:
		c.missing(boot+"url", "add url = \"https://…\"")
	case f.Source == FromISO && (hasAddr || pinned):
		c.stop(boot+"source", "answer-conflict", "remove url and cert-fingerprint, or set source = \"from-url\"", "a program on the medium is not fetched")
	}
	if pinned && !c.a.bad[boot+"cert-fingerprint"] {
		c.pin(boot, f.Fingerprint, scheme)
	}
}

// pin checks the fingerprint that belongs to an address.
func (c *checker) pin(table, v, scheme string) {
	c.fingerprint(table+"cert-fingerprint", v)
	if scheme == "http" {
		c.stop(table+"cert-fingerprint", "answer-conflict", "use an https address", "%scert-fingerprint has no meaning with an http address: it shows no certificate", table)
	}
}

// joist checks what is left of our own tables.
func (c *checker) joist() {
	for _, w := range c.a.Waive {
		if !code.MatchString(w) {
			c.stop("joist.waive.codes", "answer-wrong-value", "use codes as findings print them, like \"cpu-virtualisation\"", "%q is not the code of a finding", w)
		}
	}
	const installation, mirror, over, adopt = "joist.install.installation", "joist.install.apt-mirror", "joist.disk.overwrite", "joist.disk.adopt"
	in := c.a.Install
	if c.given(installation, in.Installation != "") && !c.a.bad[installation] && !hexID.MatchString(in.Installation) {
		c.stop(installation, "answer-wrong-value", "write the 16 hex digits that the installer printed", "installation = %q is not an installation id", in.Installation)
	}
	if c.given(mirror, in.AptMirror != "") && !c.a.bad[mirror] {
		c.address(mirror, in.AptMirror, "write the base URL of a Debian mirror, like \"http://mirror.example.org/debian\"")
	}
	for _, id := range c.a.Disk.Overwrite {
		if !hexID.MatchString(id) {
			c.stop(over, "answer-wrong-value", "write the 16 hex digits that the finding disk-holds-data prints", "%q is not the id of data on a disk", id)
		}
	}
	if c.a.Disk.Adopt && !in.Reinstall && in.Installation == "" && !c.a.bad[installation] {
		c.stop(adopt, "answer-conflict", "add [joist.install] installation = \"…\" (or reinstall = true)", "adopt says to keep the data of an installation, and none is to be replaced")
	}
	c.cluster()
}

// cluster checks [joist.cluster]: all of it or nothing.
func (c *checker) cluster() {
	const at = "joist.cluster."
	x := c.a.Cluster
	has := map[string]bool{"address": c.given(at+"address", x.Address != ""), "token": c.given(at+"token", x.Token != ""), "fingerprint": c.given(at+"fingerprint", x.Fingerprint != "")}
	if !has["address"] && !has["token"] && !has["fingerprint"] {
		return
	}
	for _, k := range []string{"address", "token", "fingerprint"} {
		if !has[k] {
			c.missing(at+k, "add "+k+" = \"…\", as the member that made the token shows it")
		}
	}
	if has["address"] && !c.a.bad[at+"address"] && !hostPort(x.Address) {
		c.stop(at+"address", "answer-wrong-value", "write a member's name or address, like \"node1.example.com\" or \"192.0.2.10:8006\"", "address = %q is not a host or host:port", x.Address)
	}
	if t := x.Token.Reveal(); has["token"] && !c.a.bad[at+"token"] && (len(t) < 16 || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r >= 0x7f })) {
		c.stop(at+"token", "answer-wrong-value", "copy the whole token", "token is not a join token")
	}
	if has["fingerprint"] && !c.a.bad[at+"fingerprint"] {
		c.fingerprint(at+"fingerprint", x.Fingerprint)
	}
}

// hostPort says whether s is a host name or address with a port or without.
func hostPort(s string) bool {
	host := strings.Trim(s, "[]")
	if h, port, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
		host = h
	}
	_, err := netip.ParseAddr(host)
	return err == nil || HostName(host) == ""
}
