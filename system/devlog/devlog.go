// Package devlog is the other end of syslog(3): log-ins, PAM and LVM's event
// daemon say what matters there and nowhere else. Messages become lines of one
// of PID 1's own logs.
package devlog

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

// Path is where the C library sends to.
const Path = "/dev/log"

const datagramMax = 8 << 10

// Listen takes messages at path from root's programs until the result is
// closed; line is called for one after the other. Guests' processes run as
// other users and cannot fill the log.
func Listen(path string, line func(string)) (io.Closer, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("listen for log messages: %w", err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for log messages: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		c.Close()
		return nil, fmt.Errorf("listen for log messages: %w", err)
	}
	go func() {
		b := make([]byte, datagramMax)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			for _, l := range Lines(string(b[:n])) {
				line(l)
			}
		}
	}()
	return c, nil
}

var levels = [...]string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// Lines reads a message as glibc writes it, RFC 3164 without the host:
// "<38>Jan  2 03:04:05 login[7]: text". The level stays as a word; the time
// goes, since the log has its own; control characters become "?".
func Lines(message string) (out []string) {
	level, text := "notice", message // the default of RFC 3164, 4.3.3
	if rest, ok := strings.CutPrefix(text, "<"); ok {
		if number, after, ok := strings.Cut(rest, ">"); ok {
			if n, err := strconv.ParseUint(number, 10, 16); err == nil {
				level, text = levels[n%8], after
			}
		}
	}
	text = withoutTime(text)
	for l := range strings.SplitSeq(strings.TrimRight(text, "\n\x00"), "\n") {
		l = strings.Map(func(r rune) rune {
			if r < ' ' && r != '\t' || r == 0x7f {
				return '?'
			}
			return r
		}, l)
		out = append(out, level+" "+l)
	}
	return out
}

// withoutTime drops "Mmm dd hh:mm:ss ".
func withoutTime(s string) string {
	const layout = "Jan  2 03:04:05 "
	if len(s) < len(layout) || s[3] != ' ' || s[6] != ' ' || s[9] != ':' || s[12] != ':' || s[15] != ' ' {
		return s
	}
	return s[len(layout):]
}
