// Command joist-lxc does one operation on one container through liblxc. It
// keeps cgo and liblxc's forking out of joistd, and a fault of liblxc from
// taking joistd along. Built with the tag liblxc; without it (machines without
// liblxc's headers) every operation fails with a sentence that says so.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"joist/hypervisor/guest/lxc/wire"
)

func main() {
	reply, err := run(os.Stdin)
	if err != nil {
		reply.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(reply); err != nil {
		fmt.Fprintln(os.Stderr, "joist-lxc:", err)
		os.Exit(1)
	}
}

// run reads the request byte by byte up to the end of its line, because what
// follows on stdin is not ours: Console waits for its end.
func run(stdin io.Reader) (wire.Reply, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := stdin.Read(b); err != nil {
			return wire.Reply{}, fmt.Errorf("read request: %w", err)
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	var r wire.Request
	if err := json.Unmarshal(line, &r); err != nil {
		return wire.Reply{}, fmt.Errorf("read request: %w", err)
	}
	if r.Op == wire.Hold {
		return wire.Reply{}, hold(r)
	}
	return do(r, stdin)
}
