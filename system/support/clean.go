package support

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"joist/api/node"
)

var hostName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,62}$`)

// gone stands where a secret was.
const gone = "***"

// shapes are what secrets look like, and what is left of each.
var shapes = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`), gone},
	{regexp.MustCompile(`(?im)(authorization|cookie)(["']?\s*[:=]\s*)[^\r\n]+`), "${1}${2}" + gone},
	{regexp.MustCompile(`(?i)\b(PVEAPIToken|PVEAuthCookie)=[^\s"',;]+`), "${1}=" + gone},
	{regexp.MustCompile(`\bPVE(?:VNC|TERM)?:[^\s"']+`), "PVE:" + gone},
	// "password", root_password, token-secret … with a value behind ":" or "="
	{regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:password|passwd|passphrase|secret|token|ticket|credential|private[-_]?key|api[-_]?key)[a-z0-9_.-]*["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;&}\]]+)`), "${1}" + gone},
	{regexp.MustCompile(`\$(?:y|gy|7|6|5|1|2[abxy]?)\$[./A-Za-z0-9$=,-]{8,}`), gone}, // crypt(5)
	{regexp.MustCompile(`\bjoist-[0-9A-Za-z]+-[0-9A-Za-z_-]{16,}`), gone},            // tokens to join
	{regexp.MustCompile(`(?i)(bearer\s+)[0-9A-Za-z._~+/=-]{8,}`), "${1}" + gone},
	{regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^\s/@"']+@`), "${1}" + gone + "@"},
	// addresses of answers and images, which may be known to few
	{regexp.MustCompile(`\b(joist\.(?:answer|image)=[a-z]+://[^\s/?#"']+)[/?#][^\s"']*`), "${1}/" + gone},
}

// cleaner takes secrets out of texts.
type cleaner struct{ known []string }

// cleaner knows the secrets of this machine's own files.
func (m Machine) cleaner() cleaner {
	var c cleaner
	for _, state := range []string{"/var", "/mnt/state"} {
		at := func(name string) string { return filepath.Join(m.Root, state, strings.TrimPrefix(name, "/var")) }
		if b, err := os.ReadFile(at(node.ShadowFile)); err == nil {
			c.knows(string(b))
		}
		var j node.JoinRequest
		if b, err := os.ReadFile(at(node.JoinFile)); err == nil && json.Unmarshal(b, &j) == nil {
			c.knows(j.Token)
		}
	}
	return c
}

// knows remembers a secret; what is shorter would be found everywhere.
func (c *cleaner) knows(s string) {
	if s = strings.TrimSpace(s); len(s) >= 8 {
		c.known = append(c.known, s)
	}
}

func (c cleaner) text(b []byte) []byte {
	for _, s := range c.known {
		b = bytes.ReplaceAll(b, []byte(s), []byte(gone))
	}
	for _, s := range shapes {
		b = s.re.ReplaceAll(b, []byte(s.with))
	}
	return b
}
