package peer

import (
	"bytes"
	"fmt"
	"os"

	"joist/api/node"
)

const (
	hostsBegin = "# nodes of the cluster; kept by joistd\n"
	hostsEnd   = "# end of the nodes\n"
)

// WriteHosts puts lines into a hosts(5) file, in the place of those it put
// there last.
func WriteHosts(file, lines string) error {
	old, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("write names of nodes: %w", err)
	}
	text := replaceHosts(old, lines)
	if bytes.Equal(old, text) {
		return nil
	}
	if err := node.WriteFile(file, 0o644, text); err != nil {
		return fmt.Errorf("write names of nodes: %w", err)
	}
	return nil
}

func replaceHosts(old []byte, lines string) []byte {
	head, rest, found := bytes.Cut(old, []byte(hostsBegin))
	var tail []byte
	if found {
		_, tail, _ = bytes.Cut(rest, []byte(hostsEnd))
	} else if len(head) > 0 && head[len(head)-1] != '\n' {
		head = append(bytes.Clone(head), '\n')
	}
	out := bytes.Clone(head)
	if lines != "" {
		out = append(out, hostsBegin+lines+hostsEnd...)
	}
	return append(out, tail...)
}
